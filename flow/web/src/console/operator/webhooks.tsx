import { moment } from "../../shared/format";
import { ActionProblem, Confirmed, useAction } from "../action";
import { type Paged, useList } from "../list";
import { Badge, PageHead, Select } from "../parts";
import { useFilters } from "../query";
import { useSession } from "../session";
import { ListCard, Table } from "../table";
import type { Webhook } from "./types";

const WHICH = [
  ["true", "Given up"],
  ["false", "All"],
] as const;
const TONES: Record<string, string> = { delivered: "good", dead: "bad", waiting: "warn" };

export function WebhooksPage() {
  const { api } = useSession();
  const [filters, change] = useFilters({ dead: "true" });
  const list = useList<{ webhooks: Webhook[] } & Paged>("/api/admin/webhooks", filters);
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
        <ListCard
          of={list}
          rows={(page) => page.webhooks}
          empty={{ title: filters.dead === "true" ? "Nothing was given up" : "No webhooks yet" }}
        >
          {(webhooks) => (
            <WebhookTable
              webhooks={webhooks}
              isBusy={isBusy}
              onReplay={(id) => replay(`${id}/replay`)}
            />
          )}
        </ListCard>
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
    <Table
      label="Webhooks"
      rows={props.webhooks}
      keyOf={(one) => one.event_id}
      columns={[
        { head: "Time", cell: (one) => moment(one.created_at), look: "nowrap" },
        { head: "Event", cell: (one) => <EventName of={one} />, look: "nowrap" },
        {
          head: "State",
          cell: (one) => <Badge tone={TONES[one.state] ?? ""}>{one.state}</Badge>,
        },
        { head: "Receiver", cell: (one) => <Receiver of={one} />, look: "break url-cell" },
        { head: "Attempts", cell: (one) => one.attempts, isNumber: true },
        {
          head: "Last answer",
          cell: (one) => one.last_error ?? one.last_status ?? "–",
          look: "break",
        },
        { head: <span class="visually-hidden">Action</span>, cell: (one) => again(one, props) },
      ]}
    />
  );
}

function EventName({ of: one }: { of: Webhook }) {
  if (one.workflow_thread_id === null) return <>{one.type}</>;
  return <a href={`/console/operator/calls/${one.workflow_thread_id}`}>{one.type}</a>;
}

function Receiver({ of: one }: { of: Webhook }) {
  return (
    <>
      {one.url}
      <div class="muted small">{one.team_id}</div>
    </>
  );
}

function again(one: Webhook, on: { isBusy: boolean; onReplay: (id: string) => void }) {
  if (one.state !== "dead" && one.state !== "delivered") return null;
  return (
    <button
      type="button"
      class="button button-small"
      disabled={on.isBusy}
      onClick={() => on.onReplay(one.event_id)}
    >
      Send again
    </button>
  );
}
