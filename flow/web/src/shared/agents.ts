/** Stored agents, and the variables that a call with one of them needs. */
import type { Api } from "./api";

export interface Tool {
  type: string;
  name?: string;
  description?: string;
  method?: string;
  url?: string;
  /** By their names; the values are hidden. */
  headers?: Record<string, string>;
  parameters?: Record<string, unknown>;
  timeout_secs?: number;
  say_while_waiting?: string | null;
  allowed?: string[] | null;
  targets?: Record<string, string>;
  say?: string | null;
}

/** The vendor's part of a bot; what is left out is the product's. */
export interface AgentModel {
  provider?: string | null;
  model?: string | null;
  voice?: string | null;
  [setting: string]: unknown;
}

export interface FlowFunction {
  name: string;
  transition_only?: boolean;
  description?: string | null;
  transition_to?: string | { field: string; cases: Record<string, string>; default?: string | null } | null;
}

interface FlowAction {
  type: string;
  text?: string | null;
}

export interface FlowNode {
  role_message?: string | null;
  task_messages: { role: string; content: string }[];
  functions?: FlowFunction[];
  pre_actions?: FlowAction[];
  post_actions?: FlowAction[];
}

/** A conversation as a graph of nodes. */
export interface ConversationFlow {
  initial_node: string;
  nodes: Record<string, FlowNode>;
  global_functions?: FlowFunction[];
}

/** A version of an agent: of its settings those alone that were said. */
export interface Agent {
  id: string;
  name: string;
  version: number;
  created_at: string;
  /** When this version was made. */
  updated_at: string;
  archived_at: string | null;
  product?: string | null;
  bot?: {
    system_prompt?: string | null;
    greeting?: string | null;
    stt?: AgentModel;
    llm?: AgentModel;
    tts?: AgentModel;
    realtime?: AgentModel | null;
    flow?: ConversationFlow | null;
    [setting: string]: unknown;
  };
  tools?: Tool[];
  insights?: { enabled?: boolean; instructions?: string | null; schema?: Record<string, unknown> | null };
  max_duration_secs?: number | null;
  save_mode?: string | null;
  recording?: { retention_days?: number | null } | null;
  webhook_url?: string | null;
  metadata?: Record<string, unknown>;
}

export interface AgentPage {
  agents: Agent[];
  next_cursor: string | null;
}

const PAGE_SIZE = 200;

/** All agents of the team that are not archived, the one made last first. */
export async function allAgents(api: Api, signal: AbortSignal): Promise<Agent[]> {
  const found: Agent[] = [];
  let cursor: string | null = null;
  do {
    const page: AgentPage = await api.get("/api/agents", { limit: PAGE_SIZE, cursor }, signal);
    found.push(...page.agents);
    cursor = page.next_cursor;
  } while (cursor !== null);
  return found;
}

export interface Variable {
  name: string;
  /** Used where a call gives no value; null where each call has to give one. */
  fallback: string | null;
  /** Whether Flow itself gives the value. */
  isSystem: boolean;
  /** The fields that it stands in. */
  fields: string[];
}

type Texts = readonly (readonly [field: string, text: string | null | undefined])[];

/** The texts of an agent that may hold variables, but for its tools' headers: those are hidden. */
export function textsOf(agent: Agent): Texts {
  const tools = (agent.tools ?? []).flatMap((tool, at) =>
    (["url", "description", "say_while_waiting", "say"] as const).map(
      (name) => [`tools.${at}.${name}`, tool[name]] as const,
    ),
  );
  return [
    ["bot.system_prompt", agent.bot?.system_prompt],
    ["bot.greeting", agent.bot?.greeting],
    ["insights.instructions", agent.insights?.instructions],
    ...tools,
    ...Object.entries(agent.bot?.flow?.nodes ?? {}).flatMap(([name, node]) => textsOfNode(name, node)),
  ];
}

function textsOfNode(name: string, node: FlowNode): Texts {
  const texts = [
    node.role_message,
    ...node.task_messages.map((message) => message.content),
    ...[...(node.pre_actions ?? []), ...(node.post_actions ?? [])].map((action) => action.text),
    ...(node.functions ?? []).map((called) => called.description),
  ];
  return texts.map((text) => [`bot.flow.nodes.${name}`, text] as const);
}

/** The service's own grammar: `{{name}}`, `{{name|default}}`, and `\{{` for the characters. */
const PLACEHOLDER = /(\\*)\{\{\s*((?:flow\.)?[A-Za-z_][A-Za-z0-9_]{0,63})\s*(?:\|(.*?))?\}\}/gs;

/** The variables in these texts, each once, in the order of their first places. */
export function variablesIn(texts: Texts): Variable[] {
  const found = new Map<string, Variable>();
  for (const [field, text] of texts) {
    for (const [, slashes = "", name = "", given] of (text ?? "").matchAll(PLACEHOLDER)) {
      if (slashes.length % 2) continue;
      const fallback = given?.trim() ?? null;
      const known = found.get(name);
      if (known === undefined) {
        found.set(name, { name, fallback, isSystem: name.startsWith("flow."), fields: [field] });
        continue;
      }
      // One place without a default is enough to need a value.
      if (fallback === null) known.fallback = null;
      if (!known.fields.includes(field)) known.fields.push(field);
    }
  }
  return [...found.values()];
}
