import { useEffect } from "preact/hooks";
import type { Api, Query } from "../shared/api";
import { type Every, type Loaded, useLoad } from "../shared/use_load";
import { useSession } from "./session";

/** What a GET of the API answers. */
export function useGet<T>(path: string, query: Query = {}, every: Every<T> = null): Loaded<T> {
  return useSessionLoad((api, signal) => api.get<T>(path, query, signal), [path, query], every);
}

/** What is loaded with the session's key; one that is no longer good ends the session. */
export function useSessionLoad<T>(
  load: (api: Api, signal: AbortSignal) => Promise<T>,
  inputs: readonly unknown[],
  every: Every<T> = null,
): Loaded<T> {
  const { api, signOut } = useSession();
  const loaded = useLoad((signal) => load(api, signal), inputs, every);
  useEffect(() => {
    if (loaded.problem?.isAboutTheKey) signOut(loaded.problem.message);
  }, [loaded.problem]);
  return loaded;
}
