import { LENGTH_AND_COST, whichCall } from "../call_table";
import { type Paged, useList } from "../list";
import { callQuery, POLL_SECS, STATUS_OPTIONS } from "../pages/calls";
import { DayField, PageHead, Select } from "../parts";
import { useFilters } from "../query";
import { ListCard, Table } from "../table";
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
  const list = useList<{ threads: OperatorThread[] } & Paged>(
    "/api/admin/threads",
    callQuery(filters),
    POLL_SECS,
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
        <ListCard
          of={list}
          rows={(page) => page.threads}
          empty={{ title: filters.status === "running" ? "No call is running now" : "No call is like that" }}
        >
          {(threads) => <ThreadTable threads={threads} />}
        </ListCard>
      </div>
    </>
  );
}

function ThreadTable({ threads }: { threads: OperatorThread[] }) {
  return (
    <Table
      label="Calls of all keys"
      rows={threads}
      keyOf={(thread) => thread.workflow_thread_id}
      columns={[
        ...whichCall<OperatorThread>("/console/operator/calls"),
        { head: "Key", cell: (thread) => <Owner of={thread} /> },
        { head: "Host", cell: (thread) => thread.host ?? "–", look: "muted break" },
        { head: "Over", cell: (thread) => thread.transport },
        ...LENGTH_AND_COST,
      ]}
    />
  );
}

function Owner({ of: thread }: { of: OperatorThread }) {
  return (
    <>
      <a href={`/console/operator/keys/${thread.api_key_id}`}>{thread.key_name ?? "Unnamed"}</a>
      <div class="muted small break">{thread.team_id}</div>
    </>
  );
}
