import { ago, count, duration, moment } from "../../shared/format";
import { Empty } from "../../shared/states";
import { Gauge } from "../gauge";
import { useGet } from "../load";
import { Badge, Card, PageHead, Shown } from "../parts";
import { Table } from "../table";
import type { Host } from "./types";

const TONES = { alive: "good", silent: "bad", stopped: "" } as const;

export function HostsPage() {
  const list = useGet<{ hosts: Host[] }>("/api/admin/hosts", {}, 5);
  return (
    <>
      <PageHead
        title="Hosts"
        text="The processes that run calls and finish them, and what each last said of itself."
      />
      <Card flush>
        <Shown of={list} rows={6}>
          {({ hosts }) =>
            hosts.length ? <HostTable hosts={hosts} /> : <Empty title="No process was heard of" />
          }
        </Shown>
      </Card>
    </>
  );
}

function HostTable({ hosts }: { hosts: Host[] }) {
  return (
    <Table
      label="Hosts"
      rows={hosts}
      keyOf={(host) => host.name}
      columns={[
        { head: "Host", cell: (host) => <HostLink name={host.name} />, look: "nowrap" },
        { head: "State", cell: (host) => <State host={host} /> },
        { head: "Calls", cell: (host) => <Calls host={host} />, look: "budget-cell" },
        { head: "Usage waiting in its spool", cell: (host) => <Spool host={host} /> },
        { head: "Version", cell: (host) => host.report?.version ?? "–" },
        { head: "Started", cell: (host) => moment(host.started_at), look: "nowrap muted" },
        { head: "Last sign of life", cell: (host) => ago(host.heartbeat_at), look: "nowrap muted" },
      ]}
    />
  );
}

function HostLink({ name }: { name: string }) {
  return <a href={`/console/operator/calls?host=${encodeURIComponent(name)}`}>{name}</a>;
}

function State({ host }: { host: Host }) {
  return (
    <div class="stack-badges">
      <Badge tone={TONES[host.state]}>{host.state}</Badge>
      {host.report?.draining && <Badge tone="warn">draining</Badge>}
    </div>
  );
}

function Calls({ host }: { host: Host }) {
  const { calls, capacity } = host.report ?? { calls: null, capacity: null };
  if (calls === null || capacity === null) return <span class="muted">{host.held_calls} held</span>;
  return (
    <div class="stack-tight">
      <span class="nowrap">
        {calls} <span class="muted">of {capacity}</span>
        {host.held_calls !== calls && (
          <span class="muted"> · {host.held_calls} in its name</span>
        )}
      </span>
      <Gauge
        label="Calls"
        used={calls}
        reserved={0}
        limit={capacity || 1}
        tone={calls >= capacity ? "warn" : ""}
      />
    </div>
  );
}

function Spool({ host }: { host: Host }) {
  const events = host.report?.spool_events ?? null;
  const oldest = host.report?.spool_oldest_secs ?? 0;
  if (events === null) return <>–</>;
  if (events === 0) return <span class="muted">nothing</span>;
  return (
    <Badge tone={oldest > 60 ? "bad" : "warn"}>
      {count(events)} for {duration(oldest)}
    </Badge>
  );
}
