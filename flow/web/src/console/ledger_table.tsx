import type { ComponentChildren } from "preact";
import { clock, count, decimal, moment, seconds, usdExact, words } from "../shared/format";
import type { LedgerLine, LedgerRow } from "../shared/types";
import { Badge } from "./parts";
import { Table } from "./table";

/** Rows of the ledger, each with all of its lines. `total` is what the API says they cost. */
export function LedgerTable(props: {
  rows: LedgerRow[];
  label: string;
  withDay?: boolean;
  total?: ComponentChildren;
}) {
  return (
    <Table
      label={props.label}
      rows={props.rows}
      keyOf={(row) => row.id}
      columns={[
        {
          head: "Time",
          cell: (row) => (props.withDay ? moment(row.occurred_at) : clock(row.occurred_at)),
          look: "nowrap",
        },
        { head: "Work", cell: (row) => <Work row={row} /> },
        { head: "Used", cell: (row) => <Lines lines={row.lines} />, look: "lines" },
        { head: "How known", cell: (row) => <Provenance row={row} /> },
        {
          head: "First token",
          cell: (row) => seconds(row.time_to_first_token_secs),
          isNumber: true,
          wideOnly: true,
        },
        { head: "Took", cell: (row) => seconds(row.latency_secs), isNumber: true, wideOnly: true },
        { head: "Cost", cell: (row) => <Cost row={row} />, isNumber: true, total: props.total },
      ]}
    />
  );
}

/** Short names for those that are long. */
const KINDS: Record<string, string> = { telephony: "PHONE" };

function Work({ row }: { row: LedgerRow }) {
  return (
    <>
      <div class="work">
        <span class={`kind kind-${row.kind}`}>{KINDS[row.kind] ?? row.kind.toUpperCase()}</span>
        <span>{row.model || words(row.kind)}</span>
      </div>
      <span class="muted small nowrap">
        {row.provider}
        {row.source !== "bot" && row.source !== "gateway" && ` · ${row.source}`}
        {row.save_mode && " · save mode"}
      </span>
    </>
  );
}

function Cost({ row }: { row: LedgerRow }) {
  if (row.total_cost_usd === null) return <Badge tone="warn">No price</Badge>;
  return <>{usdExact(row.total_cost_usd)}</>;
}

function Lines({ lines }: { lines: LedgerLine[] }) {
  if (lines.length === 0) return <span class="muted">Not measured</span>;
  return (
    <>
      {lines.map((line) => (
        <Line line={line} key={line.unit} />
      ))}
    </>
  );
}

function Line({ line }: { line: LedgerLine }) {
  const isWhole = !line.unit.endsWith("seconds");
  return (
    <div class={line.part_of ? "line line-part" : "line"}>
      <span>
        {isWhole ? count(line.quantity) : decimal(line.quantity)}{" "}
        <span class="muted">
          {line.part_of && "of which "}
          {line.unit.replaceAll("_", " ")}
        </span>
      </span>
      <span class="muted">{line.cost_usd === null ? "" : usdExact(line.cost_usd)}</span>
    </div>
  );
}

function Provenance({ row }: { row: LedgerRow }) {
  const failure = row.failure;
  return (
    <div class="stack-badges">
      <Badge tone={row.provenance === "estimated" ? "warn" : ""}>{row.provenance}</Badge>
      {row.outcome === "interrupted" && <Badge tone="info">interrupted</Badge>}
      {row.outcome === "error" && (
        <>
          <Badge tone="bad">failed{failure?.http_status ? ` ${failure.http_status}` : ""}</Badge>
          {failure && <span class="small muted">{failure.message}</span>}
        </>
      )}
    </div>
  );
}
