import { componentsOf } from "../../shared/components";
import { count, duration, isoDay, percent, shortDay, usd, usdColumn } from "../../shared/format";
import { Empty } from "../../shared/states";
import type { Limits, ThreadPage, UsageReport, UsageRow } from "../../shared/types";
import { CallTable } from "../call_table";
import { StackedDays } from "../charts";
import { BudgetGauge, Quotas } from "../gauge";
import { useGet } from "../load";
import { Card, PageHead, Select, Shown, Stat } from "../parts";
import { useFilters } from "../query";
import { Table } from "../table";
import { NO_CALLS } from "./calls";

const PERIODS = [
  ["7", "Last 7 days"],
  ["30", "Last 30 days"],
  ["90", "Last 90 days"],
] as const;

export function OverviewPage() {
  const [filters, change] = useFilters({ days: "30" });
  // Also of an address that somebody wrote.
  const days = Number((PERIODS.find(([each]) => each === filters.days) ?? PERIODS[1])[0]);
  const period = { from: isoDay(1 - days), to: isoDay() };
  const byDay = useGet<UsageReport>("/api/usage", { ...period, group_by: "day" });
  const byKind = useGet<UsageReport>("/api/usage", { ...period, group_by: "kind" });
  const total = useGet<UsageReport>("/api/usage", period);
  const limits = useGet<Limits>("/api/limits", {}, 15);
  const latest = useGet<ThreadPage>("/api/threads", { limit: 8 }, 10);

  return (
    <>
      <PageHead title="Overview" text="What this key spends and does. Days are of UTC.">
        <Select
          label="Period"
          value={String(days)}
          options={PERIODS}
          onChange={(value) => change({ days: value })}
        />
      </PageHead>
      <div class="stack">
        <Shown of={byKind} rows={2}>
          {(kinds) => (
            <Shown of={total} rows={2}>
              {(sum) => <Numbers total={sum.rows[0]} byKind={kinds.rows} />}
            </Shown>
          )}
        </Shown>
        <Card title="Spend by day">
          <Shown of={byDay} rows={8}>
            {(report) => <SpendByDay rows={report.rows} from={period.from} days={days} />}
          </Shown>
        </Card>
        <div class="columns columns-even">
          <Card title="Budget this month">
            <Shown of={limits}>{(data) => <BudgetGauge budget={data.budget} />}</Shown>
          </Card>
          <Card title="Quotas" aside={<a href="/console/limits">All limits</a>}>
            <Shown of={limits}>{(data) => <Quotas limits={data.limits} most={4} />}</Shown>
          </Card>
        </div>
        <Card title="Latest calls" aside={<a href="/console/calls">All calls</a>} flush>
          <Shown of={latest}>
            {(page) =>
              page.threads.length ? (
                <CallTable threads={page.threads} label="Latest calls" />
              ) : (
                <Empty title={NO_CALLS.title}>{NO_CALLS.text}</Empty>
              )
            }
          </Shown>
        </Card>
      </div>
    </>
  );
}

function Numbers({ total, byKind }: { total: UsageRow | undefined; byKind: UsageRow[] }) {
  // Each call has one piece of work of this kind: its length.
  const callCount = byKind.find((row) => row.kind === "call")?.events ?? 0;
  const events = Number(total?.events ?? 0);
  const estimated = Number(total?.estimated_events ?? 0);
  const unpriced = Number(total?.unpriced_events ?? 0);
  return (
    <div class="grid">
      <Stat
        label="Spend"
        value={usd(total?.total_cost_usd ?? 0)}
        note={`${usd(total?.billable_cost_usd ?? 0)} billable`}
      />
      <Stat
        label="Calls"
        value={count(callCount)}
        note={`${duration(total?.call_seconds ?? 0)} in all`}
      />
      <Stat
        label="Model calls"
        value={count(total?.llm_calls ?? 0)}
        note={`${count(total?.total_tokens ?? 0)} tokens`}
      />
      <Stat
        label="Estimated"
        value={percent(estimated, events)}
        note={`${count(estimated)} of ${count(events)} pieces of work`}
      />
      <Stat
        label="Without a price"
        value={count(unpriced)}
        note={unpriced ? "not in any sum of dollars" : "everything has a price"}
        tone={unpriced ? "warn" : ""}
      />
    </div>
  );
}

function SpendByDay({ rows, from, days }: { rows: UsageRow[]; from: string; days: number }) {
  const begin = new Date(`${from}T00:00:00Z`);
  const all = Array.from({ length: days }, (_, index) => isoDay(index, begin));
  const ofDay = new Map(rows.map((row) => [row.day, row]));
  const series = componentsOf(rows[0] ?? {})
    .map((component) => ({
      ...component,
      values: all.map((day) => Number(ofDay.get(day)?.[`${component.name}_cost_usd`] ?? 0)),
    }))
    .filter((each) => each.values.some((value) => value > 0));
  if (series.length === 0) {
    return (
      <Empty title="Nothing was spent in this period">
        Each day's spend will be here, by what it was spent on.
      </Empty>
    );
  }
  return (
    <>
      <StackedDays label="Spend by day, stacked by component" days={all} series={series} />
      <details class="as-table">
        <summary>Show as a table</summary>
        <Table
          label="Spend by day"
          rows={all.map((day, index) => ({ day, index }))}
          keyOf={({ day }) => day}
          columns={[
            { head: "Day", cell: ({ day }) => shortDay(day), look: "nowrap" },
            ...series.map((each) => ({
              head: each.label,
              cell: ({ index }: { index: number }) => usdColumn(each.values[index]),
              isNumber: true,
            })),
          ]}
        />
      </details>
    </>
  );
}
