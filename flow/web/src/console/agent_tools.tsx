import type { Tool } from "../shared/agents";
import { seconds, words } from "../shared/format";
import { FoldedJson } from "./folded_json";
import { Badge } from "./parts";

/** What a bot can do beside talking. The values of headers are hidden by the service. */
export function AgentTools({ tools }: { tools: Tool[] }) {
  if (tools.length === 0) return <p class="muted">None: it only talks.</p>;
  return (
    <ul class="tools">
      {tools.map((tool, at) => (
        <li class="tool" key={at}>
          <div class="row">
            <strong class="break">{tool.name ?? words(tool.type)}</strong>
            {tool.name && <Badge>{tool.type}</Badge>}
          </div>
          {tool.description && <p class="break">{tool.description}</p>}
          <ToolFacts tool={tool} />
          {tool.parameters && <FoldedJson title="Parameters" value={tool.parameters} />}
        </li>
      ))}
    </ul>
  );
}

function ToolFacts({ tool }: { tool: Tool }) {
  const method = tool.type === "http" ? `${tool.method ?? "POST"} ` : "";
  const facts: [label: string, value: string][] = [];
  if (tool.url) facts.push(["Address", method + tool.url]);
  for (const [name, value] of Object.entries(tool.headers ?? {})) facts.push([name, value]);
  if (tool.timeout_secs != null) facts.push(["Waits", seconds(tool.timeout_secs)]);
  if (tool.say_while_waiting) facts.push(["Says meanwhile", tool.say_while_waiting]);
  if (tool.allowed) facts.push(["Of its tools", tool.allowed.join(", ")]);
  for (const [name, number] of Object.entries(tool.targets ?? {})) facts.push([name, number]);
  if (tool.say) facts.push(["Says before", tool.say]);
  if (facts.length === 0) return null;
  return (
    <dl class="facts small">
      {facts.map(([label, value]) => (
        <>
          <dt>{label}</dt>
          <dd>{value}</dd>
        </>
      ))}
    </dl>
  );
}
