import { clock, seconds, words } from "../shared/format";
import type { ToolCall } from "../shared/types";
import { FoldedJson } from "./folded_json";
import { Badge } from "./parts";
import { Table } from "./table";

const TONES: Record<string, string> = {
  ok: "good",
  running: "info",
  failed: "bad",
  timeout: "bad",
  unknown: "bad",
  invalid_arguments: "warn",
  refused: "warn",
};

/** What a bot did in a call beside talking. */
export function ToolCalls({ calls }: { calls: ToolCall[] }) {
  return (
    <Table
      label="Tools used in the call"
      rows={calls}
      keyOf={(call) => call.id}
      columns={[
        { head: "Time", cell: (call) => clock(call.started_at), look: "nowrap" },
        { head: "Tool", cell: (call) => <Name call={call} />, look: "nowrap" },
        {
          head: "Outcome",
          cell: (call) => <Badge tone={TONES[call.outcome] ?? ""}>{words(call.outcome)}</Badge>,
        },
        { head: "HTTP", cell: (call) => call.status ?? "–", isNumber: true, wideOnly: true },
        { head: "Took", cell: (call) => seconds(call.seconds), isNumber: true },
        { head: "Arguments and result", cell: (call) => <Content call={call} /> },
      ]}
    />
  );
}

function Name({ call }: { call: ToolCall }) {
  return (
    <>
      <code>{call.name}</code>
      {call.transition_to && <span class="muted"> → {call.transition_to}</span>}
    </>
  );
}

function Content({ call }: { call: ToolCall }) {
  if (call.arguments === null) return <span class="muted">This key may not see them.</span>;
  return <FoldedJson title="Show" value={{ arguments: call.arguments, result: call.result }} />;
}
