import { clock, duration, seconds } from "../shared/format";
import type { ReplyLatency, Thread, Turn } from "../shared/types";
import { LatencyBar } from "./latency";
import { Badge } from "./parts";
import type { Sound } from "./recording";

/** What was said, with what each reply was waited for; with a sound, turns are played from there. */
export function Transcript({ thread, sound }: { thread: Thread; sound: Sound }) {
  const replies = new Map(thread.latency?.turns.map((reply) => [reply.seq, reply]));
  const longest = Math.max(...[...replies.values()].map((reply) => reply.total_secs), 0);
  return (
    <ol class="transcript">
      {thread.transcript.map((turn) => (
        <Said
          turn={turn}
          reply={replies.get(turn.seq)}
          longest={longest}
          sound={sound}
          key={turn.seq}
        />
      ))}
    </ol>
  );
}

function Said(props: {
  turn: Turn;
  reply: ReplyLatency | undefined;
  longest: number;
  sound: Sound;
}) {
  const { turn, reply, sound } = props;
  const isBot = turn.role === "assistant";
  return (
    <li
      class={isBot ? "said said-bot" : "said said-caller"}
      aria-current={sound.playing === turn.seq ? "true" : undefined}
    >
      <div class="said-head">
        <strong>{isBot ? "Bot" : "Caller"}</strong>
        <span class="muted small">{clock(turn.started_at)}</span>
        {sound.source !== null && (
          <button type="button" class="seek" onClick={() => sound.play(turn)}>
            <span class="visually-hidden">Play from </span>
            {duration(sound.offsetOf(turn))}
          </button>
        )}
        {turn.interrupted && <Badge tone="info">interrupted</Badge>}
      </div>
      <p class="break">
        {turn.content ?? <span class="muted">This key may not see what was said.</span>}
        {turn.interrupted && " —"}
      </p>
      {reply && (
        <div class="said-latency">
          <LatencyBar reply={reply} longest={props.longest} />
          <span class="muted small nowrap">{seconds(reply.total_secs)}</span>
        </div>
      )}
    </li>
  );
}
