-- What keys and teams may use, what they used this month, and what running calls hold of it.

alter table public.api_keys
  -- NaN is above every bound. Null, zero and less mean that there is no budget.
  add column budget_usd numeric check (budget_usd < 1e12),
  add column budget_override_until timestamptz,
  add column save_mode text check (save_mode in ('off', 'auto', 'on')),
  add column revoked_at timestamptz;
comment on column public.api_keys.budget_usd is 'USD a month (UTC); none if null, zero or less.';
comment on column public.api_keys.budget_override_until is 'Until then the budget refuses nothing.';
comment on column public.api_keys.revoked_at is 'When an operator revoked it; the ledger stays.';

create table public.team_quotas (
  team_id text collate "C" not null check (octet_length(team_id) between 1 and 255),
  resource text collate "C" not null check (resource ~ '^[a-z][a-z0-9_]{0,63}$'),
  quota numeric not null check (quota >= 0 and quota < 1e12),
  updated_at timestamptz not null default now(),
  primary key (team_id, resource)
);
comment on table public.team_quotas is
  'What a team may use in a month (UTC): call_seconds, or credits (1 is a cent of billable cost) of '
  'the bucket that a product names, ai_credits as a rule; and concurrent_calls at any one time.';

create table public.usage_monthly (
  api_key_id uuid not null references public.api_keys (id) on delete cascade,
  month date not null,
  team_id text collate "C" not null,
  product text collate "C" not null,
  total_cost_usd numeric not null,
  billable_cost_usd numeric not null,
  call_seconds numeric not null,
  primary key (api_key_id, month, team_id, product)
) with (fillfactor = 70);
comment on table public.usage_monthly is
  'The ledger summed by key and UTC month of occurred_at, for budgets and quotas.';
create index usage_monthly_team on public.usage_monthly (team_id, month);

create function flow.month_of(p_at timestamptz) returns date
language sql immutable
set search_path = ''
return date_trunc('month', p_at at time zone 'UTC')::date;

create function flow.month_end(p_at timestamptz) returns timestamptz
language sql immutable
set search_path = ''
return (date_trunc('month', p_at at time zone 'UTC') + interval '1 month') at time zone 'UTC';

insert into public.usage_monthly
select
  d.api_key_id, date_trunc('month', d.day)::date, d.team_id, d.product,
  sum(d.total_cost_usd),
  coalesce(sum(d.total_cost_usd) filter (where d.billable), 0),
  coalesce(sum(d.audio_seconds) filter (where d.kind = 'call'), 0)
from public.usage_daily d
group by 1, 2, 3, 4;

alter table public.workflow_threads
  add column reserved_usd numeric not null default 0 check (reserved_usd >= 0 and reserved_usd < 1e12),
  add column reserved_secs numeric not null default 0 check (reserved_secs >= 0 and reserved_secs < 1e9),
  -- Of usage_stats, so that summing them over many running calls is quick.
  add column recorded_usd numeric
    generated always as ((usage_stats ->> 'total_cost_usd')::numeric) stored,
  add column recorded_call_secs numeric
    generated always as ((usage_stats ->> 'call_seconds')::numeric) stored,
  add column budget_override boolean not null default false,
  add column lease_until timestamptz;
comment on column public.workflow_threads.reserved_usd is
  'Held of the budget and of credits while the thread is live, less what it has recorded.';
comment on column public.workflow_threads.lease_until is
  'Until then the thread counts as live without another sign of life.';
update public.workflow_threads set lease_until = now() + interval '5 minutes'
where status in ('created', 'connecting', 'in_call', 'ended', 'extracting');

-- How long a sign of life holds: some missed heartbeats, or the longest step after a call. A thread
-- that waits for its caller has what its join gave it.
create function flow.lease(p_status text) returns interval
language sql immutable
set search_path = ''
return case
  when p_status in ('connecting', 'in_call') then interval '45 seconds'
  when p_status in ('ended', 'extracting') then interval '5 minutes'
end;

drop index public.workflow_threads_waiting;
create index workflow_threads_live on public.workflow_threads (api_key_id)
  where status in ('created', 'connecting', 'in_call', 'ended', 'extracting');
create index workflow_threads_team_live on public.workflow_threads (team_id)
  where status in ('created', 'connecting', 'in_call', 'ended', 'extracting');

create table public.webhook_events (
  id uuid primary key default gen_random_uuid(),
  type text not null check (
    type in ('thread.completed', 'thread.failed', 'budget.warn', 'budget.exceeded')
  ),
  api_key_id uuid not null references public.api_keys (id) on delete cascade,
  team_id text collate "C" not null,
  workflow_thread_id uuid references public.workflow_threads (id) on delete cascade,
  period date check ((period is null) <> (type like 'budget.%')),
  data jsonb not null,
  created_at timestamptz not null default now()
);
comment on table public.webhook_events is 'What customers are to be told, each once.';
create unique index webhook_events_once_a_period
  on public.webhook_events (api_key_id, type, period) where period is not null;
create index webhook_events_thread
  on public.webhook_events (workflow_thread_id) where workflow_thread_id is not null;

-- A product's insights may be free of charge although its calls are not: what of a thread is
-- billable is decided for each of its events.
alter table public.usage_events drop constraint usage_events_thread_owner;
alter table public.workflow_threads
  drop constraint workflow_threads_owner_key,
  add constraint workflow_threads_owner_key unique (id, api_key_id, team_id, product);
alter table public.usage_events
  add constraint usage_events_thread_owner foreign key (workflow_thread_id, api_key_id, team_id, product)
    references public.workflow_threads (id, api_key_id, team_id, product) on delete cascade,
  add column save_mode boolean not null default false,
  add column save_mode_reason text,
  add column budget_tier text;

create function flow.refuse_change_of_billable() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  raise exception 'What a thread was joined as is not changed: billable stays %.', old.billable
    using errcode = 'PT409', detail = 'ledger_immutable';
end
$$;

create trigger workflow_threads_billable before update of billable on public.workflow_threads
  for each row when (new.billable is distinct from old.billable)
  execute function flow.refuse_change_of_billable();

select flow.restrict_to_service_role(
  array['team_quotas', 'usage_monthly', 'webhook_events'], array[]::text[]
);
