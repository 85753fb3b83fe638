import type { AgentPage } from "../../shared/agents";
import { moment } from "../../shared/format";
import { useList } from "../list";
import { Badge, PageHead, Select } from "../parts";
import { useFilters } from "../query";
import { ListCard, Table } from "../table";

const WHICH = [
  ["", "Those in use"],
  ["true", "Archived ones too"],
] as const;

/** The agents of the key's team. */
export function AgentsPage() {
  const [filters, change] = useFilters({ archived: "" });
  const list = useList<AgentPage>("/api/agents", filters);
  return (
    <>
      <PageHead title="Agents" text="The bots that your team has stored, the newest first." />
      <div class="stack">
        <div class="filters">
          <Select
            label="Agents"
            value={filters.archived}
            options={WHICH}
            onChange={(archived) => change({ archived })}
          />
        </div>
        <ListCard
          of={list}
          rows={(page) => page.agents}
          empty={{
            title: "No agents yet",
            text: "What is stored with POST /api/agents, or with flow agents push, appears here.",
          }}
        >
          {(agents) => (
            <Table
              label="Agents"
              rows={agents}
              keyOf={(agent) => agent.id}
              columns={[
                {
                  head: "Name",
                  cell: (agent) => (
                    <span class="row">
                      <a href={`/console/agents/${agent.id}`}>{agent.name}</a>
                      {agent.archived_at && <Badge>archived</Badge>}
                    </span>
                  ),
                  look: "break",
                },
                { head: "Version", cell: (agent) => agent.version, isNumber: true },
                { head: "Product", cell: (agent) => agent.product ?? "–", look: "nowrap", wideOnly: true },
                { head: "Updated", cell: (agent) => moment(agent.updated_at), look: "nowrap" },
                {
                  head: "Talk",
                  cell: (agent) => agent.archived_at === null && <TalkLink name={agent.name} />,
                  wideOnly: true,
                },
              ]}
            />
          )}
        </ListCard>
      </div>
    </>
  );
}

function TalkLink({ name }: { name: string }) {
  return (
    <a href={talkPath(name)} aria-label={`Talk with ${name}`}>
      Talk
    </a>
  );
}

/** Where one can talk with an agent. */
export function talkPath(name: string): string {
  return `/talk?${new URLSearchParams({ agent: name })}`;
}
