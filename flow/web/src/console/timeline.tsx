import { duration, seconds } from "../shared/format";
import type { LedgerRow, Thread } from "../shared/types";

interface Span {
  from: number;
  to: number;
  label: string;
  isCut: boolean;
}

interface Lane {
  name: string;
  colour: string;
  spans: Span[];
}

/** No shorter call is drawn wider than the page: beyond that it is scrolled. */
const PIXELS_A_SECOND = 14;

/** When who spoke and when which vendor worked, in seconds since the call was connected. */
export function Timeline({ thread, rows }: { thread: Thread; rows: LedgerRow[] }) {
  const start = Date.parse(thread.connected_at ?? thread.created_at);
  const since = (time: string) => (Date.parse(time) - start) / 1000;
  const lanes = [...speech(thread, since), ...work(rows, since)];
  const ends = lanes.flatMap((lane) => lane.spans.map((span) => span.to));
  const end = Math.max(1, ...ends, thread.ended_at ? since(thread.ended_at) : 0);
  const cuts = thread.transcript
    .filter((turn, index) => thread.transcript[index - 1]?.interrupted && turn.role === "user")
    .map((turn) => since(turn.started_at));
  const at = (secs: number) => `${(100 * Math.max(0, secs)) / end}%`;
  return (
    <div class="timeline" role="region" aria-label="Timeline of the call" tabIndex={0}>
      <div class="timeline-body" style={{ minWidth: `max(100%, ${end * PIXELS_A_SECOND}px)` }}>
        {lanes.map((lane) => (
          <div class="lane" key={lane.name}>
            <span class="lane-name">{lane.name}</span>
            <div class="lane-track">
              {lane.spans.map((span, index) => (
                <span
                  key={index}
                  class={span.isCut ? "span span-cut" : "span"}
                  title={`${span.label}\n${seconds(span.from)} to ${seconds(span.to)}`}
                  style={{
                    left: at(span.from),
                    width: at(span.to - span.from),
                    background: `var(${lane.colour})`,
                  }}
                />
              ))}
              {cuts.map((cut) => (
                <span class="cut" style={{ left: at(cut) }} key={cut} />
              ))}
            </div>
          </div>
        ))}
        <div class="lane lane-axis" aria-hidden="true">
          <span class="lane-name" />
          <div class="lane-track">
            {ticks(end).map((tick) => (
              <span class="tick" style={{ left: at(tick) }} key={tick}>
                {duration(tick)}
              </span>
            ))}
          </div>
        </div>
        {cuts.length > 0 && (
          <p class="muted small timeline-note">
            <span class="cut cut-key" aria-hidden="true" /> The caller interrupted the bot{" "}
            {cuts.length === 1 ? "once" : `${cuts.length} times`}.
          </p>
        )}
      </div>
    </div>
  );
}

function speech(thread: Thread, since: (time: string) => number): Lane[] {
  const { transcript } = thread;
  const waits = new Map(thread.latency?.turns.map((turn) => [turn.seq, turn.total_secs]));
  const spans = (role: string): Span[] =>
    transcript.flatMap((turn, index) => {
      if (turn.role !== role) return [];
      const next = transcript[index + 1];
      const from = since(turn.started_at);
      // A caller's turn ends where the wait for the reply begins.
      const until = next
        ? since(next.started_at) - (waits.get(next.seq) ?? 0)
        : thread.ended_at
          ? since(thread.ended_at)
          : from + (turn.content?.length ?? 30) / 15;
      return [{ from, to: Math.max(from + 0.2, until), label: turn.content ?? "", isCut: turn.interrupted }];
    });
  return [
    { name: "Caller", colour: "--series-8", spans: spans("user") },
    { name: "Bot", colour: "--series-5", spans: spans("assistant") },
  ];
}

const WORK = [
  ["stt", "STT", "--series-2"],
  ["llm", "LLM", "--series-1"],
  ["tts", "TTS", "--series-3"],
] as const;

function work(rows: LedgerRow[], since: (time: string) => number): Lane[] {
  return WORK.map(([kind, name, colour]) => ({
    name,
    colour,
    spans: rows
      .filter((row) => row.kind === kind && row.source === "bot" && row.latency_secs !== null)
      .map((row) => {
        // A row's time is when the work was over.
        const to = since(row.occurred_at);
        return {
          from: to - (row.latency_secs ?? 0),
          to,
          label: `${row.provider} ${row.model}`,
          isCut: row.outcome !== "ok",
        };
      }),
  })).filter((lane) => lane.spans.length > 0);
}

function ticks(end: number): number[] {
  const step = [5, 10, 30, 60, 120, 300].find((each) => end / each <= 14) ?? 600;
  return Array.from({ length: Math.floor(end / step) + 1 }, (_, index) => index * step);
}
