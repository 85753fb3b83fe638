import { useState } from "preact/hooks";
import { useRoute } from "preact-iso";
import { duration, moment, usd, usdExact, words } from "../../shared/format";
import { Problem } from "../../shared/problem";
import { Empty, Failure } from "../../shared/states";
import type { LedgerRow, Thread } from "../../shared/types";
import { Account } from "../account";
import { callSeconds } from "../call_table";
import { Insights } from "../insights";
import { Latency } from "../latency";
import { LedgerTable } from "../ledger_table";
import { useGet } from "../load";
import { Badge, Card, PageHead, Shown, StatusBadge } from "../parts";
import { useSession } from "../session";
import { Timeline } from "../timeline";
import { Transcript } from "../transcript";

const RUNNING = new Set(["created", "connecting", "in_call", "ended", "extracting"]);

/** The paths of a call in one's own view, and in an operator's. */
interface Paths {
  thread: string;
  end: string;
}

export function CallPage() {
  const { id = "" } = useRoute().params;
  return <CallView id={id} paths={{ thread: `/api/threads/${id}`, end: `/api/bot/${id}/end` }} />;
}

export function AnyCallPage() {
  const { id = "" } = useRoute().params;
  const thread = `/api/admin/threads/${id}`;
  return <CallView id={id} paths={{ thread, end: `${thread}/end` }} />;
}

function CallView({ id, paths }: { id: string; paths: Paths }) {
  const [isOver, setOver] = useState(false);
  // What is over changes no more.
  const every = isOver ? null : 2;
  const thread = useGet<Thread>(paths.thread, {}, every);
  const usage = useGet<{ events: LedgerRow[] }>(`${paths.thread}/usage`, {}, every);
  if (thread.data && isOver !== !RUNNING.has(thread.data.status)) setOver(!isOver);

  return (
    <>
      <PageHead title="Call" text={<code class="break">{id}</code>}>
        {thread.data && <EndButton thread={thread.data} path={paths.end} onEnded={thread.reload} />}
      </PageHead>
      <Shown of={thread} rows={12}>
        {(data) => <Call thread={data} rows={usage.data?.events ?? []} usage={usage} />}
      </Shown>
    </>
  );
}

function Call(props: {
  thread: Thread;
  rows: LedgerRow[];
  usage: ReturnType<typeof useGet<{ events: LedgerRow[] }>>;
}) {
  const { thread, rows } = props;
  return (
    <div class="stack">
      <Facts thread={thread} />
      {thread.error && (
        <div class="failure failure-flat">
          <p class="failure-title">{thread.error.message ?? "The call failed."}</p>
          {thread.error.code && <code>{thread.error.code}</code>}
        </div>
      )}
      {thread.transcript.length > 0 && (
        <Card title="Timeline">
          <Timeline thread={thread} rows={rows} />
        </Card>
      )}
      <div class="columns call-columns">
        <Card title="Transcript">
          {thread.transcript.length ? (
            <Transcript thread={thread} />
          ) : (
            <Empty title="Nothing was said">What is said appears here, turn by turn.</Empty>
          )}
        </Card>
        <div class="stack">
          <Card title="Account">
            <Account thread={thread} />
          </Card>
          {thread.latency && (
            <Card title="Latency">
              <Latency latency={thread.latency} />
            </Card>
          )}
          {thread.content_shown !== false && (
            <Card title="Insights">
              <Insights thread={thread} />
            </Card>
          )}
        </div>
      </div>
      <Card title="Ledger" aside={<span class="muted small">every piece of vendor work</span>} flush>
        <Shown of={props.usage}>
          {(data) =>
            data.events.length ? (
              <LedgerTable
                rows={data.events}
                label="Ledger of the call"
                total={usdExact(thread.usage_stats.total_cost_usd)}
              />
            ) : (
              <Empty title="Nothing was used yet" />
            )
          }
        </Shown>
      </Card>
      {thread.request && (
        <details class="card as-table">
          <summary>The request that made this call</summary>
          <pre class="json" tabIndex={0}>
            {JSON.stringify(thread.request, null, 2)}
          </pre>
        </details>
      )}
    </div>
  );
}

function Facts({ thread }: { thread: Thread }) {
  const labels = Object.entries(thread.metadata ?? {});
  return (
    <div class="card fact-bar">
      <Fact label="Status">
        <StatusBadge status={thread.status} />
      </Fact>
      <Fact label="Joined">{moment(thread.created_at)}</Fact>
      <Fact label="Length">{duration(callSeconds(thread))}</Fact>
      <Fact label="Cost">{usd(thread.usage_stats.total_cost_usd)}</Fact>
      <Fact label="Product">
        {thread.product} {!thread.billable && <Badge>not billed</Badge>}
      </Fact>
      <Fact label="Over">{thread.transport ?? thread.request?.transport?.type ?? "–"}</Fact>
      <Fact label="Ended by">{thread.end_reason ? words(thread.end_reason) : "–"}</Fact>
      {thread.api_key_id && (
        <Fact label="Key">
          <a href={`/console/operator/keys/${thread.api_key_id}`}>{thread.key_name ?? "Unnamed"}</a>
        </Fact>
      )}
      {thread.team_id && <Fact label="Team">{thread.team_id}</Fact>}
      {thread.host && <Fact label="Host">{thread.host}</Fact>}
      {labels.slice(0, 3).map(([name, value]) => (
        <Fact label={name} key={name}>
          {typeof value === "string" ? value : JSON.stringify(value)}
        </Fact>
      ))}
    </div>
  );
}

function Fact({ label, children }: { label: string; children: preact.ComponentChildren }) {
  return (
    <div class="fact">
      <span class="muted small">{label}</span>
      <span class="break">{children}</span>
    </div>
  );
}

function EndButton(props: { thread: Thread; path: string; onEnded: () => void }) {
  const { thread, onEnded } = props;
  const { api } = useSession();
  const [problem, setProblem] = useState<Problem | null>(null);
  const [isAsked, setAsked] = useState(false);
  if (!["created", "connecting", "in_call"].includes(thread.status)) return null;
  const end = async () => {
    setAsked(true);
    try {
      await api.post(props.path);
      onEnded();
    } catch (error) {
      setProblem(Problem.from(error));
      setAsked(false);
    }
  };
  const isEnding = isAsked || thread.end_requested;
  return (
    <>
      {problem && <Failure problem={problem} />}
      <button type="button" class="button button-danger" disabled={isEnding} onClick={end}>
        {isEnding ? "Ending…" : "Hang up"}
      </button>
    </>
  );
}
