import type { Query } from "../../shared/api";
import { words } from "../../shared/format";
import { type Product, STATUSES, type ThreadPage } from "../../shared/types";
import { CallTable } from "../call_table";
import { useList } from "../list";
import { useGet } from "../load";
import { DayField, PageHead, Select } from "../parts";
import { useFilters } from "../query";
import { ListCard } from "../table";

export const STATUS_OPTIONS = [
  ["", "Any"],
  ["running", "Running now"],
  ...STATUSES.map((each) => [each, words(each)] as const),
] as const;
export const NO_CALLS = {
  title: "No calls yet",
  text: "The first call made with this key will appear here while it runs.",
};
export const POLL_SECS = 5;
const DEFAULTS = { status: "", product: "", from: "", to: "" };

/** The filters as the API takes them: those that run have several statuses. */
export function callQuery(filters: Record<string, string>): Query {
  if (filters.status !== "running") return filters;
  return { ...filters, status: null, running: true };
}

export function CallsPage() {
  const [filters, change] = useFilters(DEFAULTS);
  const list = useList<ThreadPage>("/api/threads", callQuery(filters), POLL_SECS);
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
        <ListCard
          of={list}
          rows={(page) => page.threads}
          empty={
            isFiltered
              ? { title: "No call is like that", text: "Change the filters, or clear them." }
              : NO_CALLS
          }
        >
          {(threads) => <CallTable threads={threads} label="Calls" />}
        </ListCard>
      </div>
    </>
  );
}
