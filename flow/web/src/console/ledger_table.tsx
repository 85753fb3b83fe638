import type { ComponentChildren } from "preact";
import { clock, count, decimal, moment, seconds, usdExact, words } from "../shared/format";
import type { LedgerLine, LedgerRow } from "../shared/types";
import { Badge, Table } from "./parts";

/** Rows of the ledger, each with all of its lines. `total` is what the API says they cost. */
export function LedgerTable(props: {
  rows: LedgerRow[];
  label: string;
  withDay?: boolean;
  total?: ComponentChildren;
}) {
  return (
    <Table label={props.label}>
      <thead>
        <tr>
          <th scope="col">Time</th>
          <th scope="col">Work</th>
          <th scope="col">Used</th>
          <th scope="col">How known</th>
          <th scope="col" class="number wide-only">
            First token
          </th>
          <th scope="col" class="number wide-only">
            Took
          </th>
          <th scope="col" class="number">
            Cost
          </th>
        </tr>
      </thead>
      <tbody>
        {props.rows.map((row) => (
          <Row row={row} withDay={props.withDay ?? false} key={row.id} />
        ))}
      </tbody>
      {props.total !== undefined && (
        <tfoot>
          <tr>
            <th scope="row" colSpan={4}>
              Total
            </th>
            <td class="wide-only" colSpan={2} />
            <td class="number">{props.total}</td>
          </tr>
        </tfoot>
      )}
    </Table>
  );
}

function Row({ row, withDay }: { row: LedgerRow; withDay: boolean }) {
  return (
    <tr>
      <td class="nowrap">{withDay ? moment(row.occurred_at) : clock(row.occurred_at)}</td>
      <td>
        <div class="work">
          <span class={`kind kind-${row.kind}`}>{row.kind.toUpperCase()}</span>
          <span>{row.model || words(row.kind)}</span>
        </div>
        <span class="muted small nowrap">
          {row.provider}
          {row.source !== "bot" && row.source !== "gateway" && ` · ${row.source}`}
          {row.save_mode && " · save mode"}
        </span>
      </td>
      <td class="lines">
        {row.lines.length === 0 && <span class="muted">Not measured</span>}
        {row.lines.map((line) => (
          <Line line={line} key={line.unit} />
        ))}
      </td>
      <td>
        <Provenance row={row} />
      </td>
      <td class="number wide-only">{seconds(row.time_to_first_token_secs)}</td>
      <td class="number wide-only">{seconds(row.latency_secs)}</td>
      <td class="number">
        {row.total_cost_usd === null ? (
          <Badge tone="warn">No price</Badge>
        ) : (
          usdExact(row.total_cost_usd)
        )}
      </td>
    </tr>
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
