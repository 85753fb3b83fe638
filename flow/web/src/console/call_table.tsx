import { duration, moment, usdColumn, words } from "../shared/format";
import type { ThreadSummary } from "../shared/types";
import { StatusBadge, Table } from "./parts";

/** Calls, each with a link to it. */
export function CallTable({ threads, label }: { threads: ThreadSummary[]; label: string }) {
  return (
    <Table label={label}>
      <thead>
        <tr>
          <th scope="col">Joined</th>
          <th scope="col">Status</th>
          <th scope="col" class="wide-only">
            Product
          </th>
          <th scope="col" class="wide-only">
            Ended by
          </th>
          <th scope="col" class="number">
            Length
          </th>
          <th scope="col" class="number">
            Cost
          </th>
        </tr>
      </thead>
      <tbody>
        {threads.map((thread) => (
          <tr key={thread.workflow_thread_id}>
            <td class="nowrap">
              <a href={`/console/calls/${thread.workflow_thread_id}`}>{moment(thread.created_at)}</a>
            </td>
            <td>
              <StatusBadge status={thread.status} />
            </td>
            <td class="nowrap wide-only">{thread.product}</td>
            <td class="nowrap muted wide-only">{thread.end_reason ? words(thread.end_reason) : "–"}</td>
            <td class="number">{duration(callSeconds(thread))}</td>
            <td class="number">{usdColumn(thread.usage_stats.total_cost_usd)}</td>
          </tr>
        ))}
      </tbody>
    </Table>
  );
}

/** How long a call took, or has taken so far; null where nobody connected. */
export function callSeconds(
  thread: Pick<ThreadSummary, "connected_at" | "ended_at">,
): number | null {
  if (thread.connected_at === null) return null;
  const end = thread.ended_at === null ? Date.now() : Date.parse(thread.ended_at);
  return (end - Date.parse(thread.connected_at)) / 1000;
}
