import { clock, seconds } from "../shared/format";
import type { ReplyLatency, Thread, Turn } from "../shared/types";
import { LatencyBar } from "./latency";
import { Badge } from "./parts";

/** What was said, with what each reply was waited for. */
export function Transcript({ thread }: { thread: Thread }) {
  const replies = new Map(thread.latency?.turns.map((reply) => [reply.seq, reply]));
  const longest = Math.max(...[...replies.values()].map((reply) => reply.total_secs), 0);
  return (
    <ol class="transcript">
      {thread.transcript.map((turn) => (
        <Said turn={turn} reply={replies.get(turn.seq)} longest={longest} key={turn.seq} />
      ))}
    </ol>
  );
}

function Said(props: { turn: Turn; reply: ReplyLatency | undefined; longest: number }) {
  const { turn, reply } = props;
  const isBot = turn.role === "assistant";
  return (
    <li class={isBot ? "said said-bot" : "said said-caller"}>
      <div class="said-head">
        <strong>{isBot ? "Bot" : "Caller"}</strong>
        <span class="muted small">{clock(turn.started_at)}</span>
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
