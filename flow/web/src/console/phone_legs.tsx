import { moment, usdExact, words } from "../shared/format";
import type { LedgerRow, PhoneLeg } from "../shared/types";
import { Table } from "./table";

/** The legs of a telephone call, each with what the carrier charges for it. */
export function PhoneLegs({ legs, rows }: { legs: PhoneLeg[]; rows: LedgerRow[] }) {
  const prices = new Map(rows.map((row) => [row.id, row]));
  return (
    <Table
      label="Legs of the telephone call"
      rows={legs}
      keyOf={(leg) => leg.id}
      columns={[
        { head: "Leg", cell: nameOf, look: "nowrap" },
        { head: "From", cell: (leg) => leg.from_number, look: "nowrap" },
        { head: "To", cell: (leg) => leg.to_number, look: "nowrap" },
        { head: "Status", cell: (leg) => told(leg.status), look: "nowrap" },
        { head: "Answered by", cell: (leg) => told(leg.answered_by), look: "nowrap" },
        { head: "Passed on", cell: (leg) => moment(leg.transferred_at), look: "nowrap", wideOnly: true },
        { head: "Carrier's price", cell: (leg) => <Price row={prices.get(leg.id)} />, isNumber: true },
      ]}
    />
  );
}

function nameOf({ leg, direction }: PhoneLeg): string {
  if (leg === "transfer") return "Passed on to";
  return direction === "inbound" ? "Caller, inbound" : "Called, outbound";
}

/** A carrier's words have hyphens. */
function told(word: string | null): string {
  return word === null ? "–" : words(word.replaceAll("-", "_"));
}

function Price({ row }: { row: LedgerRow | undefined }) {
  if (row === undefined) return <span class="muted">not known yet</span>;
  if (row.total_cost_usd === null) return <span class="text-warn">{row.note ?? "no price"}</span>;
  return <>{usdExact(row.total_cost_usd)}</>;
}
