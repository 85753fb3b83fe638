/** What the public API answers: money and seconds are strings there, exact. */

export interface CallerKey {
  api_key_id: string;
  name: string | null;
  team_id: string;
  permissions: string[];
  is_operator: boolean;
}

const RUNNING = ["created", "connecting", "in_call", "ended", "extracting"] as const;
const FINAL = ["completed", "failed", "expired", "cancelled"] as const;
export const STATUSES = [...RUNNING, ...FINAL] as const;
export type Status = (typeof STATUSES)[number];

/** Whether the call changes no more. */
export function isFinal(status: Status): boolean {
  return (FINAL as readonly Status[]).includes(status);
}

/** Whether something of the call is still to come: a recording may follow the rest. */
export function goesOn({ status, recording }: Pick<Thread, "status" | "recording">): boolean {
  return !isFinal(status) || recording?.status === "recording" || recording?.status === "storing";
}

export interface UsageStats {
  total_tokens?: number;
  total_cost_usd?: number;
  llm_calls?: number;
  call_seconds?: number;
  models_used?: Record<string, { llm_calls: number; cost_usd: number }>;
  cost_breakdown_usd?: Record<string, number>;
  estimated_events?: number;
  unpriced_events?: number;
  interrupted_generations?: number;
  failed_generations?: number;
  unmetered?: unknown[];
}

export interface ThreadSummary {
  workflow_thread_id: string;
  status: Status;
  product: string;
  billable: boolean;
  /** What it was made with. */
  agent?: { id: string; version: number } | null;
  created_at: string;
  connected_at: string | null;
  ended_at: string | null;
  completed_at: string | null;
  end_reason: string | null;
  end_requested: boolean;
  error: { code?: string; message?: string } | null;
  insights: Record<string, unknown> | null;
  usage_stats: UsageStats;
  /** Null where one may not see it. */
  metadata: Record<string, unknown> | null;
}

export interface ThreadPage {
  threads: ThreadSummary[];
  next_cursor: string | null;
}

export interface Turn {
  seq: number;
  role: string;
  /** Null where one may not see what was said. */
  content: string | null;
  started_at: string;
  interrupted: boolean;
}

export const LATENCY_PARTS = [
  "turn_detection",
  "stt",
  "llm",
  "first_sentence",
  "tts",
  "output",
] as const;
export type LatencyPart = (typeof LATENCY_PARTS)[number];

export type ReplyLatency = { seq: number; total_secs: number } & {
  [part in `${LatencyPart}_secs`]: number;
};

/** One use of a tool. Its content is null where one may not see it. */
export interface ToolCall {
  id: string;
  name: string;
  arguments: Record<string, unknown> | null;
  outcome: string;
  started_at: string;
  seconds: number | null;
  /** Of the tool's HTTP answer. */
  status: number | null;
  result: Record<string, unknown> | null;
  /** The node of the bot's flow that the call went to with it. */
  transition_to?: string | null;
}

/** The sound of a call; the address is there, for a while, when it is ready. */
export interface Recording {
  status: "none" | "recording" | "storing" | "ready" | "failed" | "deleted";
  url: string | null;
  expires_at: string | null;
  /** When its first sample sounded. */
  started_at: string | null;
  seconds: number | null;
  complete: boolean | null;
  kept_until: string | null;
  deleted_at: string | null;
}

/** A leg of a telephone call; the ledger's row with its price has the same id. */
export interface PhoneLeg {
  id: string;
  leg: string;
  direction: string;
  from_number: string;
  to_number: string;
  status: string | null;
  answered_by: string | null;
  transferred_at: string | null;
}

export interface Thread extends ThreadSummary {
  /** Null where one may not see what was asked for. */
  request: { transport?: { type?: string }; [field: string]: unknown } | null;
  /** In the operator's view alone. */
  content_shown?: boolean;
  transport?: string;
  team_id?: string;
  key_name?: string | null;
  api_key_id?: string;
  host?: string | null;
  variables?: Record<string, string | number | boolean> | null;
  tool_calls?: ToolCall[];
  recording?: Recording | null;
  phone?: PhoneLeg[];
  transcript: Turn[];
  latency: {
    turns: ReplyLatency[];
    p50_secs: number;
    p95_secs: number;
    max_secs: number;
  } | null;
}

export interface LedgerLine {
  unit: string;
  quantity: string;
  cost_usd: string | null;
  component: string;
  part_of: string | null;
}

export interface LedgerRow {
  id: string;
  kind: string;
  source: string;
  provider: string;
  model: string;
  requested_model: string | null;
  product: string;
  lines: LedgerLine[];
  total_cost_usd: string | null;
  provenance: string;
  outcome: string;
  occurred_at: string;
  latency_secs: number | null;
  time_to_first_token_secs: number | null;
  request_id: string | null;
  price_version: string | null;
  failure: { type: string; message: string; http_status: number | null } | null;
  note: string | null;
  save_mode: boolean;
  save_mode_reason: string | null;
}

export interface RequestPage {
  requests: LedgerRow[];
  next_cursor: string | null;
}

export type UsageRow = Record<string, string | number | null>;

export interface UsageReport {
  from: string;
  to: string;
  group_by: string[];
  rows: UsageRow[];
}

export interface Limit {
  resource: string;
  scope: "key" | "team";
  product: string | null;
  used: string | null;
  reserved: string | null;
  limit: string | null;
  limited: boolean;
  resets_at: string | null;
  source: "flow" | "external";
  status: "ok" | "unavailable";
}

export interface Budget {
  tier: string;
  cap_usd: string | null;
  spent_usd: string | null;
  reserved_usd: string | null;
  remaining_usd: string | null;
  resets_at: string | null;
}

export interface Limits {
  budget: Budget;
  limits: Limit[];
}

export interface Product {
  name: string;
  calls: boolean;
  gateway: boolean;
  billable: boolean;
}

/** What calls can be sold as, and what they can do here. */
export interface ProductList {
  products: Product[];
  recording: boolean;
  /** The carriers that place calls, by their names. */
  dials: string[];
}
