import { moment, usd } from "../../shared/format";
import { Empty } from "../../shared/states";
import { Gauge } from "../gauge";
import { useGet } from "../load";
import { Badge, Card, PageHead, Pager, Select, Shown, Table, usePages } from "../parts";
import { useFilters } from "../query";
import { SearchField } from "./search_field";
import type { OperatorKey } from "./types";

const TIERS = [
  ["", "Any"],
  ["ok", "Below 85%"],
  ["warn", "85% reached"],
  ["engage", "95% reached"],
  ["exceeded", "Exceeded"],
  ["override", "Lifted"],
] as const;
const REVOKED = [
  ["false", "In use"],
  ["true", "Revoked"],
  ["", "All"],
] as const;

export function KeysPage() {
  const [filters, change] = useFilters({ search: "", tier: "", revoked: "false", team_id: "" });
  const pages = usePages(filters);
  const list = useGet<{ keys: OperatorKey[]; next_cursor: string | null }>("/api/admin/keys", {
    ...filters,
    cursor: pages.cursor,
  });
  return (
    <>
      <PageHead title="Keys" text="Every key, with what it spent this month (UTC).">
        <a class="button button-primary" href="/console/operator/keys/new">
          New key
        </a>
      </PageHead>
      <div class="stack">
        <div class="filters">
          <SearchField
            label="Name or id"
            value={filters.search}
            onSearch={(search) => change({ search })}
          />
          <Select
            label="Budget"
            value={filters.tier}
            options={TIERS}
            onChange={(tier) => change({ tier })}
          />
          <Select
            label="State"
            value={filters.revoked}
            options={REVOKED}
            onChange={(revoked) => change({ revoked })}
          />
        </div>
        <Card flush>
          <Shown of={list} rows={10}>
            {(page) =>
              page.keys.length ? <KeyTable keys={page.keys} /> : <Empty title="No key is like that" />
            }
          </Shown>
          <Pager pages={pages} next={list.data?.next_cursor ?? null} />
        </Card>
      </div>
    </>
  );
}

function KeyTable({ keys }: { keys: OperatorKey[] }) {
  return (
    <Table label="Keys">
      <thead>
        <tr>
          <th scope="col">Key</th>
          <th scope="col">Team</th>
          <th scope="col" class="number">
            Spent
          </th>
          <th scope="col">Budget</th>
          <th scope="col" class="number">
            Calls now
          </th>
          <th scope="col">Save mode</th>
          <th scope="col">Seen first</th>
        </tr>
      </thead>
      <tbody>
        {keys.map((key) => (
          <tr key={key.api_key_id}>
            <td>
              <a href={`/console/operator/keys/${key.api_key_id}`}>{key.name ?? "Unnamed"}</a>{" "}
              {key.revoked_at && <Badge tone="bad">revoked</Badge>}
            </td>
            <td class="break">{key.team_id}</td>
            <td class="number">{usd(key.budget.spent_usd)}</td>
            <td class="budget-cell">
              <BudgetCell budget={key.budget} />
            </td>
            <td class="number">{key.running_calls}</td>
            <td class="muted">{key.save_mode ?? "as the product says"}</td>
            <td class="nowrap muted">{moment(key.created_at)}</td>
          </tr>
        ))}
      </tbody>
    </Table>
  );
}

function BudgetCell({ budget }: { budget: OperatorKey["budget"] }) {
  if (budget.cap_usd === null) return <span class="muted">none</span>;
  const { tier } = budget;
  const tone = tier === "exceeded" ? "bad" : tier === "warn" || tier === "engage" ? "warn" : "";
  return (
    <div class="stack-tight">
      <span class="small nowrap">
        of {usd(budget.cap_usd)} {tier === "override" && <Badge tone="info">lifted</Badge>}
      </span>
      <Gauge
        label="Budget used"
        used={Number(budget.spent_usd)}
        reserved={Number(budget.reserved_usd)}
        limit={Number(budget.cap_usd)}
        tone={tone}
      />
    </div>
  );
}
