import { words } from "../../shared/format";
import { Empty } from "../../shared/states";
import type { Product, ThreadPage } from "../../shared/types";
import { CallTable } from "../call_table";
import { useGet } from "../load";
import { Card, DayField, PageHead, Pager, Select, Shown, usePages } from "../parts";
import { useFilters } from "../query";

const STATUSES = [
  "created",
  "connecting",
  "in_call",
  "ended",
  "extracting",
  "completed",
  "failed",
  "expired",
  "cancelled",
];
export const STATUS_OPTIONS = [
  ["", "Any"],
  ["running", "Running now"],
  ...STATUSES.map((each) => [each, words(each)] as const),
] as const;
const DEFAULTS = { status: "", product: "", from: "", to: "" };

export function CallsPage() {
  const [filters, change] = useFilters(DEFAULTS);
  const pages = usePages(filters);
  const isRunning = filters.status === "running";
  const query = {
    ...filters,
    status: isRunning ? "" : filters.status,
    running: isRunning || null,
    cursor: pages.cursor,
  };
  // Only the newest page changes by itself.
  const list = useGet<ThreadPage>("/api/threads", query, pages.cursor === null ? 5 : null);
  const products = useGet<{ products: Product[] }>("/api/products");
  const names = (products.data?.products ?? []).filter((each) => each.calls);
  const isFiltered = Object.values(filters).some((value) => value !== "");

  return (
    <>
      <PageHead title="Calls" text="Every call of this key, the newest first." />
      <div class="stack">
        <div class="filters">
          <Select
            label="Status"
            value={filters.status}
            options={STATUS_OPTIONS}
            onChange={(status) => change({ status })}
          />
          <Select
            label="Product"
            value={filters.product}
            options={[["", "Any"], ...names.map((each) => [each.name, each.name] as const)]}
            onChange={(product) => change({ product })}
          />
          <DayField label="From (UTC)" value={filters.from} onChange={(from) => change({ from })} />
          <DayField label="To (UTC)" value={filters.to} onChange={(to) => change({ to })} />
          {isFiltered && (
            <button type="button" class="button button-quiet" onClick={() => change(DEFAULTS)}>
              Clear
            </button>
          )}
        </div>
        <Card flush>
          <Shown of={list} rows={12}>
            {(page) =>
              page.threads.length ? (
                <CallTable threads={page.threads} label="Calls" />
              ) : (
                <Empty title={isFiltered ? "No call is like that" : "No calls yet"}>
                  {isFiltered
                    ? "Change the filters, or clear them."
                    : "The first call made with this key will appear here while it runs."}
                </Empty>
              )
            }
          </Shown>
          <Pager pages={pages} next={list.data?.next_cursor ?? null} />
        </Card>
      </div>
    </>
  );
}
