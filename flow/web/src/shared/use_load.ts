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
  const isWaiting = !isLoading && (problem === null || problem.mayPass);
  useEffect(() => {
    // While it is loaded nothing is asked: each round ends the request of the one before.
    if (everySecs === null || !isWaiting) return;
    const timer = setInterval(() => {
      if (!document.hidden) reload();
    }, everySecs * 1000);
    return () => clearInterval(timer);
  }, [everySecs, isWaiting, reload]);

  return { ...state, reload };
}
