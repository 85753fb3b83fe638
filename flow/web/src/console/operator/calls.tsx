import { duration, moment, usdColumn } from "../../shared/format";
import { Empty } from "../../shared/states";
import { callSeconds } from "../call_table";
import { useGet } from "../load";
import { Card, DayField, PageHead, Pager, Select, Shown, StatusBadge, Table, usePages } from "../parts";
import { STATUS_OPTIONS } from "../pages/calls";
import { useFilters } from "../query";
import type { OperatorThread } from "./types";

const DEFAULTS = {
  status: "running",
  team_id: "",
  api_key_id: "",
  host: "",
  from: "",
  to: "",
};

export function AllCallsPage() {
  const [filters, change] = useFilters(DEFAULTS);
  const pages = usePages(filters);
  const isRunning = filters.status === "running";
  const list = useGet<{ threads: OperatorThread[]; next_cursor: string | null }>(
    "/api/admin/threads",
    {
      ...filters,
      status: isRunning ? "" : filters.status,
      running: isRunning || null,
      cursor: pages.cursor,
    },
    pages.cursor === null ? 5 : null,
  );
  const narrowed = (["team_id", "api_key_id", "host"] as const).filter((name) => filters[name]);
  return (
    <>
      <PageHead title="All calls" text="Calls of all keys, and the process that holds each." />
      <div class="stack">
        <div class="filters">
          <Select
            label="Status"
            value={filters.status}
            options={STATUS_OPTIONS}
            onChange={(status) => change({ status })}
          />
          <DayField label="From (UTC)" value={filters.from} onChange={(from) => change({ from })} />
          <DayField label="To (UTC)" value={filters.to} onChange={(to) => change({ to })} />
          {narrowed.map((name) => (
            <button
              type="button"
              class="button button-small chip"
              key={name}
              onClick={() => change({ [name]: "" })}
            >
              <span class="break">
                {name.replace("_id", "").replace("api_", "")}: {filters[name]}
              </span>
              <span aria-hidden="true">×</span>
              <span class="visually-hidden">Remove this filter</span>
            </button>
          ))}
        </div>
        <Card flush>
          <Shown of={list} rows={10}>
            {(page) =>
              page.threads.length ? (
                <ThreadTable threads={page.threads} />
              ) : (
                <Empty title={isRunning ? "No call is running now" : "No call is like that"} />
              )
            }
          </Shown>
          <Pager pages={pages} next={list.data?.next_cursor ?? null} />
        </Card>
      </div>
    </>
  );
}

function ThreadTable({ threads }: { threads: OperatorThread[] }) {
  return (
    <Table label="Calls of all keys">
      <thead>
        <tr>
          <th scope="col">Joined</th>
          <th scope="col">Status</th>
          <th scope="col">Key</th>
          <th scope="col">Host</th>
          <th scope="col">Over</th>
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
              <a href={`/console/operator/calls/${thread.workflow_thread_id}`}>
                {moment(thread.created_at)}
              </a>
            </td>
            <td>
              <StatusBadge status={thread.status} />
            </td>
            <td>
              <a href={`/console/operator/keys/${thread.api_key_id}`}>{thread.key_name ?? "Unnamed"}</a>
              <div class="muted small break">{thread.team_id}</div>
            </td>
            <td class="muted break">{thread.host ?? "–"}</td>
            <td>{thread.transport}</td>
            <td class="number">{duration(callSeconds(thread))}</td>
            <td class="number">{usdColumn(thread.usage_stats.total_cost_usd)}</td>
          </tr>
        ))}
      </tbody>
    </Table>
  );
}
