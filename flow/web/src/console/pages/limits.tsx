import { moment } from "../../shared/format";
import type { Limit, Limits } from "../../shared/types";
import { BudgetGauge, keyOfLimit, limitAmount, limitName, Most, Quotas } from "../gauge";
import { useGet } from "../load";
import { Badge, Card, PageHead, Shown } from "../parts";
import { Table } from "../table";

export function LimitsPage() {
  const limits = useGet<Limits>("/api/limits", {}, 15);
  return (
    <>
      <PageHead
        title="Limits"
        text="What this key and its team may use, and how far they have got. Months are of UTC."
      />
      <Shown of={limits} rows={10}>
        {(data) => (
          <div class="stack">
            <div class="columns columns-even">
              <Card title="Budget this month">
                <BudgetGauge budget={data.budget} />
              </Card>
              <Card title="Quotas">
                <Quotas limits={data.limits} />
              </Card>
            </div>
            <Card title="Every limit" flush>
              <LimitTable limits={data.limits} />
            </Card>
          </div>
        )}
      </Shown>
    </>
  );
}

function LimitTable({ limits }: { limits: Limit[] }) {
  return (
    <Table
      label="Every limit"
      rows={limits}
      keyOf={keyOfLimit}
      columns={[
        { head: "Limit", cell: limitName, look: "nowrap" },
        { head: "Of", cell: (limit) => limit.scope },
        { head: "Used", cell: (limit) => limitAmount(limit, limit.used), isNumber: true },
        {
          head: "Held by calls",
          cell: (limit) => limitAmount(limit, limit.reserved),
          isNumber: true,
        },
        { head: "Limit", cell: (limit) => <Most limit={limit} />, isNumber: true },
        { head: "Now", cell: (limit) => <Standing limit={limit} /> },
        {
          head: "Starts anew",
          cell: (limit) => (limit.resets_at ? moment(limit.resets_at) : "as calls end"),
          look: "nowrap muted",
        },
      ]}
    />
  );
}

function Standing({ limit }: { limit: Limit }) {
  if (limit.status === "unavailable") return <Badge tone="warn">cannot be asked</Badge>;
  if (limit.limited) return <Badge tone="bad">reached</Badge>;
  return <Badge tone="good">open</Badge>;
}
