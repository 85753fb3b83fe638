import { moment } from "../../shared/format";
import { Empty } from "../../shared/states";
import { useGet } from "../load";
import { Badge, Card, PageHead, Pager, Select, Shown, Table, usePages } from "../parts";
import { useFilters } from "../query";
import { useSession } from "../session";
import { ActionProblem, Confirmed, useAction } from "./action";
import type { Webhook } from "./types";

const WHICH = [
  ["true", "Given up"],
  ["false", "All"],
] as const;
const TONES: Record<string, string> = { delivered: "good", dead: "bad", waiting: "warn" };

export function WebhooksPage() {
  const { api } = useSession();
  const [filters, change] = useFilters({ dead: "true" });
  const pages = usePages(filters);
  const list = useGet<{ webhooks: Webhook[]; next_cursor: string | null }>("/api/admin/webhooks", {
    ...filters,
    cursor: pages.cursor,
  });
  const { isBusy, problem, run } = useAction();
  const replay = async (path: string) => {
    if (await run(() => api.post(`/api/admin/webhooks/${path}`))) list.reload();
  };
  const hasDead = list.data?.webhooks.some((one) => one.state === "dead") ?? false;
  return (
    <>
      <PageHead title="Webhooks" text="What customers were told, and what could not be delivered.">
        {hasDead && (
          <Confirmed
            label="Send again"
            question="Send everything that was given up?"
            isBusy={isBusy}
            onConfirm={() => replay("replay")}
          />
        )}
      </PageHead>
      <div class="stack">
        <div class="filters">
          <Select label="Show" value={filters.dead} options={WHICH} onChange={(dead) => change({ dead })} />
        </div>
        <ActionProblem problem={problem} />
        <Card flush>
          <Shown of={list} rows={10}>
            {(page) =>
              page.webhooks.length ? (
                <WebhookTable
                  webhooks={page.webhooks}
                  isBusy={isBusy}
                  onReplay={(id) => replay(`${id}/replay`)}
                />
              ) : (
                <Empty title={filters.dead === "true" ? "Nothing was given up" : "No webhooks yet"} />
              )
            }
          </Shown>
          <Pager pages={pages} next={list.data?.next_cursor ?? null} />
        </Card>
      </div>
    </>
  );
}

function WebhookTable(props: {
  webhooks: Webhook[];
  isBusy: boolean;
  onReplay: (id: string) => void;
}) {
  return (
    <Table label="Webhooks">
      <thead>
        <tr>
          <th scope="col">Time</th>
          <th scope="col">Event</th>
          <th scope="col">State</th>
          <th scope="col">Receiver</th>
          <th scope="col" class="number">
            Attempts
          </th>
          <th scope="col">Last answer</th>
          <th scope="col">
            <span class="visually-hidden">Action</span>
          </th>
        </tr>
      </thead>
      <tbody>
        {props.webhooks.map((one) => (
          <tr key={one.event_id}>
            <td class="nowrap">{moment(one.created_at)}</td>
            <td class="nowrap">
              {one.workflow_thread_id ? (
                <a href={`/console/operator/calls/${one.workflow_thread_id}`}>{one.type}</a>
              ) : (
                one.type
              )}
            </td>
            <td>
              <Badge tone={TONES[one.state] ?? ""}>{one.state}</Badge>
            </td>
            <td class="break url-cell">
              {one.url}
              <div class="muted small">{one.team_id}</div>
            </td>
            <td class="number">{one.attempts}</td>
            <td class="break">{one.last_error ?? one.last_status ?? "–"}</td>
            <td>
              {(one.state === "dead" || one.state === "delivered") && (
                <button
                  type="button"
                  class="button button-small"
                  disabled={props.isBusy}
                  onClick={() => props.onReplay(one.event_id)}
                >
                  Send again
                </button>
              )}
            </td>
          </tr>
        ))}
      </tbody>
    </Table>
  );
}
