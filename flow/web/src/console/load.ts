import { useEffect } from "preact/hooks";
import type { Query } from "../shared/api";
import { type Loaded, useLoad } from "../shared/use_load";
import { useSession } from "./session";

/** What a GET of the API answers; a key that is no longer good ends the session. */
export function useGet<T>(path: string, query: Query = {}, everySecs: number | null = null): Loaded<T> {
  const { api, signOut } = useSession();
  const loaded = useLoad((signal) => api.get<T>(path, query, signal), [path, query], everySecs);
  useEffect(() => {
    if (loaded.problem?.isAboutTheKey) signOut(loaded.problem.message);
  }, [loaded.problem]);
  return loaded;
}
