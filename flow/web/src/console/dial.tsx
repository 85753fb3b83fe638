import { useLocation } from "preact-iso";
import { useState } from "preact/hooks";
import { type Agent, textsOf, variablesIn } from "../shared/agents";
import { LineField } from "../shared/text_fields";
import type { ProductList } from "../shared/types";
import { ActionProblem, useAction } from "./action";
import { useGet } from "./load";
import { useSession } from "./session";

/** A form to have an agent call somebody, where the service can place calls. */
export function Dial({ agent }: { agent: Agent }) {
  const [carrier] = useGet<ProductList>("/api/products").data?.dials ?? [];
  if (carrier === undefined) return null;
  return (
    <details class="card as-table">
      <summary>Have it call somebody</summary>
      <DialForm agent={agent} carrier={carrier} />
    </details>
  );
}

function DialForm({ agent, carrier }: { agent: Agent; carrier: string }) {
  const { api } = useSession();
  const { route } = useLocation();
  const { isBusy, problem, run } = useAction();
  const [to, setTo] = useState("");
  const [from, setFrom] = useState("");
  const [variables, setVariables] = useState<Record<string, string>>({});
  const needed = variablesIn(textsOf(agent)).filter(({ isSystem, fallback }) => !isSystem && fallback === null);
  const dial = (event: SubmitEvent) => {
    event.preventDefault();
    void run(async () => {
      const transport = { type: carrier, to: to.trim(), from: from.trim() };
      const join = { agent: agent.id, transport, variables };
      const made = await api.post<{ workflow_thread_id: string }>("/api/bot/join", join);
      route(`/console/calls/${made.workflow_thread_id}`);
    });
  };
  return (
    <form class="card-body stack" onSubmit={dial}>
      <div class="form-grid">
        <LineField label="Number to call" value={to} onChange={setTo} placeholder="+4930222222" required />
        <LineField label="From, a number of your team" value={from} onChange={setFrom} placeholder="+4930123456" required />
        {needed.map(({ name }) => (
          <LineField
            label={name}
            value={variables[name] ?? ""}
            onChange={(value) => setVariables({ ...variables, [name]: value })}
            required
            key={name}
          />
        ))}
      </div>
      <ActionProblem problem={problem} />
      <div>
        <button type="submit" class="button button-primary" disabled={isBusy}>
          Call
        </button>
      </div>
    </form>
  );
}
