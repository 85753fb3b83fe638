import { useEffect, useRef } from "preact/hooks";
import type { Api } from "../shared/api";
import { Problem } from "../shared/problem";
import type { Product } from "../shared/types";
import { useLoad } from "../shared/use_load";
import type { Choices } from "./choices";
import { MicrophoneIcon } from "./icons";
import { ConnectionFields, Models } from "./setup_details";
import type { Trouble } from "./trouble";
import { TroubleNote } from "./trouble_note";

interface Agent {
  id: string;
  name: string;
  bot?: { realtime?: unknown };
}

/** What can be chosen here; agents are null where the service has none of them. */
interface Offer {
  products: Product[];
  agents: Agent[] | null;
}

async function offerOf(api: Api, signal: AbortSignal): Promise<Offer> {
  const agents = api.get<{ agents: Agent[] }>("/api/agents", {}, signal).then(
    (found) => found.agents,
    (error: unknown) => {
      if (error instanceof Problem && error.status === 404) return null;
      throw error;
    },
  );
  const listed = await api.get<{ products: Product[] }>("/api/products", {}, signal);
  return { products: listed.products.filter((one) => one.calls), agents: await agents };
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
  onProblem: (problem: Problem) => void;
}) {
  const { api, choices, trouble, onChange } = props;
  const offer = useLoad((signal) => offerOf(api, signal), []);
  useEffect(() => {
    if (offer.problem) props.onProblem(offer.problem);
  }, [offer.problem]);
  const set = <Name extends keyof Choices>(name: Name, value: Choices[Name]) =>
    onChange({ ...choices, [name]: value });
  const products = offer.data?.products ?? [];
  const agents = offer.data?.agents ?? null;
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
        {agents !== null && (
          <label class="field">
            <span>Agent</span>
            <select
              class="input"
              value={choices.agent}
              onChange={(event) => {
                const agent = event.currentTarget.value;
                const bot = agents.find((one) => one.id === agent)?.bot;
                onChange({ ...choices, agent, agentTakesText: !bot?.realtime });
              }}
            >
              <option value="">{agents.length ? "None: a bot made here" : "None yet"}</option>
              {agents.map((agent) => (
                <option value={agent.id} key={agent.id}>
                  {agent.name}
                </option>
              ))}
            </select>
          </label>
        )}
        <Text
          label="Greeting"
          rows={2}
          value={choices.greeting}
          placeholder={choices.agent ? "The agent's own" : "Hello! What can I do for you?"}
          onChange={(value) => set("greeting", value)}
        />
        <Text
          label="Instructions"
          rows={4}
          value={choices.systemPrompt}
          placeholder={
            choices.agent
              ? "The agent's own"
              : "What the bot is there for, as in: You take reservations for a restaurant."
          }
          onChange={(value) => set("systemPrompt", value)}
        />
        <div class="form-grid">
          <label class="field">
            <span>Product</span>
            <select
              class="input"
              value={choices.product}
              onChange={(event) => set("product", event.currentTarget.value)}
            >
              {!choices.product && <option value="">voice_bot</option>}
              {products
                .filter((one) => choices.product || one.name !== "voice_bot")
                .map((one) => (
                  <option value={one.name} key={one.name}>
                    {one.name}
                    {one.billable ? "" : " (not billed)"}
                  </option>
                ))}
            </select>
          </label>
          <label class="field">
            <span>Language</span>
            <input
              class="input"
              value={choices.language}
              pattern="[a-zA-Z]{2,3}(-[a-zA-Z0-9]{2,8})*"
              title="A code such as en, de or pt-BR"
              placeholder="Automatic, or en, pt-BR …"
              autoComplete="off"
              spellcheck={false}
              onInput={(event) => set("language", event.currentTarget.value)}
            />
          </label>
        </div>
        {agents !== null && (
          <Text
            label="Variables, a line each"
            rows={2}
            value={choices.variables}
            placeholder="name = Ada"
            onChange={(value) => set("variables", value)}
          />
        )}
        <Models api={api} choices={choices} onChange={onChange} />
        <ConnectionFields choices={choices} onChange={onChange} />
        <div class="setup-start">
          <button ref={start} type="submit" class="button button-primary button-large">
            <MicrophoneIcon />
            Start talking
          </button>
          <p class="muted small">Your browser asks for the microphone.</p>
        </div>
      </section>
    </form>
  );
}

function Text(props: {
  label: string;
  rows: number;
  value: string;
  placeholder: string;
  onChange: (value: string) => void;
}) {
  return (
    <label class="field">
      <span>{props.label}</span>
      <textarea
        class="input"
        rows={props.rows}
        value={props.value}
        placeholder={props.placeholder}
        onInput={(event) => props.onChange(event.currentTarget.value)}
      />
    </label>
  );
}
