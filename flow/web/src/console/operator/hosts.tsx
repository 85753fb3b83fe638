import { ago, count, duration, moment } from "../../shared/format";
import { Empty } from "../../shared/states";
import { Gauge } from "../gauge";
import { useGet } from "../load";
import { Badge, Card, PageHead, Shown, Table } from "../parts";
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
    <Table label="Hosts">
      <thead>
        <tr>
          <th scope="col">Host</th>
          <th scope="col">State</th>
          <th scope="col">Calls</th>
          <th scope="col">Usage waiting in its spool</th>
          <th scope="col">Version</th>
          <th scope="col">Started</th>
          <th scope="col">Last sign of life</th>
        </tr>
      </thead>
      <tbody>
        {hosts.map((host) => (
          <tr key={host.name}>
            <td class="nowrap">
              <a href={`/console/operator/calls?host=${encodeURIComponent(host.name)}`}>{host.name}</a>
            </td>
            <td>
              <div class="stack-badges">
                <Badge tone={TONES[host.state]}>{host.state}</Badge>
                {host.report?.draining && <Badge tone="warn">draining</Badge>}
              </div>
            </td>
            <td class="budget-cell">
              <Calls host={host} />
            </td>
            <td>
              <Spool host={host} />
            </td>
            <td>{host.report?.version ?? "–"}</td>
            <td class="nowrap muted">{moment(host.started_at)}</td>
            <td class="nowrap muted">{ago(host.heartbeat_at)}</td>
          </tr>
        ))}
      </tbody>
    </Table>
  );
}

function Calls({ host }: { host: Host }) {
  const { report } = host;
  if (report === null) return <span class="muted">{host.held_calls} held</span>;
  return (
    <div class="stack-tight">
      <span class="nowrap">
        {report.calls} <span class="muted">of {report.capacity}</span>
        {host.held_calls !== report.calls && (
          <span class="muted"> · {host.held_calls} in its name</span>
        )}
      </span>
      <Gauge
        label="Calls"
        used={report.calls}
        reserved={0}
        limit={report.capacity || 1}
        tone={report.calls >= report.capacity ? "warn" : ""}
      />
    </div>
  );
}

function Spool({ host }: { host: Host }) {
  if (host.report === null) return <>–</>;
  const { spool_events: events, spool_oldest_secs: oldest } = host.report;
  if (events === 0) return <span class="muted">nothing</span>;
  return (
    <Badge tone={oldest > 60 ? "bad" : "warn"}>
      {count(events)} for {duration(oldest)}
    </Badge>
  );
}
