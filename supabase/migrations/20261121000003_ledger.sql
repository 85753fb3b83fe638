-- The ledger and what is summed from it.

-- Bounds keep sums from overflowing and a nonsense number from bloating an account for ever.
-- NaN and Infinity are above every bound.
create domain flow.amount as integer check (value >= 0);
create domain flow.seconds as numeric check (value >= 0 and value < 1e9 and scale(value) <= 50);
create domain flow.usd as numeric check (value >= 0 and value < 1e9 and scale(value) <= 50);

create table public.usage_events (
  id uuid primary key,
  workflow_thread_id uuid not null,
  api_key_id uuid not null,
  team_id text collate "C" not null,
  product text collate "C" not null,
  billable boolean not null,
  kind text collate "C" not null check (kind in ('llm', 'tts', 'stt', 'call')),
  source text collate "C" not null check (octet_length(source) between 1 and 64),
  provider text collate "C" not null check (octet_length(provider) between 1 and 128),
  model text collate "C" not null check (octet_length(model) <= 512),
  requested_model text,
  service_tier text,
  input_tokens flow.amount not null,
  cache_read_tokens flow.amount not null,
  cache_write_tokens flow.amount not null,
  output_tokens flow.amount not null,
  reasoning_tokens flow.amount not null,
  input_audio_tokens flow.amount not null,
  output_audio_tokens flow.amount not null,
  cache_read_audio_tokens flow.amount not null,
  characters flow.amount not null,
  audio_seconds flow.seconds not null,
  provenance text not null check (provenance in ('reported', 'measured', 'estimated')),
  outcome text not null check (outcome in ('ok', 'interrupted', 'error')),
  input_cost_usd flow.usd,
  cache_read_cost_usd flow.usd,
  cache_write_cost_usd flow.usd,
  output_cost_usd flow.usd,
  audio_input_cost_usd flow.usd,
  audio_output_cost_usd flow.usd,
  tts_cost_usd flow.usd,
  stt_cost_usd flow.usd,
  call_cost_usd flow.usd,
  total_cost_usd numeric generated always as (
    input_cost_usd + cache_read_cost_usd + cache_write_cost_usd + output_cost_usd
    + audio_input_cost_usd + audio_output_cost_usd + tts_cost_usd + stt_cost_usd + call_cost_usd
  ) stored,
  price_version text,
  occurred_at timestamptz not null check (isfinite(occurred_at)),
  latency_secs double precision,
  time_to_first_token_secs double precision,
  stream boolean not null,
  failure_type text,
  failure_message text,
  failure_http_status integer,
  note text,
  capture boolean not null,
  recorded_at timestamptz not null default now(),
  constraint usage_events_thread_owner foreign key
    (workflow_thread_id, api_key_id, team_id, product, billable)
    references public.workflow_threads (id, api_key_id, team_id, product, billable)
    on delete cascade,
  constraint reasoning_is_part_of_output check (reasoning_tokens <= output_tokens),
  constraint output_audio_is_part_of_output check (output_audio_tokens <= output_tokens),
  constraint input_audio_is_part_of_input check (input_audio_tokens <= input_tokens),
  constraint cached_audio_is_part_of_cache_read check (cache_read_audio_tokens <= cache_read_tokens),
  constraint priced_wholly_or_not_at_all check (
    num_nulls(
      input_cost_usd, cache_read_cost_usd, cache_write_cost_usd, output_cost_usd,
      audio_input_cost_usd, audio_output_cost_usd, tts_cost_usd, stt_cost_usd, call_cost_usd
    ) in (0, 9)
  )
);
comment on table public.usage_events is
  'The ledger: one immutable row per piece of vendor work. Rows leave only with their key.';
comment on column public.usage_events.total_cost_usd is 'NULL when unpriced, which is not free.';

create index usage_events_thread on public.usage_events (workflow_thread_id, occurred_at, id);

create function flow.refuse_ledger_change() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  -- A cascade from the key finds the key gone; then its rollup goes with it and sums still agree.
  if tg_op = 'DELETE' then
    if not exists (select from public.api_keys k where k.id = old.api_key_id) then
      return old;
    end if;
  end if;
  raise exception 'The ledger is immutable: % on usage_events is refused.', lower(tg_op)
    using errcode = 'PT409', detail = 'ledger_immutable';
end
$$;

create trigger usage_events_immutable before update or delete on public.usage_events
  for each row execute function flow.refuse_ledger_change();
create trigger usage_events_never_truncated before truncate on public.usage_events
  for each statement execute function flow.refuse_ledger_change();

create table public.usage_daily (
  api_key_id uuid not null references public.api_keys (id) on delete cascade,
  day date not null,
  team_id text collate "C" not null,
  product text collate "C" not null,
  billable boolean not null,
  kind text collate "C" not null,
  source text collate "C" not null,
  provider text collate "C" not null,
  model text collate "C" not null,
  events bigint not null,
  input_tokens bigint not null,
  cache_read_tokens bigint not null,
  cache_write_tokens bigint not null,
  output_tokens bigint not null,
  reasoning_tokens bigint not null,
  input_audio_tokens bigint not null,
  output_audio_tokens bigint not null,
  cache_read_audio_tokens bigint not null,
  characters bigint not null,
  audio_seconds numeric not null,
  estimated_events bigint not null,
  unpriced_events bigint not null,
  interrupted_events bigint not null,
  failed_events bigint not null,
  input_cost_usd numeric not null,
  cache_read_cost_usd numeric not null,
  cache_write_cost_usd numeric not null,
  output_cost_usd numeric not null,
  audio_input_cost_usd numeric not null,
  audio_output_cost_usd numeric not null,
  tts_cost_usd numeric not null,
  stt_cost_usd numeric not null,
  call_cost_usd numeric not null,
  total_cost_usd numeric not null,
  primary key (api_key_id, day, team_id, product, billable, kind, source, provider, model)
) with (fillfactor = 70);
comment on table public.usage_daily is
  'The ledger summed by key and UTC day of occurred_at. Unpriced events add to unpriced_events only.';

create table public.rejected_usage_events (
  id bigint generated always as identity primary key,
  event jsonb not null,
  event_sha256 bytea not null unique,
  reason text not null,
  rejected_at timestamptz not null default now()
);
comment on table public.rejected_usage_events is
  'Events the ledger could not take, as they came, each once, for somebody to look at.';

create view public.workflow_thread_usage with (security_invoker = true) as
select
  t.id as workflow_thread_id,
  t.api_key_id,
  t.team_id,
  t.product,
  t.billable,
  t.status,
  (t.usage_stats ->> 'total_tokens')::bigint as total_tokens,
  (t.usage_stats ->> 'total_cost_usd')::numeric as total_cost_usd,
  (t.usage_stats ->> 'llm_calls')::bigint as llm_calls,
  t.created_at
from public.workflow_threads t;
comment on view public.workflow_thread_usage is 'The head of each usage_stats as columns.';

select flow.restrict_to_service_role(
  array['usage_events', 'usage_daily', 'rejected_usage_events', 'workflow_thread_usage'],
  array[]::text[]
);
