import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { Problem } from "./problem";

export interface Loaded<T> {
  /** What was loaded last for the same inputs; stays while it is loaded again, or cannot be. */
  data: T | null;
  problem: Problem | null;
  isLoading: boolean;
  reload: () => void;
}

/** The seconds from an answer to the next request, null for none; or that by what was loaded last. */
export type Every<T> = number | null | ((data: T | null) => number | null);

/** Asking again ends the request before, so it waits for the answer; but no longer than this. */
const LONGEST_ANSWER_SECS = 30;

/**
 * What `load` answers, loaded when `inputs` change and again `every` so often while the page is seen,
 * unless asking again is of no use. An answer to older inputs is dropped and its request ended.
 */
export function useLoad<T>(
  load: (signal: AbortSignal) => Promise<T>,
  inputs: readonly unknown[],
  every: Every<T> = null,
): Loaded<T> {
  const [state, setState] = useState<Omit<Loaded<T>, "reload">>({
    data: null,
    problem: null,
    isLoading: true,
  });
  const [round, setRound] = useState(0);
  const reload = useCallback(() => setRound((before) => before + 1), []);
  const identity = JSON.stringify(inputs);
  const loaded = useRef(identity);

  useEffect(() => {
    const ending = new AbortController();
    const isSame = loaded.current === identity;
    loaded.current = identity;
    setState((before) =>
      isSame ? { ...before, isLoading: true } : { data: null, problem: null, isLoading: true },
    );
    load(ending.signal)
      .then((data) => {
        if (!ending.signal.aborted) setState({ data, problem: null, isLoading: false });
      })
      .catch((error: unknown) => {
        if (ending.signal.aborted) return;
        setState((before) => ({ ...before, problem: Problem.from(error), isLoading: false }));
      });
    return () => ending.abort();
  }, [identity, round]);

  const { data, problem, isLoading } = state;
  const everySecs = typeof every === "function" ? every(data) : every;
  const isOfUse = everySecs !== null && (problem === null || problem.mayPass);
  const waitSecs = Math.max(everySecs ?? 0, isLoading ? LONGEST_ANSWER_SECS : 0);
  useEffect(() => {
    if (!isOfUse) return;
    const timer = setInterval(() => {
      if (!document.hidden) reload();
    }, waitSecs * 1000);
    return () => clearInterval(timer);
  }, [isOfUse, waitSecs, reload]);

  return { ...state, reload };
}
