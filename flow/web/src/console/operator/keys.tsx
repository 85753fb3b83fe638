import { moment, usd } from "../../shared/format";
import { Gauge } from "../gauge";
import { type Paged, useList } from "../list";
import { Badge, PageHead, Select } from "../parts";
import { useFilters } from "../query";
import { ListCard, Table } from "../table";
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
  const list = useList<{ keys: OperatorKey[] } & Paged>("/api/admin/keys", filters);
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
        <ListCard
          of={list}
          rows={(page) => page.keys}
          empty={{ title: "No key is like that" }}
        >
          {(keys) => <KeyTable keys={keys} />}
        </ListCard>
      </div>
    </>
  );
}

function KeyTable({ keys }: { keys: OperatorKey[] }) {
  return (
    <Table
      label="Keys"
      rows={keys}
      keyOf={(key) => key.api_key_id}
      columns={[
        { head: "Key", cell: (key) => <KeyName of={key} /> },
        { head: "Team", cell: (key) => key.team_id, look: "break" },
        { head: "Spent", cell: (key) => usd(key.budget.spent_usd), isNumber: true },
        { head: "Budget", cell: (key) => <BudgetCell budget={key.budget} />, look: "budget-cell" },
        { head: "Calls now", cell: (key) => key.running_calls, isNumber: true },
        { head: "Save mode", cell: (key) => key.save_mode ?? "as the product says", look: "muted" },
        { head: "Seen first", cell: (key) => moment(key.created_at), look: "nowrap muted" },
      ]}
    />
  );
}

function KeyName({ of: key }: { of: OperatorKey }) {
  return (
    <>
      <a href={`/console/operator/keys/${key.api_key_id}`}>{key.name ?? "Unnamed"}</a>{" "}
      {key.revoked_at && <Badge tone="bad">revoked</Badge>}
    </>
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
