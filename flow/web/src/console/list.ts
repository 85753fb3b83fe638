import { useState } from "preact/hooks";
import type { Query } from "../shared/api";
import type { Loaded } from "../shared/use_load";
import { useGet } from "./load";

/** What every list of the API answers beside its rows. */
export interface Paged {
  next_cursor: string | null;
}

/** The page of a list that is shown, and the way to the others. */
export interface Listed<Answer extends Paged> extends Loaded<Answer> {
  pages: ReturnType<typeof usePages>;
}

/** A list, page by page. Its newest page alone is asked for again, every so many seconds. */
export function useList<Answer extends Paged>(
  path: string,
  query: Query = {},
  everySecs: number | null = null,
): Listed<Answer> {
  const pages = usePages(query);
  const { cursor } = pages;
  const page = useGet<Answer>(path, { ...query, cursor }, cursor === null ? everySecs : null);
  return { ...page, pages };
}

/** The pages of a list by cursors: the way back is the cursors that led here. */
function usePages(query: Query) {
  const identity = JSON.stringify(query);
  const [state, setState] = useState<{ identity: string; cursors: string[] }>({
    identity,
    cursors: [],
  });
  const cursors = state.identity === identity ? state.cursors : [];
  return {
    cursor: cursors.at(-1) ?? null,
    number: cursors.length + 1,
    next: (cursor: string) => setState({ identity, cursors: [...cursors, cursor] }),
    back: () => setState({ identity, cursors: cursors.slice(0, -1) }),
  };
}
