/** Components of cost: what each is called, and its colour, the same in every chart. */

const KNOWN: Record<string, [label: string, colour: string]> = {
  llm_input: ["LLM input", "--series-1"],
  llm_cache_read: ["LLM cache read", "--series-7"],
  llm_cache_write: ["LLM cache write", "--series-9"],
  llm_output: ["LLM output", "--series-5"],
  llm_audio: ["LLM audio", "--series-4"],
  llm_session: ["Speech session", "--series-4"],
  embedding: ["Embeddings", "--series-6"],
  tts: ["Text to speech", "--series-3"],
  stt: ["Speech to text", "--series-2"],
  call: ["Call time", "--series-8"],
  telephony: ["Telephone", "--series-6"],
};

export interface CostComponent {
  name: string;
  label: string;
  /** The name of a CSS variable. */
  colour: string;
}

export function costComponent(name: string): CostComponent {
  const [label, colour] = KNOWN[name] ?? [name.replaceAll("_", " "), "--series-8"];
  return { name, label, colour };
}

/** The components that a row of a usage report has, by its columns `NAME_cost_usd`. */
export function componentsOf(row: Record<string, unknown>): CostComponent[] {
  return Object.keys(row)
    .filter((column) => column.endsWith("_cost_usd"))
    .map((column) => column.slice(0, -"_cost_usd".length))
    .filter((name) => name !== "total" && name !== "billable")
    .map(costComponent);
}
