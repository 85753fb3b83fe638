import type { Product, RequestPage } from "../../shared/types";
import { LedgerTable } from "../ledger_table";
import { useList } from "../list";
import { useGet } from "../load";
import { PageHead, Select } from "../parts";
import { useFilters } from "../query";
import { ListCard } from "../table";

const NO_REQUESTS = {
  title: "No requests yet",
  text:
    "Point an OpenAI or Anthropic client at this server, with this key, and what it asks for " +
    "appears here.",
};

export function RequestsPage() {
  const [filters, change] = useFilters({ product: "" });
  const list = useList<RequestPage>("/api/requests", filters, 10);
  const products = useGet<{ products: Product[] }>("/api/products");
  const names = (products.data?.products ?? []).filter((each) => each.gateway);
  return (
    <>
      <PageHead
        title="Gateway requests"
        text="Model calls that were made through the gateway, each attempt with its cost."
      />
      <div class="stack">
        <div class="filters">
          <Select
            label="Product"
            value={filters.product}
            options={[["", "Any"], ...names.map((each) => [each.name, each.name] as const)]}
            onChange={(product) => change({ product })}
          />
        </div>
        <ListCard of={list} rows={(page) => page.requests} empty={NO_REQUESTS}>
          {(rows) => <LedgerTable rows={rows} label="Gateway requests" withDay />}
        </ListCard>
      </div>
    </>
  );
}
