import { useEffect, useRef } from "preact/hooks";
import { Account } from "../console/account";
import { callSeconds } from "../console/call_table";
import { Insights } from "../console/insights";
import { Latency } from "../console/latency";
import { LedgerTable } from "../console/ledger_table";
import { Badge, Card, Shown, Stat } from "../console/parts";
import { RecordingCard, useSound } from "../console/recording";
import { Transcript } from "../console/transcript";
import type { Api } from "../shared/api";
import { type CallRecord, loadCallRecord } from "../shared/call_record";
import { duration, seconds, usd, usdExact, words } from "../shared/format";
import { Empty, Loading } from "../shared/states";
import { goesOn, isFinal } from "../shared/types";
import { type Loaded, useLoad } from "../shared/use_load";
import { ofEnd } from "./trouble";
import { TroubleNote } from "./trouble_note";

const POLL_SECS = 1;
const ENDINGS: Record<string, string> = {
  caller_hung_up: "You hung up",
  ended_by_api: "It was ended from elsewhere",
  bot_hung_up: "The bot hung up",
  pipeline_ended: "The bot hung up",
};

/** The account of a call that is over: asked for until it is settled, with its insights. */
export function CallAccount(props: {
  api: Api;
  threadId: string;
  isLost: boolean;
  onAgain: () => void;
}) {
  const { api, threadId } = props;
  const loaded = useLoad(
    (signal) => loadCallRecord(api, `/api/threads/${threadId}`, signal),
    [threadId],
    (record) => (record && !goesOn(record.thread) ? null : POLL_SECS),
  );
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => heading.current?.focus(), []);

  return (
    <div class="stack ended">
      <header class="page-head ended-head">
        <div>
          <h1 ref={heading} tabIndex={-1}>
            The call is over
          </h1>
          <p class="muted" role="status">
            {stateOf(loaded, props.isLost)}
          </p>
        </div>
        <div class="row">
          <a class="button" href={`/console/calls/${threadId}`}>
            Open in the console
          </a>
          <button type="button" class="button button-primary" onClick={props.onAgain}>
            Talk again
          </button>
        </div>
      </header>
      <WhyItEnded loaded={loaded} isLost={props.isLost} />
      <Shown of={loaded} rows={8}>
        {(ended) => <Settled {...ended} reload={loaded.reload} />}
      </Shown>
    </div>
  );
}

function WhyItEnded({ loaded, isLost }: { loaded: Loaded<CallRecord>; isLost: boolean }) {
  const thread = loaded.data?.thread;
  if (thread === undefined) return null;
  const isOver = thread.ended_at !== null || thread.end_reason !== null;
  const why = isOver ? ofEnd(thread.end_reason) : isLost ? ofEnd(null) : null;
  if (why === null) return null;
  return <TroubleNote trouble={thread.error?.message ? { ...why, said: thread.error.message } : why} />;
}

function stateOf({ data, problem }: Loaded<CallRecord>, isLost: boolean): string {
  if (data === null && problem !== null) {
    return isLost ? "The connection was lost, and its account cannot be fetched." : "Its account cannot be fetched.";
  }
  if (data === null) return "Fetching its account…";
  if (!isFinal(data.thread.status)) return "Its account is being settled…";
  const reason = data.thread.end_reason;
  const ending = ENDINGS[reason ?? ""] ?? words(reason ?? "ended");
  return `${ending}. Its account is settled.`;
}

function Settled({ thread, events, reload }: CallRecord & { reload: () => void }) {
  const stats = thread.usage_stats;
  const sound = useSound(thread, reload);
  const isSettled = isFinal(thread.status);
  const replies = thread.latency?.turns.length ?? 0;
  return (
    <>
      <div class="grid">
        <Stat label="Cost" value={usd(stats.total_cost_usd ?? 0)} note={thread.billable ? "billed" : "not billed"} />
        <Stat label="Length" value={duration(stats.call_seconds ?? callSeconds(thread))} note={thread.product} />
        <Stat
          label="Typical reply"
          value={seconds(thread.latency?.p50_secs)}
          note={replies ? `median of ${replies}` : "none was timed"}
        />
        <Stat
          label="Pieces of vendor work"
          value={String(events.length)}
          note={stats.estimated_events ? `${stats.estimated_events} estimated` : "all reported or measured"}
        />
      </div>
      <div class="columns columns-even">
        <div class="stack">
          <Card title="Cost by component" aside={!isSettled && <Badge tone="info">being settled</Badge>}>
            <Account thread={thread} />
          </Card>
          <Card title="Insights">
            {!isSettled && thread.insights === null ? (
              <Loading rows={2} label="Drawing insights from the call" />
            ) : (
              <Insights thread={thread} />
            )}
          </Card>
        </div>
        {thread.latency && (
          <Card title="Latency">
            <Latency latency={thread.latency} />
          </Card>
        )}
      </div>
      {thread.recording && <RecordingCard recording={thread.recording} sound={sound} />}
      <Card title="Transcript">
        {thread.transcript.length ? <Transcript thread={thread} sound={sound} /> : <Empty title="Nothing was said" />}
      </Card>
      <Card title="Ledger" aside={<span class="muted small">every piece of vendor work</span>} flush>
        {events.length ? (
          <LedgerTable rows={events} label="Ledger of the call" total={usdExact(stats.total_cost_usd)} />
        ) : (
          <Empty title="Nothing was used" />
        )}
      </Card>
    </>
  );
}
