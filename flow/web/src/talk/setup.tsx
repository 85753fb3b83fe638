import { useEffect, useRef } from "preact/hooks";
import { Select } from "../console/parts";
import { type Agent, allAgents } from "../shared/agents";
import type { Api } from "../shared/api";
import type { Product, ProductList } from "../shared/types";
import { useLoad } from "../shared/use_load";
import { AgentField, VariableFields } from "./agent_fields";
import { type Choices, GREETING, usualProduct } from "./choices";
import { MicrophoneIcon } from "./icons";
import { ConnectionFields, Models } from "./setup_details";
import { LineField, Text } from "../shared/text_fields";
import { noAgent, ofProblem, type Trouble } from "./trouble";
import { TroubleNote } from "./trouble_note";

/** What can be chosen here. */
interface Offer {
  products: Product[];
  recording: boolean;
  agents: Agent[];
}

async function offerOf(api: Api, signal: AbortSignal): Promise<Offer> {
  const [listed, agents] = await Promise.all([
    api.get<ProductList>("/api/products", {}, signal),
    allAgents(api, signal),
  ]);
  const { products, recording } = listed;
  return { products: products.filter((one) => one.calls), recording, agents };
}

/** Until one is chosen, the usual product stands first. */
function productOptions(choices: Choices, products: Product[]): [value: string, label: string][] {
  const all = products.map(({ name, billable }): [string, string] => [
    name,
    billable ? name : `${name} (not billed)`,
  ]);
  if (choices.product) return all;
  const usual = usualProduct(choices);
  return [["", usual], ...all.filter(([name]) => name !== usual)];
}

function recordingOptions({ agent }: Choices): [value: Choices["recording"], label: string][] {
  if (agent?.recording == null) return [["", "Not recorded"], ["yes", "Recorded"]];
  const { retention_days: days } = agent.recording;
  return [["", days ? `Recorded, kept ${days} days, as the agent says` : "Recorded, as the agent says"], ["no", "Not recorded"]];
}

/** The form before a call. */
export function Setup(props: {
  api: Api;
  choices: Choices;
  trouble: Trouble | null;
  /** Whether the form comes after something else on this page. */
  takesFocus: boolean;
  onChange: (choices: Choices) => void;
  onStart: () => void;
  onKey: () => void;
  onTrouble: (trouble: Trouble) => void;
  /** The agent, by its id or name, that the page's address asks for. */
  wanted: string | null;
}) {
  const { api, choices, trouble, wanted, onChange } = props;
  const offer = useLoad((signal) => offerOf(api, signal), []);
  useEffect(() => {
    if (offer.problem) props.onTrouble(ofProblem(offer.problem));
  }, [offer.problem]);
  useEffect(() => {
    if (offer.data === null || wanted === null) return;
    const agent = offer.data.agents.find((one) => [one.id, one.name].includes(wanted)) ?? null;
    onChange({ ...choices, agent });
    if (agent === null) props.onTrouble(noAgent(wanted));
  }, [offer.data, wanted]);
  const set = <Name extends keyof Choices>(name: Name, value: Choices[Name]) =>
    onChange({ ...choices, [name]: value });
  const products = offer.data?.products ?? [];
  const agents = offer.data?.agents ?? [];
  const start = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    if (props.takesFocus) start.current?.focus({ preventScroll: true });
  }, [props.takesFocus, trouble]);

  return (
    <form
      class="setup stack"
      onSubmit={(event) => {
        event.preventDefault();
        props.onStart();
      }}
    >
      <header class="setup-head">
        <h1>Talk with a bot</h1>
        <p class="muted">
          Speak with it from this page. When you hang up, you see what the call cost, item by item.
        </p>
      </header>
      {trouble && (
        <TroubleNote trouble={trouble}>
          {trouble.needsKey && (
            <button type="button" class="button" onClick={props.onKey}>
              Use another key
            </button>
          )}
        </TroubleNote>
      )}
      <section class="card card-body stack" aria-label="The bot">
        <AgentField agents={agents} choices={choices} onChange={onChange} />
        <Text
          label="Greeting"
          rows={2}
          value={choices.greeting}
          placeholder={
            choices.agent
              ? (choices.agent.bot?.greeting ?? "The agent has none: you speak first")
              : GREETING
          }
          onChange={(value) => set("greeting", value)}
        />
        <Text
          label="Instructions"
          rows={4}
          value={choices.systemPrompt}
          placeholder={
            choices.agent
              ? (choices.agent.bot?.system_prompt ?? "The agent has none of its own")
              : "What the bot is there for, as in: You take reservations for a restaurant."
          }
          onChange={(value) => set("systemPrompt", value)}
        />
        <VariableFields choices={choices} onChange={onChange} />
        <div class="form-grid">
          <Select
            label="Product"
            value={choices.product}
            options={productOptions(choices, products)}
            onChange={(product) => set("product", product)}
          />
          <LineField
            label="Language"
            value={choices.language}
            pattern="[a-zA-Z]{2,3}(-[a-zA-Z0-9]{2,8})*"
            title="A code such as en, de or pt-BR"
            placeholder="Automatic, or en, pt-BR …"
            spellcheck={false}
            onChange={(language) => set("language", language)}
          />
          {offer.data?.recording && (
            <Select
              label="Recording"
              value={choices.recording}
              options={recordingOptions(choices)}
              onChange={(recording) => set("recording", recording as Choices["recording"])}
            />
          )}
        </div>
        <Models api={api} choices={choices} onChange={onChange} />
        <ConnectionFields choices={choices} onChange={onChange} />
        <div class="setup-start">
          <button
            ref={start}
            type="submit"
            class="button button-primary button-large"
            disabled={wanted !== null && offer.isLoading}
          >
            <MicrophoneIcon />
            Start talking
          </button>
          <p class="muted small">Your browser asks for the microphone.</p>
        </div>
      </section>
    </form>
  );
}
