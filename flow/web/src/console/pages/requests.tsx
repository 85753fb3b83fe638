import { Empty } from "../../shared/states";
import type { Product, RequestPage } from "../../shared/types";
import { LedgerTable } from "../ledger_table";
import { useGet } from "../load";
import { Card, PageHead, Pager, Select, Shown, usePages } from "../parts";
import { useFilters } from "../query";

export function RequestsPage() {
  const [filters, change] = useFilters({ product: "" });
  const pages = usePages(filters);
  const list = useGet<RequestPage>(
    "/api/requests",
    { ...filters, cursor: pages.cursor },
    pages.cursor === null ? 10 : null,
  );
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
        <Card flush>
          <Shown of={list} rows={12}>
            {(page) =>
              page.requests.length ? (
                <LedgerTable rows={page.requests} label="Gateway requests" withDay />
              ) : (
                <Empty title="No requests yet">
                  Point an OpenAI or Anthropic client at this server, with this key, and what it
                  asks for appears here.
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
