import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { Problem } from "./problem";

export interface Loaded<T> {
  /** What was loaded last for the same inputs; stays while it is loaded again, or cannot be. */
  data: T | null;
  problem: Problem | null;
  isLoading: boolean;
  reload: () => void;
}

/**
 * What `load` answers, loaded when `inputs` change and every `everySecs` while the page is seen.
 * An answer to older inputs is dropped and its request ended.
 */
export function useLoad<T>(
  load: (signal: AbortSignal) => Promise<T>,
  inputs: readonly unknown[],
  everySecs: number | null = null,
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

  useEffect(() => {
    if (everySecs === null) return;
    const timer = setInterval(() => {
      if (!document.hidden) reload();
    }, everySecs * 1000);
    return () => clearInterval(timer);
  }, [everySecs, reload]);

  return { ...state, reload };
}
