/** What `/api/admin/` answers. */
import type { Limit, Status, UsageStats } from "../../shared/types";

export interface OperatorKey {
  api_key_id: string;
  unkey_key_id: string;
  team_id: string;
  name: string | null;
  created_at: string;
  revoked_at: string | null;
  budget: {
    tier: string | null;
    cap_usd: string | null;
    spent_usd: string;
    reserved_usd: string;
    remaining_usd: string | null;
    resets_at: string;
  };
  override_until: string | null;
  save_mode: string | null;
  running_calls: number;
}

export interface OperatorKeyDetails extends OperatorKey {
  webhook_url: string | null;
  unkey: {
    enabled: boolean;
    start: string;
    permissions: string[];
    created_at: string;
    expires_at: string | null;
    last_used_at: string | null;
  } | null;
  unkey_note: string | null;
}

export interface Team {
  team_id: string;
  keys: number;
  running_calls: number;
  spent_usd: string;
  billable_usd: string;
  resets_at: string;
  limits: Limit[];
}

export interface OperatorThread {
  workflow_thread_id: string;
  api_key_id: string;
  key_name: string | null;
  team_id: string;
  product: string;
  status: Status;
  transport: string;
  host: string | null;
  created_at: string;
  connected_at: string | null;
  ended_at: string | null;
  end_reason: string | null;
  usage_stats: UsageStats;
}

/** A telephone number: it rings an agent, or a product's own bot, or nobody. */
export interface PhoneNumber {
  number: string;
  agent: string | null;
  agent_name: string | null;
  product: string | null;
  api_key_id: string;
  key_name: string | null;
  team_id: string;
  created_at: string;
}

export interface Webhook {
  event_id: string;
  type: string;
  api_key_id: string;
  team_id: string;
  workflow_thread_id: string | null;
  created_at: string;
  url: string;
  state: string;
  attempts: number;
  next_attempt_at: string | null;
  delivered_at: string | null;
  dead_at: string | null;
  last_status: number | null;
  last_error: string | null;
}

export interface Host {
  name: string;
  state: "alive" | "silent" | "stopped";
  started_at: string;
  heartbeat_at: string;
  silent_secs: number;
  held_calls: number;
  report: {
    version: string | null;
    calls: number | null;
    capacity: number | null;
    draining: boolean | null;
    workflows: boolean | null;
    spool_events: number | null;
    spool_oldest_secs: number | null;
  } | null;
}

export interface UnpricedModel {
  provider: string;
  model: string;
  kind: string;
  unpriced_events: number;
  unmetered_events: number;
  keys: number;
  first_day: string;
  last_day: string;
}

export interface RejectedEvent {
  id: number;
  rejected_at: string;
  reason: string;
  event: Record<string, unknown>;
}
