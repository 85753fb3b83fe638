import { count, duration, moment, percent, usd, words } from "../shared/format";
import type { Budget, Limit } from "../shared/types";
import { Badge } from "./parts";

const TIERS: Record<string, [tone: string, label: string]> = {
  ok: ["good", "Within budget"],
  warn: ["warn", "85% reached"],
  engage: ["warn", "95% reached"],
  exceeded: ["bad", "Budget exceeded"],
  override: ["info", "Budget lifted"],
  unknown: ["", "Unknown"],
};

/** How much of an amount is used, and how much is held by what runs. */
export function Gauge(props: {
  label: string;
  used: number;
  reserved: number;
  limit: number;
  tone: "" | "warn" | "bad";
}) {
  const width = (part: number) => ({ width: `${Math.min(100, (100 * part) / props.limit)}%` });
  return (
    <div
      class="gauge-track"
      role="meter"
      aria-label={props.label}
      aria-valuemin={0}
      aria-valuemax={props.limit}
      aria-valuenow={Math.min(props.used, props.limit)}
      aria-valuetext={`${percent(props.used, props.limit)} used`}
    >
      <div class={`gauge-used gauge-used-${props.tone}`} style={width(props.used)} />
      <div class="gauge-reserved" style={width(props.reserved)} />
    </div>
  );
}

/** The budget of a key this month. */
export function BudgetGauge({ budget }: { budget: Budget }) {
  const [tone, label] = TIERS[budget.tier] ?? ["", budget.tier];
  if (budget.cap_usd === null) {
    return <p class="muted">This key has no budget: only its team's quotas limit it.</p>;
  }
  const [used, limit] = [Number(budget.spent_usd), Number(budget.cap_usd)];
  return (
    <div class="gauge">
      <div class="gauge-head">
        <span>
          <strong class="stat-value">{usd(budget.spent_usd)}</strong>
          <span class="muted"> of {usd(budget.cap_usd)}</span>
        </span>
        <Badge tone={tone}>{label}</Badge>
      </div>
      <Gauge
        label="Budget used"
        used={used}
        reserved={Number(budget.reserved_usd)}
        limit={limit}
        tone={tone === "bad" || tone === "warn" ? tone : ""}
      />
      <p class="muted small">
        {usd(budget.remaining_usd)} left
        {Number(budget.reserved_usd) > 0 && `, ${usd(budget.reserved_usd)} of it held by calls`}
        {budget.resets_at && ` · starts anew ${moment(budget.resets_at)}`}
      </p>
    </div>
  );
}

const UNITS: Record<string, (amount: string | null) => string> = {
  budget_usd: usd,
  call_seconds: duration,
};

/** The name of a limit for people. */
export function limitName(limit: Limit): string {
  const names: Record<string, string> = {
    budget_usd: "Budget",
    call_seconds: "Call time",
    concurrent_calls: "Calls at once",
    ai_credits: "AI credits",
  };
  const name = names[limit.resource] ?? words(limit.resource);
  return limit.product === null ? name : `${name}, ${limit.product}`;
}

export function limitAmount(limit: Limit, amount: string | null): string {
  return (UNITS[limit.resource] ?? count)(amount);
}

/** How much a limit allows; none where it is not set. */
export function Most({ limit }: { limit: Limit }) {
  if (limit.limit === null) return <span class="muted">none</span>;
  return <>{limitAmount(limit, limit.limit)}</>;
}

/** What tells a limit from all others. */
export function keyOfLimit(limit: Limit): string {
  return `${limit.resource} ${limit.scope} ${limit.product} ${limit.source}`;
}

/** The quotas that are set among these limits, or the first `most` of them. */
export function Quotas({ limits, most }: { limits: Limit[]; most?: number }) {
  const quotas = limits.filter((limit) => limit.limit !== null && limit.resource !== "budget_usd");
  if (quotas.length === 0) return <p class="muted">No quota limits this key or its team.</p>;
  return (
    <div class="stack">
      {quotas.slice(0, most).map((limit) => (
        <LimitGauge limit={limit} key={keyOfLimit(limit)} />
      ))}
    </div>
  );
}

/** A quota with what is used of it. */
function LimitGauge({ limit }: { limit: Limit }) {
  const cap = Number(limit.limit);
  const used = Number(limit.used ?? 0);
  const reserved = Number(limit.reserved ?? 0);
  const share = cap > 0 ? used / cap : 1;
  const tone = limit.limited || share >= 1 ? "bad" : share >= 0.85 ? "warn" : "";
  return (
    <div class="gauge">
      <div class="gauge-head">
        <span>
          <strong>{limitName(limit)}</strong> <span class="muted small">{limit.scope}</span>
        </span>
        <span class="nowrap">
          {limit.used !== null && `${limitAmount(limit, limit.used)} `}
          <span class="muted">of {limitAmount(limit, limit.limit)}</span>
        </span>
      </div>
      {limit.used === null ? (
        <p class="muted small">What the whole team has used is not shown to this key.</p>
      ) : (
        <Gauge label={limitName(limit)} used={used} reserved={reserved} limit={cap || 1} tone={tone} />
      )}
    </div>
  );
}
