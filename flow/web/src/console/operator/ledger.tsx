import { count, isoDay, moment, shortDay } from "../../shared/format";
import { Empty } from "../../shared/states";
import { type Paged, useList } from "../list";
import { useGet } from "../load";
import { Card, DayField, PageHead, Shown } from "../parts";
import { useFilters } from "../query";
import { ListCard, Table } from "../table";
import type { RejectedEvent, UnpricedModel } from "./types";

/** What the ledger lacks: prices, and events that it could not take. */
export function LedgerGapsPage() {
  const [filters, change] = useFilters({ from: `${isoDay().slice(0, 8)}01`, to: isoDay() });
  const unpriced = useGet<{ models: UnpricedModel[] }>("/api/admin/unpriced", filters);
  const rejected = useList<{ rejected: RejectedEvent[] } & Paged>("/api/admin/rejected");
  return (
    <>
      <PageHead title="Ledger" text="What has no price, and what could not be taken." />
      <div class="stack">
        <Card title="Models without a price" flush>
          <div class="filters card-filters">
            <DayField label="From (UTC)" value={filters.from} onChange={(from) => change({ from })} />
            <DayField label="To (UTC)" value={filters.to} onChange={(to) => change({ to })} />
          </div>
          <Shown of={unpriced}>
            {({ models }) =>
              models.length ? (
                <UnpricedTable models={models} />
              ) : (
                <Empty title="Everything that was used has a price" />
              )
            }
          </Shown>
        </Card>
        <h2>Events that the ledger could not take</h2>
        <ListCard
          of={rejected}
          rows={(page) => page.rejected}
          empty={{ title: "Nothing was rejected" }}
        >
          {(events) => <RejectedTable events={events} />}
        </ListCard>
      </div>
    </>
  );
}

function UnpricedTable({ models }: { models: UnpricedModel[] }) {
  return (
    <Table
      label="Models without a price"
      rows={models}
      keyOf={(one) => `${one.provider} ${one.model} ${one.kind}`}
      columns={[
        { head: "Model", cell: (one) => one.model || "–", look: "break" },
        { head: "Vendor", cell: (one) => one.provider },
        { head: "Kind", cell: (one) => one.kind.toUpperCase() },
        { head: "Events", cell: (one) => count(one.unpriced_events), isNumber: true },
        { head: "Not measured", cell: (one) => count(one.unmetered_events), isNumber: true },
        { head: "Keys", cell: (one) => count(one.keys), isNumber: true },
        {
          head: "Days",
          cell: (one) => `${shortDay(one.first_day)} – ${shortDay(one.last_day)}`,
          look: "nowrap muted",
        },
      ]}
    />
  );
}

function RejectedTable({ events }: { events: RejectedEvent[] }) {
  return (
    <Table
      label="Rejected events"
      rows={events}
      keyOf={(one) => one.id}
      columns={[
        { head: "Time", cell: (one) => moment(one.rejected_at), look: "nowrap" },
        { head: "Why", cell: (one) => one.reason, look: "break" },
        { head: "Event", cell: (one) => <AsItCame event={one.event} /> },
      ]}
    />
  );
}

function AsItCame({ event }: { event: RejectedEvent["event"] }) {
  return (
    <details>
      <summary>As it came</summary>
      <pre class="json json-cell">{JSON.stringify(event, null, 2)}</pre>
    </details>
  );
}
