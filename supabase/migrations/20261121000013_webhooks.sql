-- What customers are told of their calls and budgets, and where each of it is to go.

alter table public.api_keys
  add column webhook_url text check (char_length(webhook_url) between 1 and 2048),
  add column webhook_secret text check (webhook_secret ~ '^whsec_[A-Za-z0-9+/]{32,}={0,2}$'),
  add column webhook_secret_previous text,
  add column webhook_secret_previous_until timestamptz;
comment on column public.api_keys.webhook_url is 'Where the key''s budget events go.';
comment on column public.api_keys.webhook_secret is
  'Signs every webhook of the key. No function tells it but those that claim deliveries or ask for it.';
comment on column public.api_keys.webhook_secret_previous is
  'Signs beside the current one until webhook_secret_previous_until.';

create table public.webhook_deliveries (
  event_id uuid primary key references public.webhook_events (id) on delete cascade,
  api_key_id uuid not null,
  url text not null,
  created_at timestamptz not null default now(),
  attempts integer not null default 0 check (attempts >= 0),
  next_attempt_at timestamptz not null default now(),
  claim uuid,
  delivered_at timestamptz,
  dead_at timestamptz,
  last_status integer,
  last_error text,
  check (delivered_at is null or dead_at is null)
) with (fillfactor = 70);
comment on table public.webhook_deliveries is
  'An event on its way to a customer, until it is delivered or given up.';
comment on column public.webhook_deliveries.claim is
  'Who is sending it now; theirs until next_attempt_at, when another may try.';
create index webhook_deliveries_open on public.webhook_deliveries (api_key_id, next_attempt_at)
  where delivered_at is null and dead_at is null;
create index webhook_deliveries_dead on public.webhook_deliveries (created_at)
  where dead_at is not null;
create index webhook_deliveries_created on public.webhook_deliveries (created_at, api_key_id);

create unique index webhook_events_once_a_thread
  on public.webhook_events (workflow_thread_id) where period is null;

create function flow.utc_text(p_at timestamptz) returns text
language sql stable
set search_path = ''
return to_char(p_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');

create function flow.usd_text(p_amount jsonb) returns text
language sql immutable
set search_path = ''
return trim_scale((p_amount #>> '{}')::numeric)::text;

-- The account with its money as strings, so that no parser on its way makes floats of it.
create function flow.told_usage(p_stats jsonb) returns jsonb
language sql immutable
set search_path = ''
as $$
  select p_stats || jsonb_build_object(
    'total_cost_usd', flow.usd_text(p_stats -> 'total_cost_usd'),
    'billable_cost_usd', flow.usd_text(p_stats -> 'billable_cost_usd'),
    'tts', (p_stats -> 'tts')
      || jsonb_build_object('cost_usd', flow.usd_text(p_stats #> '{tts,cost_usd}')),
    'stt', (p_stats -> 'stt')
      || jsonb_build_object('cost_usd', flow.usd_text(p_stats #> '{stt,cost_usd}')),
    'cost_breakdown_usd', (
      select coalesce(jsonb_object_agg(c.key, flow.usd_text(c.value)), '{}')
      from jsonb_each(p_stats -> 'cost_breakdown_usd') c
    ),
    'models_used', (
      select coalesce(
        jsonb_object_agg(
          m.key, m.value || jsonb_build_object('cost_usd', flow.usd_text(m.value -> 'cost_usd'))
        ),
        '{}'
      )
      from jsonb_each(p_stats -> 'models_used') m
    )
  )
$$;

-- As GET /api/threads shows a thread, under the same names.
create function flow.told_thread(p_thread public.workflow_threads) returns jsonb
language sql stable
set search_path = ''
return jsonb_build_object(
  'workflow_thread_id', (p_thread).id,
  'status', (p_thread).status,
  'product', (p_thread).product,
  'billable', (p_thread).billable,
  'created_at', flow.utc_text((p_thread).created_at),
  'connected_at', flow.utc_text((p_thread).connected_at),
  'ended_at', flow.utc_text((p_thread).ended_at),
  'completed_at', flow.utc_text((p_thread).completed_at),
  'end_reason', (p_thread).end_reason,
  'end_requested', (p_thread).end_requested_at is not null,
  'error', (p_thread).error,
  'insights', (p_thread).insights,
  'usage_stats', flow.told_usage((p_thread).usage_stats),
  'metadata', (p_thread).metadata,
  'posthog_trace_id', (p_thread).id
);

create function flow.note_thread_over() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  insert into public.webhook_events (type, api_key_id, team_id, workflow_thread_id, data)
  select 'thread.' || t.status, t.api_key_id, t.team_id, t.id, flow.told_thread(t)
  from public.workflow_threads t
  where t.id = new.id and t.status in ('completed', 'failed')
  on conflict (workflow_thread_id) where period is null do nothing;
  return null;
end
$$;

-- At the end of the transaction that finishes a thread, whichever function does it: the event
-- tells what was committed, including what was written after the move.
create constraint trigger workflow_threads_over after update of status on public.workflow_threads
  deferrable initially deferred
  for each row when (
    new.status is distinct from old.status and new.status in ('completed', 'failed')
    and new."join" ->> 'webhook_url' is not null
  )
  execute function flow.note_thread_over();

create function flow.address_webhook() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  insert into public.webhook_deliveries (event_id, api_key_id, url)
  select new.id, new.api_key_id, a.url
  from (
    select coalesce(
      case when new.type like 'budget.%' then (
        select k.webhook_url from public.api_keys k where k.id = new.api_key_id
      ) end,
      (
        select t."join" ->> 'webhook_url' from public.workflow_threads t
        where t.id = new.workflow_thread_id
      )
    ) as url
  ) a
  where a.url is not null;
  return null;
end
$$;
comment on function flow.address_webhook is
  'A budget event goes to its key''s URL or else to that of the thread that crossed the threshold; '
  'a thread''s event to the thread''s. Without any URL nobody is told.';

create trigger webhook_events_address after insert on public.webhook_events
  for each row execute function flow.address_webhook();

select flow.restrict_to_service_role(array['webhook_deliveries'], array[]::text[]);
