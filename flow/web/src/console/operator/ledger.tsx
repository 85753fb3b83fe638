import { count, isoDay, moment, shortDay } from "../../shared/format";
import { Empty } from "../../shared/states";
import { useGet } from "../load";
import { Card, DayField, PageHead, Pager, Shown, Table, usePages } from "../parts";
import { useFilters } from "../query";
import type { RejectedEvent, UnpricedModel } from "./types";

/** What the ledger lacks: prices, and events that it could not take. */
export function LedgerGapsPage() {
  const [filters, change] = useFilters({ from: `${isoDay().slice(0, 8)}01`, to: isoDay() });
  const unpriced = useGet<{ models: UnpricedModel[] }>("/api/admin/unpriced", filters);
  const pages = usePages(null);
  const rejected = useGet<{ rejected: RejectedEvent[]; next_cursor: string | null }>(
    "/api/admin/rejected",
    { cursor: pages.cursor },
  );
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
        <Card title="Events that the ledger could not take" flush>
          <Shown of={rejected}>
            {(page) =>
              page.rejected.length ? (
                <RejectedTable events={page.rejected} />
              ) : (
                <Empty title="Nothing was rejected" />
              )
            }
          </Shown>
          <Pager pages={pages} next={rejected.data?.next_cursor ?? null} />
        </Card>
      </div>
    </>
  );
}

function UnpricedTable({ models }: { models: UnpricedModel[] }) {
  return (
    <Table label="Models without a price">
      <thead>
        <tr>
          <th scope="col">Model</th>
          <th scope="col">Vendor</th>
          <th scope="col">Kind</th>
          <th scope="col" class="number">
            Events
          </th>
          <th scope="col" class="number">
            Not measured
          </th>
          <th scope="col" class="number">
            Keys
          </th>
          <th scope="col">Days</th>
        </tr>
      </thead>
      <tbody>
        {models.map((one) => (
          <tr key={`${one.provider} ${one.model} ${one.kind}`}>
            <td class="break">{one.model || "–"}</td>
            <td>{one.provider}</td>
            <td>{one.kind.toUpperCase()}</td>
            <td class="number">{count(one.unpriced_events)}</td>
            <td class="number">{count(one.unmetered_events)}</td>
            <td class="number">{count(one.keys)}</td>
            <td class="nowrap muted">
              {shortDay(one.first_day)} – {shortDay(one.last_day)}
            </td>
          </tr>
        ))}
      </tbody>
    </Table>
  );
}

function RejectedTable({ events }: { events: RejectedEvent[] }) {
  return (
    <Table label="Rejected events">
      <thead>
        <tr>
          <th scope="col">Time</th>
          <th scope="col">Why</th>
          <th scope="col">Event</th>
        </tr>
      </thead>
      <tbody>
        {events.map((one) => (
          <tr key={one.id}>
            <td class="nowrap">{moment(one.rejected_at)}</td>
            <td class="break">{one.reason}</td>
            <td>
              <details>
                <summary>As it came</summary>
                <pre class="json json-cell">{JSON.stringify(one.event, null, 2)}</pre>
              </details>
            </td>
          </tr>
        ))}
      </tbody>
    </Table>
  );
}
