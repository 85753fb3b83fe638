import { useState } from "preact/hooks";
import { useRoute } from "preact-iso";
import type { Agent } from "../../shared/agents";
import type { CallRecord } from "../../shared/call_record";
import { duration, moment, usd, usdExact, words } from "../../shared/format";
import { Problem } from "../../shared/problem";
import { Empty, Failure } from "../../shared/states";
import type { Thread } from "../../shared/types";
import { Account } from "../account";
import { callSeconds } from "../call_table";
import { Fact } from "../fact";
import { Insights } from "../insights";
import { Latency } from "../latency";
import { LedgerTable } from "../ledger_table";
import { useLiveCall } from "../live_call";
import { useGet } from "../load";
import { Badge, Card, PageHead, Shown, StatusBadge } from "../parts";
import { PhoneLegs } from "../phone_legs";
import { RecordingCard, useSound } from "../recording";
import { useSession } from "../session";
import { SpeakForm } from "../speak";
import { Timeline } from "../timeline";
import { ToolCalls } from "../tool_calls";
import { Transcript } from "../transcript";
import { VariablesGiven } from "../variables";

/** The paths of a call in one's own view, and in an operator's; events and words are its owner's. */
interface Paths {
  thread: string;
  end: string;
  events: string | null;
}

export function CallPage() {
  const { id = "" } = useRoute().params;
  const thread = `/api/threads/${id}`;
  return <CallView id={id} paths={{ thread, end: `/api/bot/${id}/end`, events: `${thread}/events` }} />;
}

export function AnyCallPage() {
  const { id = "" } = useRoute().params;
  const thread = `/api/admin/threads/${id}`;
  return <CallView id={id} paths={{ thread, end: `${thread}/end`, events: null }} />;
}

function CallView({ id, paths }: { id: string; paths: Paths }) {
  const call = useLiveCall(paths.thread, paths.events);
  if (call.data === null && call.problem?.status === 404) return <NoCall id={id} />;
  return (
    <>
      <PageHead title="Call" text={<code class="break">{id}</code>}>
        {call.data && <EndButton thread={call.data.thread} path={paths.end} onEnded={call.reload} />}
      </PageHead>
      <Shown of={call} rows={12}>
        {(record) => <Call {...record} isOwn={paths.events !== null} reload={call.reload} />}
      </Shown>
    </>
  );
}

function NoCall({ id }: { id: string }) {
  return (
    <>
      <PageHead title="No such call" text={<code class="break">{id}</code>} />
      <Empty title="There is no call with this id">
        It is another key's, or was deleted, or the address is not whole. <a href="/console/calls">Go to the calls</a>
      </Empty>
    </>
  );
}

function Call(props: CallRecord & { isOwn: boolean; reload: () => void }) {
  const { thread, events } = props;
  const { variables, tool_calls: toolCalls = [], phone = [], recording } = thread;
  const sound = useSound(thread, props.reload);
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
          <Timeline thread={thread} rows={events} />
        </Card>
      )}
      {phone.length > 0 && (
        <Card title="Telephone" flush>
          <PhoneLegs legs={phone} rows={events} />
        </Card>
      )}
      <div class="columns call-columns">
        <div class="stack">
          {recording && <RecordingCard recording={recording} sound={sound} />}
          <Card title="Transcript">
            {thread.transcript.length ? (
              <Transcript thread={thread} sound={sound} />
            ) : (
              <Empty title="Nothing was said">What is said appears here, turn by turn.</Empty>
            )}
          </Card>
          {props.isOwn && thread.status === "in_call" && (
            <Card title="Speak through the bot">
              <SpeakForm id={thread.workflow_thread_id} />
            </Card>
          )}
        </div>
        <div class="stack">
          <Card title="Account">
            <Account thread={thread} />
          </Card>
          {thread.latency && (
            <Card title="Latency">
              <Latency latency={thread.latency} />
            </Card>
          )}
          {variables && Object.keys(variables).length > 0 && (
            <Card title="Variables">
              <VariablesGiven variables={variables} />
            </Card>
          )}
          {thread.content_shown !== false && (
            <Card title="Insights">
              <Insights thread={thread} />
            </Card>
          )}
        </div>
      </div>
      {toolCalls.length > 0 && (
        <Card title="Tools used" flush>
          <ToolCalls calls={toolCalls} />
        </Card>
      )}
      <Card title="Ledger" aside={<span class="muted small">every piece of vendor work</span>} flush>
        {events.length ? (
          <LedgerTable
            rows={events}
            label="Ledger of the call"
            total={usdExact(thread.usage_stats.total_cost_usd)}
          />
        ) : (
          <Empty title="Nothing was used yet" />
        )}
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
      {thread.agent && (
        <Fact label="Agent">
          <AgentUsed agent={thread.agent} />
        </Fact>
      )}
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

/** The agent of a call by its name; other teams' agents have none here. */
function AgentUsed({ agent }: { agent: NonNullable<Thread["agent"]> }) {
  const { id, version } = agent;
  const found = useGet<Agent>(`/api/agents/${id}`, { version });
  return (
    <>
      {found.problem ? (
        <code>{id}</code>
      ) : (
        <a href={`/console/agents/${id}?version=${version}`}>{found.data?.name ?? "…"}</a>
      )}{" "}
      <span class="muted">version {version}</span>
    </>
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
