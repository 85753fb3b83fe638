import { useRoute } from "preact-iso";
import { type Agent, textsOf, variablesIn } from "../../shared/agents";
import { duration, moment, words } from "../../shared/format";
import { Empty } from "../../shared/states";
import type { ThreadPage } from "../../shared/types";
import { AgentFlow } from "../agent_flow";
import { AgentModels } from "../agent_models";
import { AgentTools } from "../agent_tools";
import { CallTable } from "../call_table";
import { Dial } from "../dial";
import { Fact } from "../fact";
import { FoldedJson } from "../folded_json";
import { useList } from "../list";
import { useGet } from "../load";
import { Badge, Card, PageHead, Pager, Select, Shown } from "../parts";
import { useFilters } from "../query";
import { VariableTable } from "../variables";
import { talkPath } from "./agents";

/** One agent, in its newest version or in another one, and its calls. */
export function AgentPage() {
  const { id = "" } = useRoute().params;
  const [filters, change] = useFilters({ version: "" });
  const newest = useGet<Agent>(`/api/agents/${id}`);
  return (
    <Shown of={newest} rows={12}>
      {(agent) => {
        const isNewest = ["", String(agent.version)].includes(filters.version);
        return (
          <>
            <PageHead title={agent.name} text={<code class="break">{id}</code>}>
              {agent.archived_at === null && (
                <a class="button button-primary" href={talkPath(agent.name)}>
                  Talk with it
                </a>
              )}
            </PageHead>
            <div class="stack">
              <div class="filters">
                <Select
                  label="Version"
                  value={isNewest ? "" : filters.version}
                  options={versionsOf(agent)}
                  onChange={(version) => change({ version })}
                />
              </div>
              {agent.archived_at === null && <Dial agent={agent} />}
              {isNewest ? <Version agent={agent} /> : <OldVersion id={id} version={filters.version} />}
              <Calls id={id} />
            </div>
          </>
        );
      }}
    </Shown>
  );
}

function versionsOf(agent: Agent): [value: string, label: string][] {
  const older = Array.from({ length: agent.version - 1 }, (_, at) => String(agent.version - 1 - at));
  return [["", `${agent.version}, the newest`], ...older.map((each): [string, string] => [each, each])];
}

function OldVersion({ id, version }: { id: string; version: string }) {
  const found = useGet<Agent>(`/api/agents/${id}`, { version });
  return (
    <Shown of={found} rows={12}>
      {(agent) => <Version agent={agent} />}
    </Shown>
  );
}

function Version({ agent }: { agent: Agent }) {
  const { bot = {} } = agent;
  const variables = variablesIn(textsOf(agent));
  return (
    <>
      <Facts agent={agent} />
      <div class="columns call-columns">
        <div class="stack">
          <Card title="Prompt">
            <Said text={bot.system_prompt} otherwise="It has none of its own." />
          </Card>
          <Card title="Greeting">
            <Said text={bot.greeting} otherwise="None: the caller speaks first." />
          </Card>
          {bot.flow && (
            <Card title="Flow" flush>
              <AgentFlow flow={bot.flow} />
            </Card>
          )}
          <Card title="Tools" flush={(agent.tools ?? []).length > 0}>
            <AgentTools tools={agent.tools ?? []} />
          </Card>
        </div>
        <div class="stack">
          <Card title="Models">
            <AgentModels bot={bot} />
          </Card>
          <Card title="Variables" flush={variables.length > 0}>
            <VariableTable variables={variables} />
          </Card>
          <Card title="Insights">
            <InsightSettings insights={agent.insights ?? {}} />
          </Card>
        </div>
      </div>
    </>
  );
}

function Facts({ agent }: { agent: Agent }) {
  return (
    <div class="card fact-bar">
      <Fact label="Version">
        {agent.version} {agent.archived_at && <Badge>archived</Badge>}
      </Fact>
      <Fact label="Product">{agent.product ?? "The join's"}</Fact>
      <Fact label="Version made">{moment(agent.updated_at)}</Fact>
      <Fact label="Agent made">{moment(agent.created_at)}</Fact>
      {agent.max_duration_secs != null && (
        <Fact label="Longest call">{duration(agent.max_duration_secs)}</Fact>
      )}
      {agent.recording && (
        <Fact label="Recorded">
          {agent.recording.retention_days ? `kept for ${agent.recording.retention_days} days` : "yes"}
        </Fact>
      )}
      {agent.save_mode && <Fact label="Save mode">{words(agent.save_mode)}</Fact>}
      {agent.webhook_url && <Fact label="Webhook">{agent.webhook_url}</Fact>}
      {Object.entries(agent.metadata ?? {}).map(([name, value]) => (
        <Fact label={name} key={name}>
          {typeof value === "string" ? value : JSON.stringify(value)}
        </Fact>
      ))}
    </div>
  );
}

function Said({ text, otherwise }: { text: string | null | undefined; otherwise: string }) {
  return text ? <p class="written">{text}</p> : <p class="muted">{otherwise}</p>;
}

function InsightSettings({ insights }: { insights: NonNullable<Agent["insights"]> }) {
  if (insights.enabled === false) return <p class="muted">None are extracted.</p>;
  return (
    <div class="stack-tight">
      <Said text={insights.instructions} otherwise="Nothing in particular is looked for." />
      {insights.schema && <FoldedJson title="Schema" value={insights.schema} />}
    </div>
  );
}

function Calls({ id }: { id: string }) {
  const list = useList<ThreadPage>("/api/threads", { agent: id, limit: 20 });
  return (
    <Card title="Calls" aside={<span class="muted small">of this key, in any version</span>} flush>
      <Shown of={list}>
        {({ threads }) =>
          threads.length ? (
            <CallTable threads={threads} label="Calls with this agent" />
          ) : (
            <Empty title="No calls yet">Calls that this key makes with the agent appear here.</Empty>
          )
        }
      </Shown>
      <Pager of={list} />
    </Card>
  );
}
