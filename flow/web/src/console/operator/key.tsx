import { useRoute } from "preact-iso";
import { useState } from "preact/hooks";
import { moment, words } from "../../shared/format";
import { ActionProblem, Confirmed, useAction } from "../action";
import { BudgetGauge } from "../gauge";
import { useGet } from "../load";
import { Badge, Card, PageHead, Select, Shown } from "../parts";
import { useSession } from "../session";
import type { OperatorKeyDetails } from "./types";

export const SAVE_MODES = [
  ["", "As the product says"],
  ["off", "Off"],
  ["auto", "From 95% of the budget on"],
  ["on", "On"],
] as const;

export function KeyPage() {
  const { params } = useRoute();
  const key = useGet<OperatorKeyDetails>(`/api/admin/keys/${params.id}`);
  return (
    <>
      <PageHead title={key.data?.name ?? "Key"} text={<code class="break">{params.id}</code>} />
      <Shown of={key} rows={8}>
        {(data) => <Key key={JSON.stringify(data)} of={data} onChange={key.reload} />}
      </Shown>
    </>
  );
}

function Key({ of: key, onChange }: { of: OperatorKeyDetails; onChange: () => void }) {
  return (
    <div class="stack">
      <div class="columns columns-even">
        <Card title="Budget this month">
          <BudgetGauge budget={{ ...key.budget, tier: key.budget.tier ?? "ok" }} />
        </Card>
        <Card title="Key">
          <Facts of={key} />
        </Card>
      </div>
      <Card title="Limits">
        <LimitsForm of={key} onChange={onChange} />
      </Card>
      {key.revoked_at === null && (
        <Card title="Revoke">
          <Revoke of={key} onChange={onChange} />
        </Card>
      )}
    </div>
  );
}

function Facts({ of: key }: { of: OperatorKeyDetails }) {
  const { unkey } = key;
  return (
    <dl class="facts">
      <dt>Team</dt>
      <dd>{key.team_id}</dd>
      <dt>At Unkey</dt>
      <dd>
        <code>{key.unkey_key_id}</code>{" "}
        {unkey === null ? (
          <span class="muted">{key.unkey_note}</span>
        ) : (
          <>
            begins <code>{unkey.start}</code> {!unkey.enabled && <Badge tone="bad">disabled</Badge>}
          </>
        )}
      </dd>
      {unkey && (
        <>
          <dt>Permissions</dt>
          <dd>{unkey.permissions.join(", ") || "none"}</dd>
          <dt>Used last</dt>
          <dd>{moment(unkey.last_used_at)}</dd>
          <dt>Expires</dt>
          <dd>{unkey.expires_at ? moment(unkey.expires_at) : "never"}</dd>
        </>
      )}
      <dt>Seen first</dt>
      <dd>{moment(key.created_at)}</dd>
      <dt>Calls now</dt>
      <dd>
        {key.running_calls}{" "}
        <a href={`/console/operator/calls?api_key_id=${key.api_key_id}`}>All calls of the key</a>
      </dd>
      {key.revoked_at && (
        <>
          <dt>Revoked</dt>
          <dd>{moment(key.revoked_at)}</dd>
        </>
      )}
    </dl>
  );
}

function LimitsForm({ of: key, onChange }: { of: OperatorKeyDetails; onChange: () => void }) {
  const { api } = useSession();
  const { isBusy, problem, run } = useAction();
  const [cap, setCap] = useState(key.budget.cap_usd ?? "");
  const [saveMode, setSaveMode] = useState(key.save_mode ?? "");
  const [webhook, setWebhook] = useState(key.webhook_url ?? "");
  const path = `/api/admin/keys/${key.api_key_id}`;
  const change = async (body: unknown) => {
    if (await run(() => api.patch(path, body))) onChange();
  };
  const save = (event: SubmitEvent) => {
    event.preventDefault();
    void change({
      budget_usd: cap.trim() || null,
      save_mode: saveMode || null,
      ...(webhook !== (key.webhook_url ?? "") && { webhook_url: webhook.trim() || null }),
    });
  };
  const lift = (hours: number | null) =>
    change({
      override_until: hours && new Date(Date.now() + hours * 3_600_000).toISOString(),
    });
  return (
    <form class="stack" onSubmit={save}>
      <div class="form-grid">
        <label class="field">
          <span>Budget a month, USD (empty: none)</span>
          <input
            class="input"
            inputMode="decimal"
            value={cap}
            onInput={(event) => setCap(event.currentTarget.value)}
          />
        </label>
        <Select label="Save mode" value={saveMode} options={SAVE_MODES} onChange={setSaveMode} />
        <label class="field">
          <span>Webhook for budget events</span>
          <input
            class="input"
            type="url"
            value={webhook}
            onInput={(event) => setWebhook(event.currentTarget.value)}
          />
        </label>
      </div>
      <ActionProblem problem={problem} />
      <div class="row">
        <button type="submit" class="button button-primary" disabled={isBusy}>
          Save
        </button>
        {key.override_until === null ? (
          <button
            type="button"
            class="button"
            disabled={isBusy || key.budget.cap_usd === null}
            onClick={() => lift(24)}
          >
            Lift the budget for 24 hours
          </button>
        ) : (
          <>
            <span class="muted">Lifted until {moment(key.override_until)}</span>
            <button type="button" class="button" disabled={isBusy} onClick={() => lift(null)}>
              End that now
            </button>
          </>
        )}
      </div>
    </form>
  );
}

function Revoke({ of: key, onChange }: { of: OperatorKeyDetails; onChange: () => void }) {
  const { api } = useSession();
  const { isBusy, problem, run } = useAction();
  const revoke = async () => {
    if (await run(() => api.post(`/api/admin/keys/${key.api_key_id}/revoke`))) onChange();
  };
  return (
    <div class="stack">
      <p class="muted">
        The key is refused within a minute, for good. Its calls and its ledger stay; running calls
        go on.
      </p>
      <ActionProblem problem={problem} />
      <div>
        <Confirmed
          label="Revoke"
          question={`Revoke ${words(key.name ?? "this key")} for good?`}
          isBusy={isBusy}
          onConfirm={revoke}
        />
      </div>
    </div>
  );
}
