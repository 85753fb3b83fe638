import { useState } from "preact/hooks";
import { ActionProblem, useAction } from "../action";
import { Card, PageHead, Select } from "../parts";
import { useSession } from "../session";
import { SAVE_MODES } from "./key";
import type { OperatorKey } from "./types";

export function NewKeyPage() {
  const { api } = useSession();
  const { isBusy, problem, run } = useAction();
  const [saveMode, setSaveMode] = useState("");
  const [made, setMade] = useState<(OperatorKey & { secret: string }) | null>(null);

  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    const text = (name: string) => String(form.get(name) ?? "").trim();
    const permissions = text("permissions").split(/[\s,]+/).filter(Boolean);
    void run(async () => {
      const body = {
        name: text("name"),
        team_id: text("team_id"),
        budget_usd: text("budget_usd") || null,
        save_mode: saveMode || null,
        permissions,
      };
      setMade(await api.post("/api/admin/keys", body));
    });
  };

  if (made !== null) return <Made of={made} />;
  return (
    <>
      <PageHead title="New key" text="It is made at Unkey and may be used at once." />
      <Card>
        <form class="stack" onSubmit={submit}>
          <div class="form-grid">
            <label class="field">
              <span>Name</span>
              <input class="input" name="name" required maxLength={255} />
            </label>
            <label class="field">
              <span>Team</span>
              <input class="input" name="team_id" required maxLength={255} />
            </label>
            <label class="field">
              <span>Budget a month, USD (empty: none)</span>
              <input class="input" name="budget_usd" inputMode="decimal" />
            </label>
            <Select label="Save mode" value={saveMode} options={SAVE_MODES} onChange={setSaveMode} />
            <label class="field">
              <span>Permissions (by commas)</span>
              <input class="input mono" name="permissions" />
            </label>
          </div>
          <ActionProblem problem={problem} />
          <div>
            <button type="submit" class="button button-primary" disabled={isBusy}>
              {isBusy ? "Making the key…" : "Make the key"}
            </button>
          </div>
        </form>
      </Card>
    </>
  );
}

function Made({ of: key }: { of: OperatorKey & { secret: string } }) {
  const [isCopied, setCopied] = useState(false);
  const { problem, run } = useAction();
  return (
    <>
      <PageHead title="The key is made" />
      <Card>
        <div class="stack">
          <p>
            This is its secret. It is shown this once and stored nowhere: hand it over, or keep it
            in a safe place.
          </p>
          <div class="row">
            <code class="secret break">{key.secret}</code>
            {/* Browsers have no clipboard for pages that are not secure. */}
            {"clipboard" in navigator && (
              <button
                type="button"
                class="button"
                onClick={async () => setCopied(await run(() => navigator.clipboard.writeText(key.secret)))}
              >
                {isCopied ? "Copied" : "Copy"}
              </button>
            )}
          </div>
          <ActionProblem problem={problem} />
          <p>
            <a href={`/console/operator/keys/${key.api_key_id}`}>Go to the key</a>
          </p>
        </div>
      </Card>
    </>
  );
}
