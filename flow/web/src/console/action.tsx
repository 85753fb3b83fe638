import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { Problem } from "../shared/problem";

/** Something that is asked of the server once at a time: whether it is under way, and what is wrong. */
export function useAction() {
  const [isBusy, setBusy] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const run = async (action: () => Promise<unknown>): Promise<boolean> => {
    setBusy(true);
    setProblem(null);
    try {
      await action();
      return true;
    } catch (error) {
      setProblem(Problem.from(error));
      return false;
    } finally {
      setBusy(false);
    }
  };
  return { isBusy, problem, run };
}

/** What is wrong with what was entered or asked, beside the button that was pressed. */
export function ActionProblem({ problem }: { problem: Problem | null }) {
  if (problem === null) return null;
  return (
    <p class="form-message" role="alert">
      {problem.message}
      {problem.fields.map((each) => ` ${each.field}: ${each.message}.`)}
    </p>
  );
}

/** A button for what cannot be undone: it asks once more, in its own place. */
export function Confirmed(props: {
  label: string;
  question: string;
  isBusy: boolean;
  onConfirm: () => void;
  children?: ComponentChildren;
}) {
  const [isAsked, setAsked] = useState(false);
  if (!isAsked) {
    return (
      <button type="button" class="button button-danger" onClick={() => setAsked(true)}>
        {props.label}
      </button>
    );
  }
  return (
    <div class="row" role="group" aria-label={props.question}>
      <span>{props.question}</span>
      <button
        type="button"
        class="button button-danger"
        disabled={props.isBusy}
        onClick={props.onConfirm}
      >
        {props.label}
      </button>
      <button type="button" class="button" onClick={() => setAsked(false)}>
        Keep
      </button>
    </div>
  );
}
