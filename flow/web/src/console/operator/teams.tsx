import { useRoute } from "preact-iso";
import { useState } from "preact/hooks";
import { usd } from "../../shared/format";
import type { Limit } from "../../shared/types";
import { ActionProblem, useAction } from "../action";
import { Fact } from "../fact";
import { limitAmount, limitName, Most } from "../gauge";
import { type Paged, useList } from "../list";
import { useGet } from "../load";
import { Badge, Card, PageHead, Shown } from "../parts";
import { useFilters } from "../query";
import { useSession } from "../session";
import { ListCard, Table } from "../table";
import { SearchField } from "./search_field";
import type { Team } from "./types";

export function TeamsPage() {
  const [filters, change] = useFilters({ search: "" });
  const list = useList<{ teams: Team[] } & Paged>("/api/admin/teams", filters);
  return (
    <>
      <PageHead title="Teams" text="Every team that has a key or a quota, this month (UTC)." />
      <div class="stack">
        <div class="filters">
          <SearchField label="Team" value={filters.search} onSearch={(search) => change({ search })} />
        </div>
        <ListCard
          of={list}
          rows={(page) => page.teams}
          empty={{ title: "No team is like that" }}
        >
          {(teams) => <TeamTable teams={teams} />}
        </ListCard>
      </div>
    </>
  );
}

function TeamTable({ teams }: { teams: Team[] }) {
  return (
    <Table
      label="Teams"
      rows={teams}
      keyOf={(team) => team.team_id}
      columns={[
        { head: "Team", cell: (team) => <TeamLink id={team.team_id} />, look: "break" },
        { head: "Spent", cell: (team) => usd(team.spent_usd), isNumber: true },
        { head: "Billable", cell: (team) => usd(team.billable_usd), isNumber: true },
        { head: "Keys", cell: (team) => team.keys, isNumber: true },
        { head: "Calls now", cell: (team) => team.running_calls, isNumber: true },
        { head: "Quotas", cell: (team) => <Quotas limits={team.limits} /> },
      ]}
    />
  );
}

function TeamLink({ id }: { id: string }) {
  return <a href={`/console/operator/teams/${encodeURIComponent(id)}`}>{id}</a>;
}

function Quotas({ limits }: { limits: Limit[] }) {
  const set = limits.filter((limit) => limit.limit !== null);
  if (set.length === 0) return <span class="muted">none</span>;
  return (
    <div class="stack-badges">
      {set.map((limit) => (
        <Badge tone={limit.limited ? "bad" : ""} key={limit.resource}>
          {limitName(limit)} {limitAmount(limit, limit.used)} / {limitAmount(limit, limit.limit)}
        </Badge>
      ))}
    </div>
  );
}

export function TeamPage() {
  const { params } = useRoute();
  const id = params.id ?? "";
  const path = `/api/admin/teams/${encodeURIComponent(id)}`;
  const team = useGet<Team>(path);
  return (
    <>
      <PageHead title={id} text="Quotas of a team hold for all of its keys together.">
        <a class="button" href={`/console/operator/keys?team_id=${encodeURIComponent(id)}`}>
          Keys
        </a>
        <a class="button" href={`/console/operator/calls?team_id=${encodeURIComponent(id)}`}>
          Calls
        </a>
      </PageHead>
      <Shown of={team} rows={8}>
        {(data) => (
          <div class="stack">
            <div class="card fact-bar">
              <Fact label="Spent this month">{usd(data.spent_usd)}</Fact>
              <Fact label="Billable">{usd(data.billable_usd)}</Fact>
              <Fact label="Keys">{data.keys}</Fact>
              <Fact label="Calls now">{data.running_calls}</Fact>
            </div>
            <Card title="Quotas" flush>
              <QuotaTable team={data} path={path} onChange={team.reload} />
            </Card>
          </div>
        )}
      </Shown>
    </>
  );
}

function QuotaTable(props: { team: Team; path: string; onChange: () => void }) {
  return (
    <Table
      label="Quotas"
      rows={props.team.limits.filter((limit) => limit.product === null)}
      keyOf={(limit) => limit.resource}
      columns={[
        { head: "Quota", cell: limitName },
        { head: "Used", cell: (limit) => limitAmount(limit, limit.used), isNumber: true },
        { head: "Limit now", cell: (limit) => <Most limit={limit} />, isNumber: true },
        { head: "New limit", cell: (limit) => <QuotaForm limit={limit} {...props} /> },
      ]}
    />
  );
}

const IN = { call_seconds: "seconds", concurrent_calls: "calls" } as Record<string, string>;

function QuotaForm(props: { limit: Limit; path: string; onChange: () => void }) {
  const { api } = useSession();
  const { isBusy, problem, run } = useAction();
  const [amount, setAmount] = useState(props.limit.limit ?? "");
  const { resource } = props.limit;
  const save = async (event: SubmitEvent) => {
    event.preventDefault();
    const limit = amount.trim() || null;
    if (await run(() => api.put(`${props.path}/quotas/${resource}`, { limit }))) props.onChange();
  };
  return (
    <form class="row" onSubmit={save}>
      <input
        class="input input-small input-amount"
        inputMode="decimal"
        aria-label={`New limit of ${limitName(props.limit)}, empty for none`}
        value={amount}
        onInput={(event) => setAmount(event.currentTarget.value)}
      />
      <span class="muted small">{IN[resource] ?? "credits"}</span>
      <button type="submit" class="button button-small" disabled={isBusy}>
        Set
      </button>
      <ActionProblem problem={problem} />
    </form>
  );
}
