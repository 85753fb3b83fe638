import { componentsOf } from "../../shared/components";
import { count, decimal, isoDay, usdColumn, words } from "../../shared/format";
import { Empty, Failure } from "../../shared/states";
import type { UsageReport, UsageRow } from "../../shared/types";
import { useAction } from "../action";
import { useGet } from "../load";
import { Card, DayField, PageHead, Shown } from "../parts";
import { useFilters } from "../query";
import { useSession } from "../session";
import { Table } from "../table";

const GROUPS = ["day", "model", "provider", "product", "kind", "source"];
const OPERATOR_GROUPS = ["team", "key", ...GROUPS];
const OUTCOMES = [
  "estimated_events",
  "unpriced_events",
  "unmetered_events",
  "interrupted_events",
  "failed_events",
];
const NOT_UNITS = new Set<string>([
  ...OPERATOR_GROUPS,
  "team_id",
  "api_key_id",
  "key_name",
  ...OUTCOMES,
  "events",
  "llm_calls",
  "total_tokens",
  "total_cost_usd",
  "billable_cost_usd",
]);

export function UsagePage() {
  return (
    <Usage
      path="/api/usage"
      groups={GROUPS}
      title="Usage"
      text="What was used and what it cost, by whatever matters."
    />
  );
}

export function AllUsagePage() {
  return (
    <Usage
      path="/api/admin/usage"
      groups={OPERATOR_GROUPS}
      title="All usage"
      text="What all keys used and what it cost, by whatever matters."
    />
  );
}

function Usage(props: { path: string; groups: string[]; title: string; text: string }) {
  const { path } = props;
  const { api } = useSession();
  const [filters, change] = useFilters({
    from: `${isoDay().slice(0, 8)}01`,
    to: isoDay(),
    group_by: props.groups[0] === "team" ? "team" : "model",
  });
  const groups = filters.group_by.split(",").filter(Boolean);
  const report = useGet<UsageReport>(path, filters);
  const total = useGet<UsageReport>(path, { from: filters.from, to: filters.to });
  const { isBusy, problem, run } = useAction();

  const toggle = (group: string) => {
    const next = props.groups.filter((each) => (each === group) !== groups.includes(each));
    change({ group_by: next.join(",") });
  };
  const download = () =>
    run(async () => {
      const file = await api.file(path, filters, "text/csv");
      save(file, `usage-${filters.from}-${filters.to}.csv`);
    });

  return (
    <>
      <PageHead title={props.title} text={props.text}>
        <button type="button" class="button" disabled={isBusy} onClick={download}>
          Download CSV
        </button>
      </PageHead>
      {problem && <Failure problem={problem} />}
      <div class="stack">
        <div class="filters">
          <DayField label="From (UTC)" value={filters.from} onChange={(from) => change({ from })} />
          <DayField label="To (UTC)" value={filters.to} onChange={(to) => change({ to })} />
          <fieldset class="field choices">
            <legend class="label">Group by</legend>
            {props.groups.map((group) => (
              <label class="check" key={group}>
                <input
                  type="checkbox"
                  checked={groups.includes(group)}
                  onChange={() => toggle(group)}
                />
                {words(group)}
              </label>
            ))}
          </fieldset>
        </div>
        <Card flush>
          <Shown of={report} rows={10}>
            {(data) =>
              data.rows.length ? (
                <UsageTable
                  report={data}
                  total={total.data?.rows[0] ?? null}
                  title={props.title}
                />
              ) : (
                <Empty title="Nothing was used in this period" />
              )
            }
          </Shown>
        </Card>
      </div>
    </>
  );
}

function UsageTable(props: { report: UsageReport; total: UsageRow | null; title: string }) {
  const { report, total, title } = props;
  const { rows, group_by: groups } = report;
  const shown = (columns: string[]) =>
    columns.filter((column) => rows.some((row) => Number(row[column] ?? 0) !== 0));
  const first = rows[0] ?? {};
  const costs = shown(componentsOf(first).map((each) => `${each.name}_cost_usd`));
  const units = shown(
    Object.keys(first).filter((name) => !NOT_UNITS.has(name) && !name.endsWith("_cost_usd")),
  );
  const sum = (column: string) => (total && groups.length ? cell(column, total[column]) : undefined);
  return (
    <Table
      label={title}
      rows={rows}
      keyOf={(row) => groups.map((group) => groupOf(row, group)).join(" ")}
      columns={[
        ...groups.map((group) => ({
          head: words(group),
          cell: (row: UsageRow) => groupOf(row, group) || <span class="muted">none</span>,
          look: "nowrap",
        })),
        ...["total_cost_usd", "events", ...units, ...shown(OUTCOMES), ...costs].map((column) => ({
          head: column === "total_cost_usd" ? "Total cost" : heading(column),
          cell: (row: UsageRow) => cell(column, row[column]),
          isNumber: true,
          look: column === "total_cost_usd" ? "strong" : "",
          total: sum(column),
        })),
      ]}
    />
  );
}

/** What a row is of: a team and a key have columns of other names. */
function groupOf(row: UsageRow, group: string): string {
  if (group === "team") return String(row.team_id ?? "");
  if (group === "key") return String(row.key_name ?? row.api_key_id ?? "");
  return String(row[group] ?? "");
}

function heading(column: string): string {
  if (!column.endsWith("_cost_usd")) return words(column.replace(/_events$/, ""));
  return `${componentsOf({ [column]: null })[0]?.label ?? column} cost`;
}

function cell(column: string, value: string | number | null | undefined) {
  if (value != null && Number(value) === 0) return <span class="muted">0</span>;
  if (column.endsWith("_cost_usd")) return usdColumn(value);
  return column.endsWith("_seconds") ? decimal(value) : count(value);
}

function save(file: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}
