import { costComponent } from "../shared/components";
import { usdExact } from "../shared/format";
import type { Thread } from "../shared/types";
import { Badge } from "./parts";

/** What a call has cost, by component, and what of it is not as usual. */
export function Account({ thread }: { thread: Thread }) {
  const stats = thread.usage_stats;
  const total = stats.total_cost_usd ?? 0;
  const parts = Object.entries(stats.cost_breakdown_usd ?? {})
    .filter(([, cost]) => cost > 0)
    .sort(([, one], [, other]) => other - one);
  const notes = [
    [stats.interrupted_generations, "interrupted"],
    [stats.failed_generations, "failed"],
    [stats.estimated_events, "estimated"],
    [stats.unpriced_events, "without a price"],
    [stats.unmetered?.length, "not measured"],
  ] as const;
  return (
    <div class="stack">
      <ul class="parts">
        {parts.map(([name, cost]) => {
          const { label, colour } = costComponent(name);
          return (
            <li key={name}>
              <span>{label}</span>
              <span class="number">{usdExact(cost)}</span>
              <span class="part-track">
                <span style={{ width: `${(100 * cost) / total}%`, background: `var(${colour})` }} />
              </span>
            </li>
          );
        })}
        <li class="parts-total">
          <span>Total</span>
          <span class="number">{usdExact(total)}</span>
        </li>
      </ul>
      <div class="row">
        {notes
          .filter(([amount]) => amount)
          .map(([amount, label]) => (
            <Badge tone={label === "interrupted" ? "info" : "warn"} key={label}>
              {amount} {label}
            </Badge>
          ))}
      </div>
    </div>
  );
}
