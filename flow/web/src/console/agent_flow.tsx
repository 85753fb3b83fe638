import type { ConversationFlow, FlowFunction } from "../shared/agents";
import { FoldedJson } from "./folded_json";
import { Badge } from "./parts";
import { Table } from "./table";

/** The nodes of an agent's conversation, and where each leads. */
export function AgentFlow({ flow }: { flow: ConversationFlow }) {
  const everywhere = flow.global_functions ?? [];
  return (
    <Table
      label="Nodes of the conversation"
      rows={Object.entries(flow.nodes)}
      keyOf={([name]) => name}
      columns={[
        {
          head: "Node",
          cell: ([name]) => (
            <>
              <code>{name}</code> {name === flow.initial_node && <Badge tone="info">first</Badge>}
            </>
          ),
          look: "nowrap",
        },
        {
          head: "Functions",
          cell: ([, node]) => [...(node.functions ?? []), ...everywhere].map(toldOf).join("; ") || "–",
        },
        { head: "All of it", cell: ([, node]) => <FoldedJson title="Show" value={node} /> },
      ]}
    />
  );
}

function toldOf({ name, transition_to }: FlowFunction): string {
  if (!transition_to) return name;
  if (typeof transition_to === "string") return `${name} → ${transition_to}`;
  const { cases, default: otherwise } = transition_to;
  const targets = [...Object.values(cases), ...(otherwise ? [otherwise] : [])];
  return `${name} → ${[...new Set(targets)].join(" or ")}`;
}
