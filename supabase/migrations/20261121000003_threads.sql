-- Threads: one call each, from its join to its settled account, and its transcript.

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
  agent_id uuid,
  agent_version integer,
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
  claimed_by text,
  lease_until timestamptz,
  reserved_usd numeric not null default 0 check (reserved_usd >= 0 and reserved_usd < 1e12),
  reserved_secs numeric not null default 0 check (reserved_secs >= 0 and reserved_secs < 1e9),
  -- Of usage_stats, so that summing them over many running calls is quick.
  recorded_usd numeric
    generated always as ((usage_stats ->> 'total_cost_usd')::numeric) stored,
  recorded_call_secs numeric
    generated always as ((usage_stats ->> 'call_seconds')::numeric) stored,
  budget_override boolean not null default false,
  buckets jsonb not null default '{}',
  -- Ledger rows refer to all of it, so that none can name another owner than its thread's. Not to
  -- billable: a product's insights may be free of charge although its calls are not.
  constraint workflow_threads_owner_key unique (id, api_key_id, team_id, product)
-- Room for updates in place, and no compressing of usage_stats at every one of them.
) with (fillfactor = 70, toast_tuple_target = 4080);
comment on table public.workflow_threads is 'One call, from its join to its settled account.';
comment on column public.workflow_threads."join" is 'The accepted join request.';
comment on column public.workflow_threads.agent_id is
  'The agent it was made with, whose version is agent_version; its join has all that came of that.';
comment on column public.workflow_threads.usage_stats is
  'The running account, for reading; usage_events is the truth.';
comment on column public.workflow_threads.completed_at is 'When it reached any final state.';
comment on column public.workflow_threads.claimed_by is
  'The session that runs the call. Set once; the same session may claim again.';
comment on column public.workflow_threads.lease_until is
  'Until then the thread counts as live without another sign of life.';
comment on column public.workflow_threads.reserved_usd is
  'Held of the budget and of credits while the thread is live, less what it has recorded.';

comment on column public.workflow_threads.buckets is
  'The credits that its billable cost counts against, with all products that do: {"ai_credits": '
  '["voice_bot"]}.';

create index idx_workflow_threads_api_key_id
  on public.workflow_threads (api_key_id, created_at desc, id desc);
create unique index workflow_threads_idempotency_key
  on public.workflow_threads (api_key_id, idempotency_key) where idempotency_key is not null;
-- Most threads are completed: a list of the others would read through all of those.
create index workflow_threads_unsuccessful
  on public.workflow_threads (api_key_id, created_at desc, id desc)
  where status in ('failed', 'expired', 'cancelled');
create index workflow_threads_live on public.workflow_threads (api_key_id)
  where status in ('created', 'connecting', 'in_call', 'ended', 'extracting');
-- While no calls are running every index of theirs seems to cost the same, even one that knows nothing
-- of the key or team that is asked about. So each can be proved usable from its own question alone:
-- that a team is not null follows from comparing it, and that a status is a live one does not follow
-- from its being none of these.
create index workflow_threads_team_live on public.workflow_threads (team_id)
  where status not in ('completed', 'failed', 'expired', 'cancelled') and team_id is not null;

-- For lists over all keys, which say so. Nothing else can be served by these: an index by age would
-- seem as good to a plan that is made while there are few threads.
create index workflow_threads_created on public.workflow_threads (created_at desc, id desc)
  where created_at > '-infinity';
create index workflow_threads_team_created
  on public.workflow_threads (team_id, created_at desc, id desc) where created_at > '-infinity';
-- The few that are looked for among many.
create index workflow_threads_unsuccessful_created
  on public.workflow_threads (status, created_at desc, id desc)
  where status in ('failed', 'expired', 'cancelled');

create index workflow_threads_agent
  on public.workflow_threads (api_key_id, agent_id, created_at desc, id desc)
  where agent_id is not null;

create table public.workflow_thread_turns (
  workflow_thread_id uuid not null references public.workflow_threads (id) on delete cascade,
  seq integer not null check (seq >= 0),
  role text not null,
  content text not null,
  started_at timestamptz not null,
  interrupted boolean not null default false,
  latency jsonb,
  primary key (workflow_thread_id, seq)
);
comment on table public.workflow_thread_turns is 'The transcript: one row per utterance.';
comment on column public.workflow_thread_turns.latency is
  'Of a reply: the seconds the caller waited for it, by what was waited for.';

create table public.workflow_thread_tool_calls (
  workflow_thread_id uuid not null references public.workflow_threads (id) on delete cascade,
  id uuid not null,
  name text not null,
  arguments jsonb not null,
  started_at timestamptz not null,
  outcome text not null check (
    outcome in (
      'running', 'ok', 'failed', 'timeout', 'invalid_arguments', 'refused', 'cancelled', 'unknown'
    )
  ),
  seconds numeric check (seconds >= 0),
  status integer,
  result jsonb,
  transition_to text,
  place bigint not null generated always as identity,
  primary key (workflow_thread_id, id)
);
comment on table public.workflow_thread_tool_calls is
  'What bots did beside talking: one row per use of a tool, written when it starts and when it is over.';
comment on column public.workflow_thread_tool_calls.place is
  'Higher than all that the thread had when this was written, or written again.';
comment on column public.workflow_thread_tool_calls.result is 'What the model was told of it.';
comment on column public.workflow_thread_tool_calls.transition_to is
  'The node of the bot''s flow that the call went to with it.';

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

-- How long a sign of life holds: some missed heartbeats, or the longest step after a call. A thread
-- that waits for its caller has what its join gave it.
create function flow.lease(p_status text) returns interval
language sql immutable
return case
  when p_status in ('connecting', 'in_call') then interval '45 seconds'
  when p_status in ('ended', 'extracting') then interval '5 minutes'
end;

create function flow.refuse_missing_thread(p_thread_id uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception 'There is no thread % for this key.', p_thread_id using errcode = 'PT404';
end
$$;

create function flow.transcript(p_thread_id uuid) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
  return (
    select coalesce(
      jsonb_agg(
        jsonb_build_object(
          'seq', u.seq, 'role', u.role, 'content', u.content,
          'started_at', u.started_at, 'interrupted', u.interrupted, 'latency', u.latency
        ) order by u.seq
      ),
      '[]'
    )
    from public.workflow_thread_turns u where u.workflow_thread_id = p_thread_id
  );
end
$$;

-- A use that is still running when the call is over was cut off with its process.
create function flow.tool_calls(p_thread public.workflow_threads) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_is_over boolean := p_thread.status not in ('created', 'connecting', 'in_call');
begin
  return (
    select coalesce(
      jsonb_agg(
        jsonb_build_object(
          'id', u.id, 'name', u.name, 'arguments', u.arguments, 'started_at', u.started_at,
          'outcome', case when u.outcome = 'running' and v_is_over then 'unknown' else u.outcome end,
          'seconds', u.seconds, 'status', u.status, 'result', u.result,
          'transition_to', u.transition_to
        ) order by u.started_at, u.id
      ),
      '[]'
    )
    from public.workflow_thread_tool_calls u where u.workflow_thread_id = p_thread.id
  );
end
$$;

create function flow.thread_json(
  p_thread public.workflow_threads, p_transcript jsonb default '[]', p_tool_calls jsonb default '[]'
) returns jsonb
language sql stable
return jsonb_build_object(
  'id', (p_thread).id,
  'api_key_id', (p_thread).api_key_id,
  'team_id', (p_thread).team_id,
  'product', (p_thread).product,
  'billable', (p_thread).billable,
  'status', (p_thread).status,
  'join', (p_thread)."join",
  'transcript', p_transcript,
  'tool_calls', p_tool_calls,
  'insights', (p_thread).insights,
  'usage_stats', (p_thread).usage_stats,
  'metadata', (p_thread).metadata,
  'error', (p_thread).error,
  'end_reason', (p_thread).end_reason,
  'end_requested_at', (p_thread).end_requested_at,
  'heartbeat_at', (p_thread).heartbeat_at,
  'created_at', (p_thread).created_at,
  'connected_at', (p_thread).connected_at,
  'ended_at', (p_thread).ended_at,
  'completed_at', (p_thread).completed_at
);

create function flow.whole_thread_json(p_thread public.workflow_threads) returns jsonb
language sql stable
return flow.thread_json(p_thread, flow.transcript((p_thread).id), flow.tool_calls(p_thread));

create function public.get_workflow_thread_data(p_thread_id uuid, p_api_key_id uuid default null)
returns jsonb
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_thread public.workflow_threads;
begin
  select * into v_thread from public.workflow_threads t
  where t.id = p_thread_id and (p_api_key_id is null or t.api_key_id = p_api_key_id);
  if not found then
    perform flow.refuse_missing_thread(p_thread_id);
  end if;
  return flow.whole_thread_json(v_thread);
end
$$;

-- Planned for just the filters that are given, each with the index that serves it.
create function public.list_workflow_threads(
  p_api_key_id uuid,
  p_limit integer,
  p_before_created_at timestamptz default null,
  p_before_id uuid default null,
  p_status text default null,
  p_product text default null,
  p_agent_id uuid default null,
  p_running boolean default false,
  p_from date default null,
  p_to date default null
) returns jsonb
language plpgsql stable
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_conditions text := concat_ws(
    ' and ',
    't.api_key_id = $2',
    case when p_before_id is not null then '(t.created_at, t.id) < ($3, $4)' end,
    case when p_status is not null then format('t.status = %L', p_status) end,
    case when p_product is not null then 't.product = $5' end,
    case when p_agent_id is not null then 't.agent_id = $8' end,
    case when p_running then $sql$t.status in ('connecting', 'in_call')$sql$ end,
    case when p_from is not null then $sql$t.created_at >= $6::timestamp at time zone 'UTC'$sql$ end,
    case when p_to is not null then $sql$t.created_at < ($7 + 1)::timestamp at time zone 'UTC'$sql$ end
  );
  v_found jsonb;
begin
  execute format(
    $sql$
      with page as (
        select t as thread from public.workflow_threads t
        where %s
        order by t.created_at desc, t.id desc
        limit $1
      )
      select coalesce(
        jsonb_agg(
          flow.thread_json(p.thread) order by (p.thread).created_at desc, (p.thread).id desc
        ),
        '[]'
      )
      from page p
    $sql$,
    v_conditions
  )
  into v_found
  using p_limit, p_api_key_id, p_before_created_at, p_before_id, p_product, p_from, p_to,
    p_agent_id;
  return v_found;
end
$$;

-- A sign of life, as every change of a running thread is: it renews the lease.
create function public.claim_thread(p_thread_id uuid, p_claim text) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_thread public.workflow_threads;
begin
  update public.workflow_threads t set
    status = 'connecting',
    claimed_by = p_claim,
    heartbeat_at = now(),
    lease_until = now() + flow.lease('connecting')
  where t.id = p_thread_id
    and (t.status = 'created' or (t.status = 'connecting' and t.claimed_by = p_claim))
  returning * into v_thread;
  if not found then
    select * into v_thread from public.workflow_threads t where t.id = p_thread_id;
    if not found then
      perform flow.refuse_missing_thread(p_thread_id);
    end if;
    raise exception 'The call cannot be connected to: it is %.', v_thread.status
      using errcode = 'PT409', detail = 'already_connected';
  end if;
  return flow.thread_json(v_thread);
end
$$;

create function public.save_workflow_thread_data(
  p_thread_id uuid,
  p_status text default null,
  p_turns jsonb default '[]',
  p_insights jsonb default null,
  p_end_reason text default null,
  p_error jsonb default null,
  p_end_requested boolean default false
) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_thread public.workflow_threads;
begin
  update public.workflow_threads t set
    status = coalesce(p_status, t.status),
    insights = coalesce(p_insights, t.insights),
    end_reason = coalesce(p_end_reason, t.end_reason),
    error = coalesce(p_error, t.error),
    end_requested_at = case
      when p_end_requested then coalesce(t.end_requested_at, now()) else t.end_requested_at
    end,
    heartbeat_at = now(),
    lease_until = coalesce(now() + flow.lease(coalesce(p_status, t.status)), t.lease_until)
  where t.id = p_thread_id
  returning * into v_thread;
  if not found then
    perform flow.refuse_missing_thread(p_thread_id);
  end if;

  insert into public.workflow_thread_turns (
    workflow_thread_id, seq, role, content, started_at, interrupted, latency
  )
  select p_thread_id, n.seq, n.role, n.content, n.started_at, n.interrupted, n.latency
  from jsonb_to_recordset(p_turns) as n (
    seq integer, role text, content text, started_at timestamptz, interrupted boolean, latency jsonb
  )
  order by n.seq
  on conflict (workflow_thread_id, seq) do update set
    role = excluded.role, content = excluded.content,
    started_at = excluded.started_at, interrupted = excluded.interrupted, latency = excluded.latency;
  return flow.whole_thread_json(v_thread);
end
$$;

-- What was extracted first stays.
create function public.save_insights(p_thread_id uuid, p_insights jsonb) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_thread public.workflow_threads;
begin
  update public.workflow_threads t set
    insights = coalesce(t.insights, p_insights),
    heartbeat_at = now(),
    lease_until = greatest(t.lease_until, now() + flow.lease(t.status))
  where t.id = p_thread_id
  returning * into v_thread;
  if not found then
    perform flow.refuse_missing_thread(p_thread_id);
  end if;
  return flow.whole_thread_json(v_thread);
end
$$;

-- The transcript by itself: what was said is stored whenever it comes, and says nothing of the call.
create function public.save_turns(p_turns jsonb) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_unknown jsonb;
begin
  -- Threads are held fast, since a key may be deleted meanwhile, and in one order for all.
  perform from public.workflow_threads t
  where t.id in (select (n.value ->> 'workflow_thread_id')::uuid from jsonb_array_elements(p_turns) n)
  order by t.id
  for key share;

  insert into public.workflow_thread_turns (
    workflow_thread_id, seq, role, content, started_at, interrupted, latency
  )
  select n.workflow_thread_id, n.seq, n.role, n.content, n.started_at, n.interrupted, n.latency
  from jsonb_to_recordset(p_turns) as n (
    workflow_thread_id uuid, seq integer, role text, content text, started_at timestamptz,
    interrupted boolean, latency jsonb
  )
  where exists (select from public.workflow_threads t where t.id = n.workflow_thread_id)
  order by n.workflow_thread_id, n.seq
  on conflict (workflow_thread_id, seq) do nothing;

  select coalesce(jsonb_agg(distinct n.value -> 'workflow_thread_id'), '[]') into v_unknown
  from jsonb_array_elements(p_turns) n
  where not exists (
    select from public.workflow_threads t where t.id = (n.value ->> 'workflow_thread_id')::uuid
  );
  return v_unknown;
end
$$;
comment on function public.save_turns is
  'Stores turns [{"workflow_thread_id", "seq", "role", "content", "started_at", "interrupted", '
  '"latency"}] of any threads in any state, each once; gives the threads that do not exist. Unlike '
  'save_workflow_thread_data it is no sign of life: a dead process''s turns may come late.';

create function public.save_tool_calls(p_calls jsonb) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_unknown jsonb;
begin
  -- As for turns: held fast, in one order for all; and one at a time for a thread, so that whoever
  -- sees a place sees all that are lower.
  perform from public.workflow_threads t
  where t.id in (select (n.value ->> 'workflow_thread_id')::uuid from jsonb_array_elements(p_calls) n)
  order by t.id
  for no key update;

  -- The start of a use and its outcome may come together, and only the outcome is of interest then.
  insert into public.workflow_thread_tool_calls as known (
    workflow_thread_id, id, name, arguments, started_at, outcome, seconds, status, result,
    transition_to
  )
  select
    u.workflow_thread_id, u.id, u.name, u.arguments, u.started_at, u.outcome, u.seconds, u.status,
    u.result, u.transition_to
  from (
    select distinct on (n.workflow_thread_id, n.id) n.*
    from jsonb_to_recordset(p_calls) as n (
      workflow_thread_id uuid, id uuid, name text, arguments jsonb, started_at timestamptz,
      outcome text, seconds numeric, status integer, result jsonb, transition_to text
    )
    where exists (select from public.workflow_threads t where t.id = n.workflow_thread_id)
    order by n.workflow_thread_id, n.id, n.outcome = 'running', n.outcome = 'unknown'
  ) u
  order by u.started_at, u.id
  on conflict (workflow_thread_id, id) do update set
    outcome = excluded.outcome,
    seconds = excluded.seconds,
    status = excluded.status,
    result = excluded.result,
    transition_to = excluded.transition_to,
    place = default
  where excluded.outcome <> 'running'
    and (known.outcome = 'running' or (known.outcome = 'unknown' and excluded.outcome <> 'unknown'));

  select coalesce(jsonb_agg(distinct n.value -> 'workflow_thread_id'), '[]') into v_unknown
  from jsonb_array_elements(p_calls) n
  where not exists (
    select from public.workflow_threads t where t.id = (n.value ->> 'workflow_thread_id')::uuid
  );
  return v_unknown;
end
$$;
comment on function public.save_tool_calls is
  'Stores uses of tools [{"workflow_thread_id", "id", "name", "arguments", "started_at", "outcome", '
  '"seconds", "status", "result", "transition_to"}] of any threads in any state; gives the threads that do not exist. '
  'The first outcome of a use stands, but for "running", and for "unknown" where more becomes known.';

-- A sign of life by itself: a call gives one every few seconds, and needs no transcript for it.
create function public.touch_thread(p_thread_id uuid, p_status text default null) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_pulse jsonb;
begin
  update public.workflow_threads t set
    status = coalesce(p_status, t.status),
    heartbeat_at = now(),
    lease_until = coalesce(now() + flow.lease(coalesce(p_status, t.status)), t.lease_until)
  where t.id = p_thread_id
  returning jsonb_build_object('status', t.status, 'end_requested', t.end_requested_at is not null)
  into v_pulse;
  if not found then
    perform flow.refuse_missing_thread(p_thread_id);
  end if;
  return v_pulse;
end
$$;
comment on function public.touch_thread is
  'A sign of life of a running call, which may move it; gives its status and whether it is to end.';

create function public.expire_threads(p_created_before timestamptz) returns jsonb
language sql
set search_path = ''
set enable_seqscan = off
as $$
  with waiting as (
    select t.id from public.workflow_threads t
    where t.status = 'created' and t.created_at < p_created_before
    order by t.id
    for no key update skip locked
  ), moved as (
    update public.workflow_threads t set status = 'expired'
    from waiting w where t.id = w.id
    returning t.id, t.created_at
  )
  select coalesce(jsonb_agg(m.id order by m.created_at, m.id), '[]') from moved m
$$;

select flow.restrict_to_service_role(
  array[
    'workflow_threads', 'workflow_thread_turns', 'workflow_thread_tool_calls',
    'workflow_thread_moves'
  ],
  array[
    'get_workflow_thread_data', 'list_workflow_threads', 'claim_thread', 'save_workflow_thread_data',
    'save_insights', 'save_turns', 'save_tool_calls', 'touch_thread', 'expire_threads'
  ]
);
