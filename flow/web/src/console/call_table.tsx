import { duration, moment, usdColumn, words } from "../shared/format";
import type { ThreadSummary } from "../shared/types";
import { StatusBadge } from "./parts";
import { type Column, Table } from "./table";

type Timed = Pick<ThreadSummary, "connected_at" | "ended_at">;
type Costed = Timed & Pick<ThreadSummary, "usage_stats">;

/** Calls, each with a link to it. */
export function CallTable({ threads, label }: { threads: ThreadSummary[]; label: string }) {
  return (
    <Table
      label={label}
      rows={threads}
      keyOf={(thread) => thread.workflow_thread_id}
      columns={[
        ...whichCall<ThreadSummary>("/console/calls"),
        { head: "Product", cell: (thread) => thread.product, look: "nowrap", wideOnly: true },
        {
          head: "Ended by",
          cell: (thread) => (thread.end_reason ? words(thread.end_reason) : "–"),
          look: "nowrap muted",
          wideOnly: true,
        },
        ...LENGTH_AND_COST,
      ]}
    />
  );
}

/** The columns that say which call it is; its own page lies below `path`. */
export function whichCall<
  Row extends Pick<ThreadSummary, "workflow_thread_id" | "created_at" | "status">,
>(path: string): Column<Row>[] {
  return [
    {
      head: "Joined",
      cell: (row) => <a href={`${path}/${row.workflow_thread_id}`}>{moment(row.created_at)}</a>,
      look: "nowrap",
    },
    { head: "Status", cell: (row) => <StatusBadge status={row.status} /> },
  ];
}

export const LENGTH_AND_COST: Column<Costed>[] = [
  { head: "Length", cell: (row) => duration(callSeconds(row)), isNumber: true },
  { head: "Cost", cell: (row) => usdColumn(row.usage_stats.total_cost_usd), isNumber: true },
];

/** How long a call took, or has taken so far; null where nobody connected. */
export function callSeconds(thread: Timed): number | null {
  if (thread.connected_at === null) return null;
  const end = thread.ended_at === null ? Date.now() : Date.parse(thread.ended_at);
  return (end - Date.parse(thread.connected_at)) / 1000;
}
