import { useLocation, useRoute } from "preact-iso";
import { useState } from "preact/hooks";
import { moment } from "../../shared/format";
import { LineField } from "../../shared/text_fields";
import type { ProductList } from "../../shared/types";
import { ActionProblem, Confirmed, useAction } from "../action";
import { useGet } from "../load";
import { Card, PageHead, Select, Shown } from "../parts";
import { useSession } from "../session";
import type { PhoneNumber } from "./types";

const LIST = "/console/operator/numbers";
const RINGS = [
  ["agent", "An agent"],
  ["product", "A product's own bot"],
  ["nobody", "Nobody: calls are placed from it"],
] as const;

function pathOf(number: string): string {
  return `/api/admin/numbers/${encodeURIComponent(number)}`;
}

export function NewNumberPage() {
  return (
    <>
      <PageHead title="Add a number" text="At the carrier, give it the webhook of this service." />
      <Card>
        <NumberForm label="Add the number" />
      </Card>
    </>
  );
}

export function NumberPage() {
  const { number = "" } = useRoute().params;
  const found = useGet<PhoneNumber>(pathOf(number));
  return (
    <>
      <PageHead title={number} text={found.data && `Added ${moment(found.data.created_at)}`} />
      <Shown of={found} rows={6}>
        {(data) => (
          <div class="stack">
            <Card title="What it rings">
              <NumberForm of={data} label="Save" />
            </Card>
            <Card title="Remove">
              <Remove of={data} />
            </Card>
          </div>
        )}
      </Shown>
    </>
  );
}

function ringsOf(number: PhoneNumber | undefined): string {
  if (number === undefined || number.agent !== null) return "agent";
  return number.product === null ? "nobody" : "product";
}

/** What a number rings and on which key: of one that is there, or of a new one. */
function NumberForm({ of: before, label }: { of?: PhoneNumber; label: string }) {
  const { api } = useSession();
  const { route } = useLocation();
  const { isBusy, problem, run } = useAction();
  const listed = useGet<ProductList>("/api/products");
  const products = (listed.data?.products ?? []).filter(({ calls }) => calls);
  const [number, setNumber] = useState(before?.number ?? "");
  const [key, setKey] = useState(before?.key_name ?? before?.api_key_id ?? "");
  const [rings, setRings] = useState(ringsOf(before));
  const [agent, setAgent] = useState(before?.agent_name ?? before?.agent ?? "");
  const [product, setProduct] = useState(before?.product ?? "");
  const save = async (event: SubmitEvent) => {
    event.preventDefault();
    // Names may be several things': what was not changed stays what it was.
    const body = {
      key: before && key === before.key_name ? before.api_key_id : key.trim(),
      ...(rings === "agent" && { agent: before && agent === before.agent_name ? before.agent : agent.trim() }),
      ...(rings === "product" && { product: product || products[0]?.name }),
    };
    if (await run(() => api.put(pathOf(number.trim()), body))) route(LIST);
  };
  return (
    <form class="stack" onSubmit={save}>
      <div class="form-grid">
        {before === undefined && (
          <LineField label="Number" value={number} onChange={setNumber} placeholder="+4930123456" required />
        )}
        <Select label="It rings" value={rings} options={RINGS} onChange={setRings} />
        {rings === "agent" && (
          <LineField label="Agent, by its name or id" value={agent} onChange={setAgent} required />
        )}
        {rings === "product" && (
          <Select
            label="Product"
            value={product}
            options={products.map(({ name }) => [name, name] as const)}
            onChange={setProduct}
          />
        )}
        <LineField label="Key that pays, by its name or id" value={key} onChange={setKey} required />
      </div>
      <ActionProblem problem={problem ?? listed.problem} />
      <div class="row">
        <button type="submit" class="button button-primary" disabled={isBusy}>
          {label}
        </button>
        <a class="button" href={LIST}>
          Back
        </a>
      </div>
    </form>
  );
}

function Remove({ of: { number } }: { of: PhoneNumber }) {
  const { api } = useSession();
  const { route } = useLocation();
  const { isBusy, problem, run } = useAction();
  const remove = async () => {
    if (await run(() => api.delete(pathOf(number)))) route(LIST);
  };
  return (
    <div class="stack">
      <p class="muted">Whoever calls it is told that it is not in service. Its calls and their accounts stay.</p>
      <ActionProblem problem={problem} />
      <div>
        <Confirmed label="Remove" question={`Remove ${number}?`} isBusy={isBusy} onConfirm={remove} />
      </div>
    </div>
  );
}
