-- Keys, threads and their transcripts.

create table public.api_keys (
  id uuid primary key default gen_random_uuid(),
  unkey_key_id text not null unique check (octet_length(unkey_key_id) between 1 and 255),
  team_id text collate "C" not null check (octet_length(team_id) between 1 and 255),
  name text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table public.api_keys is
  'One row per Unkey key seen. The secret is never stored; unkey_key_id names it.';

create table public.workflow_threads (
  id uuid primary key,
  api_key_id uuid not null references public.api_keys (id) on delete cascade,
  team_id text collate "C" not null check (octet_length(team_id) between 1 and 255),
  product text collate "C" not null check (octet_length(product) between 1 and 512),
  billable boolean not null,
  status text not null default 'created' check (
    status in (
      'created', 'connecting', 'in_call', 'ended', 'extracting',
      'completed', 'failed', 'expired', 'cancelled'
    )
  ),
  "join" jsonb not null,
  metadata jsonb not null default '{}',
  usage_stats jsonb not null,
  insights jsonb,
  error jsonb,
  end_reason text,
  idempotency_key text check (octet_length(idempotency_key) <= 1020),
  fingerprint text not null,
  created_at timestamptz not null default now(),
  connected_at timestamptz,
  ended_at timestamptz,
  completed_at timestamptz,
  end_requested_at timestamptz,
  heartbeat_at timestamptz,
  -- Ledger rows refer to all of it, so that none can name another owner than its thread's.
  constraint workflow_threads_owner_key unique (id, api_key_id, team_id, product, billable)
-- Room for updates in place, and no compressing of usage_stats at every one of them.
) with (fillfactor = 70, toast_tuple_target = 4080);
comment on table public.workflow_threads is 'One call, from its join to its settled account.';
comment on column public.workflow_threads."join" is 'The accepted join request.';
comment on column public.workflow_threads.usage_stats is
  'The running account, for reading; usage_events is the truth.';
comment on column public.workflow_threads.completed_at is 'When it reached any final state.';

create index idx_workflow_threads_api_key_id
  on public.workflow_threads (api_key_id, created_at desc, id desc);
create unique index workflow_threads_idempotency_key
  on public.workflow_threads (api_key_id, idempotency_key) where idempotency_key is not null;
create index workflow_threads_waiting
  on public.workflow_threads (created_at) where status = 'created';

create table public.workflow_thread_turns (
  workflow_thread_id uuid not null references public.workflow_threads (id) on delete cascade,
  seq integer not null check (seq >= 0),
  role text not null,
  content text not null,
  started_at timestamptz not null,
  interrupted boolean not null default false,
  primary key (workflow_thread_id, seq)
);
comment on table public.workflow_thread_turns is 'The transcript: one row per utterance.';

create table public.workflow_thread_moves (
  from_status text not null,
  to_status text not null,
  primary key (from_status, to_status)
);
comment on table public.workflow_thread_moves is 'Every legal move of a thread; all others are refused.';

insert into public.workflow_thread_moves (from_status, to_status) values
  ('created', 'connecting'), ('created', 'failed'), ('created', 'expired'), ('created', 'cancelled'),
  ('connecting', 'in_call'), ('connecting', 'ended'), ('connecting', 'failed'),
  ('connecting', 'expired'), ('connecting', 'cancelled'),
  ('in_call', 'ended'), ('in_call', 'failed'),
  ('ended', 'extracting'), ('ended', 'completed'), ('ended', 'failed'),
  ('extracting', 'completed'), ('extracting', 'failed');

create function flow.is_final(p_status text) returns boolean
language sql immutable
set search_path = ''
return p_status in ('completed', 'failed', 'expired', 'cancelled');

create function flow.check_move() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if tg_op = 'INSERT' then
    raise exception 'A thread starts as created, not as %.', new.status
      using errcode = 'PT409', detail = 'illegal_transition';
  end if;
  if not exists (
    select from public.workflow_thread_moves m
    where m.from_status = old.status and m.to_status = new.status
  ) then
    raise exception 'A thread cannot move from % to %.', old.status, new.status
      using errcode = 'PT409', detail = 'illegal_transition';
  end if;
  if new.status = 'in_call' then
    new.connected_at := coalesce(old.connected_at, now());
  end if;
  if flow.is_final(new.status) then
    new.completed_at := coalesce(old.completed_at, now());
  end if;
  if new.status = 'ended' or (flow.is_final(new.status) and old.connected_at is not null) then
    new.ended_at := coalesce(old.ended_at, now());
  end if;
  return new;
end
$$;

create trigger workflow_threads_start before insert on public.workflow_threads
  for each row when (new.status <> 'created') execute function flow.check_move();
create trigger workflow_threads_move before update of status on public.workflow_threads
  for each row when (new.status is distinct from old.status) execute function flow.check_move();

select flow.restrict_to_service_role(
  array['api_keys', 'workflow_threads', 'workflow_thread_turns', 'workflow_thread_moves'],
  array[]::text[]
);
