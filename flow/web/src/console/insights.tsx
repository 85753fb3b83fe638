import { words } from "../shared/format";
import type { Thread } from "../shared/types";

/** What was found out about a call, or why nothing was. */
export function Insights({ thread }: { thread: Thread }) {
  const { insights } = thread;
  if (insights === null) {
    const isRunning = thread.completed_at === null;
    return (
      <p class="muted">{isRunning ? "They follow when the call is over." : "There are none."}</p>
    );
  }
  // Sentences first, then the small facts, then what has parts.
  const rank = (value: unknown) => (typeof value === "object" ? 2 : String(value).length > 40 ? 0 : 1);
  const { data, status: _, ...rest } = insights;
  const entries = Object.entries({ ...(isRecord(data) ? data : { data }), ...rest })
    .filter(([, value]) => value !== undefined)
    .sort(([, one], [, other]) => rank(one) - rank(other));
  return (
    <dl class="insights">
      {entries.map(([name, value]) => (
        <div key={name}>
          <dt>{words(name)}</dt>
          <dd>
            <Value of={value} />
          </dd>
        </div>
      ))}
    </dl>
  );
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function Value({ of: value }: { of: unknown }) {
  if (typeof value === "boolean") return <>{value ? "Yes" : "No"}</>;
  if (value === null) return <span class="muted">unknown</span>;
  if (Array.isArray(value)) {
    return (
      <ul class="bullets">
        {value.map((each, index) => (
          <li key={index}>
            <Value of={each} />
          </li>
        ))}
      </ul>
    );
  }
  if (typeof value === "object") {
    return (
      <dl class="facts small">
        {Object.entries(value).map(([name, each]) => (
          <>
            <dt>{words(name)}</dt>
            <dd>
              <Value of={each} />
            </dd>
          </>
        ))}
      </dl>
    );
  }
  return <>{String(value)}</>;
}
