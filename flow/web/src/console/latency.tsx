import { seconds } from "../shared/format";
import { LATENCY_PARTS, type LatencyPart, type ReplyLatency, type Thread } from "../shared/types";

const PARTS: Record<LatencyPart, [label: string, colour: string]> = {
  turn_detection: ["Turn detection", "--series-8"],
  stt: ["Speech to text", "--series-2"],
  llm: ["First token", "--series-1"],
  first_sentence: ["First sentence", "--series-7"],
  tts: ["Voice", "--series-3"],
  output: ["Way out", "--series-4"],
};

/** The parts of one wait, as long as its share of the longest wait of the call. */
export function LatencyBar({ reply, longest }: { reply: ReplyLatency; longest: number }) {
  const said = LATENCY_PARTS.map((part) => `${PARTS[part][0]} ${seconds(reply[`${part}_secs`])}`);
  return (
    <span class="latency-bar" role="img" aria-label={said.join(", ")} title={said.join("\n")}>
      {LATENCY_PARTS.map((part) => (
        <span
          key={part}
          style={{
            width: `${(100 * reply[`${part}_secs`]) / longest}%`,
            background: `var(${PARTS[part][1]})`,
          }}
        />
      ))}
    </span>
  );
}

/** How long the caller waited for replies, and for what on average. */
export function Latency({ latency }: { latency: NonNullable<Thread["latency"]> }) {
  const mean = (part: LatencyPart) =>
    latency.turns.reduce((sum, turn) => sum + turn[`${part}_secs`], 0) / latency.turns.length;
  return (
    <div class="stack">
      <div class="latency-numbers">
        {(
          [
            ["Median", latency.p50_secs],
            ["95th percentile", latency.p95_secs],
            ["Longest", latency.max_secs],
          ] as const
        ).map(([label, value]) => (
          <div key={label}>
            <span class="muted small">{label}</span>
            <strong>{seconds(value)}</strong>
          </div>
        ))}
      </div>
      <div>
        <h3>Mean of each part</h3>
        <ul class="parts parts-plain">
          {LATENCY_PARTS.map((part) => (
            <li key={part}>
              <span class="legend-item">
                <i style={{ background: `var(${PARTS[part][1]})` }} />
                {PARTS[part][0]}
              </span>
              <span class="number">{seconds(mean(part))}</span>
            </li>
          ))}
        </ul>
      </div>
    </div>
  );
}
