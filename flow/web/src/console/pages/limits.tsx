import { moment } from "../../shared/format";
import type { Limit, Limits } from "../../shared/types";
import { BudgetGauge, LimitGauge, limitAmount, limitName } from "../gauge";
import { useGet } from "../load";
import { Badge, Card, PageHead, Shown, Table } from "../parts";

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
                <div class="stack">
                  {data.limits.filter(isQuota).map((limit) => (
                    <LimitGauge limit={limit} key={keyOf(limit)} />
                  ))}
                  {!data.limits.some(isQuota) && (
                    <p class="muted">No quota limits this key or its team.</p>
                  )}
                </div>
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

const keyOf = (limit: Limit) => `${limit.resource} ${limit.scope} ${limit.product} ${limit.source}`;
const isQuota = (limit: Limit) => limit.limit !== null && limit.resource !== "budget_usd";

export function LimitTable({ limits }: { limits: Limit[] }) {
  return (
    <Table label="Every limit">
      <thead>
        <tr>
          <th scope="col">Limit</th>
          <th scope="col">Of</th>
          <th scope="col" class="number">
            Used
          </th>
          <th scope="col" class="number">
            Held by calls
          </th>
          <th scope="col" class="number">
            Limit
          </th>
          <th scope="col">Now</th>
          <th scope="col">Starts anew</th>
        </tr>
      </thead>
      <tbody>
        {limits.map((limit) => (
          <tr key={keyOf(limit)}>
            <td class="nowrap">{limitName(limit)}</td>
            <td>{limit.scope}</td>
            <td class="number">{limitAmount(limit, limit.used)}</td>
            <td class="number">{limitAmount(limit, limit.reserved)}</td>
            <td class="number">
              {limit.limit === null ? (
                <span class="muted">none</span>
              ) : (
                limitAmount(limit, limit.limit)
              )}
            </td>
            <td>
              <Standing limit={limit} />
            </td>
            <td class="nowrap muted">{limit.resets_at ? moment(limit.resets_at) : "as calls end"}</td>
          </tr>
        ))}
      </tbody>
    </Table>
  );
}

function Standing({ limit }: { limit: Limit }) {
  if (limit.status === "unavailable") return <Badge tone="warn">cannot be asked</Badge>;
  if (limit.limited) return <Badge tone="bad">reached</Badge>;
  return <Badge tone="good">open</Badge>;
}
