import { useState } from "preact/hooks";
import { moment } from "../../shared/format";
import { Empty } from "../../shared/states";
import { useGet } from "../load";
import { Card, PageHead, Shown } from "../parts";
import { useFilters } from "../query";
import { Table } from "../table";
import { SearchField } from "./search_field";
import type { PhoneNumber } from "./types";

/** As many as one looks at; all of them would make a slow page. */
const AT_ONCE = 100;

export function NumbersPage() {
  const [filters, change] = useFilters({ search: "" });
  const list = useGet<{ numbers: PhoneNumber[] }>("/api/admin/numbers");
  return (
    <>
      <PageHead title="Numbers" text="The telephone numbers that are answered here, or called from.">
        <a class="button button-primary" href="/console/operator/numbers/new">
          Add a number
        </a>
      </PageHead>
      <div class="stack">
        <div class="filters">
          <SearchField
            label="Number, agent, key or team"
            value={filters.search}
            onSearch={(search) => change({ search })}
          />
        </div>
        <Card flush>
          <Shown of={list} rows={8}>
            {({ numbers }) => <Found numbers={numbers} search={filters.search} key={filters.search} />}
          </Shown>
        </Card>
      </div>
    </>
  );
}

function Found({ numbers, search }: { numbers: PhoneNumber[]; search: string }) {
  const [most, setMost] = useState(AT_ONCE);
  const found = numbers.filter((number) => matches(number, search));
  if (numbers.length === 0) {
    return (
      <Empty title="No numbers yet">
        Add a number of yours, say what it rings, and give the carrier its webhook.
      </Empty>
    );
  }
  if (found.length === 0) return <Empty title="No number is like that" />;
  return (
    <>
      <NumberTable numbers={found.slice(0, most)} />
      {found.length > most && (
        <div class="pager">
          <span class="muted">
            {most} of {found.length}
          </span>
          <button type="button" class="button button-small" onClick={() => setMost(most + AT_ONCE)}>
            Show more
          </button>
        </div>
      )}
    </>
  );
}

function matches(number: PhoneNumber, search: string): boolean {
  const { product, agent_name: agent, key_name: key, team_id: team } = number;
  const texts = [number.number, product, agent, key, team];
  return texts.some((text) => text?.toLowerCase().includes(search.toLowerCase()));
}

function NumberTable({ numbers }: { numbers: PhoneNumber[] }) {
  return (
    <Table
      label="Numbers"
      rows={numbers}
      keyOf={({ number }) => number}
      columns={[
        {
          head: "Number",
          cell: ({ number }) => (
            <a href={`/console/operator/numbers/${encodeURIComponent(number)}`}>{number}</a>
          ),
          look: "nowrap",
        },
        { head: "Rings", cell: (number) => <Rings of={number} />, look: "break" },
        {
          head: "On the key",
          cell: (number) => (
            <a href={`/console/operator/keys/${number.api_key_id}`}>{number.key_name ?? "Unnamed"}</a>
          ),
          look: "break",
        },
        { head: "Team", cell: ({ team_id }) => team_id, look: "break", wideOnly: true },
        { head: "Added", cell: (number) => moment(number.created_at), look: "nowrap muted", wideOnly: true },
      ]}
    />
  );
}

/** Who answers when the number is called. */
function Rings({ of: { agent, agent_name: name, product } }: { of: PhoneNumber }) {
  if (agent !== null) return <>{name ?? <code>{agent}</code>}</>;
  if (product !== null) {
    return (
      <>
        {product} <span class="muted">(product)</span>
      </>
    );
  }
  return <span class="muted">nobody: it only calls</span>;
}
