-- While a call runs: what its customer has the bot say or know, and how the call goes on.

create table public.call_commands (
  id uuid primary key,
  workflow_thread_id uuid not null references public.workflow_threads (id) on delete cascade,
  place bigint generated always as identity,
  kind text not null check (kind in ('say', 'message')),
  -- {"text", "interrupt"} or {"text", "role", "respond"}
  body jsonb not null,
  idempotency_key text check (octet_length(idempotency_key) <= 1020),
  fingerprint text not null,
  created_at timestamptz not null default now(),
  taken_at timestamptz,
  take uuid,
  refusal text,
  check ((take is null) = (taken_at is null))
);
comment on table public.call_commands is
  'What a customer has the bot of a running call say or know; the process that has the call takes it.';
comment on column public.call_commands.take is
  'Who took it. A command is taken once, before it is carried out: it happens at most once.';
comment on column public.call_commands.refusal is 'Why the bot of this call cannot carry it out.';
create unique index call_commands_idempotency_key
  on public.call_commands (workflow_thread_id, idempotency_key) where idempotency_key is not null;
create index call_commands_thread on public.call_commands (workflow_thread_id, created_at);
create index call_commands_take on public.call_commands (take) where take is not null;
create index call_commands_waiting on public.call_commands (workflow_thread_id)
  where taken_at is null;

create function flow.command_json(p_command public.call_commands) returns jsonb
language sql stable
return jsonb_build_object(
  'id', (p_command).id,
  'workflow_thread_id', (p_command).workflow_thread_id,
  'kind', (p_command).kind,
  'body', (p_command).body,
  'is_taken', (p_command).taken_at is not null,
  'refusal', (p_command).refusal
);

create function public.command_call(
  p_id uuid,
  p_thread_id uuid,
  p_api_key_id uuid,
  p_kind text,
  p_body jsonb,
  p_idempotency_key text,
  p_fingerprint text,
  p_most integer,
  p_within_secs integer
) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_thread public.workflow_threads;
  v_command public.call_commands;
begin
  -- One at a time for a call: none is counted too little, or comes twice under one key.
  select * into v_thread from public.workflow_threads t
  where t.id = p_thread_id and t.api_key_id = p_api_key_id
  for no key update;
  if not found then
    perform flow.refuse_missing_thread(p_thread_id);
  end if;
  select * into v_command from public.call_commands c where c.id = p_id;
  if not found and p_idempotency_key is not null then
    select * into v_command from public.call_commands c
    where c.workflow_thread_id = p_thread_id and c.idempotency_key = p_idempotency_key;
  end if;
  if v_command.id is not null then
    if v_command.fingerprint <> p_fingerprint then
      raise exception 'The idempotency key was used for another request.'
        using errcode = 'PT409', detail = 'idempotency_conflict';
    end if;
    return flow.command_json(v_command) || jsonb_build_object('replayed', v_command.id <> p_id);
  end if;
  if v_thread.status <> 'in_call' or v_thread.end_requested_at is not null then
    raise exception 'The call is not running: its thread is %.',
      case when v_thread.status = 'in_call' then 'about to end' else v_thread.status end
      using errcode = 'PT409', detail = 'not_in_call';
  end if;
  if (
    select count(*) from public.call_commands c
    where c.workflow_thread_id = p_thread_id
      and c.created_at > now() - make_interval(secs => p_within_secs)
  ) >= p_most then
    raise exception 'A call takes at most % of these in % seconds.', p_most, p_within_secs
      using errcode = 'PT403', detail = 'rate_limited';
  end if;
  insert into public.call_commands (
    id, workflow_thread_id, kind, body, idempotency_key, fingerprint
  )
  values (p_id, p_thread_id, p_kind, p_body, p_idempotency_key, p_fingerprint)
  returning * into v_command;
  return flow.command_json(v_command) || jsonb_build_object('replayed', false);
end
$$;
comment on function public.command_call is
  'Leaves a command for whichever process has the call, once for an id or an idempotency key; refused '
  'unless the call runs, and when there were p_most within p_within_secs.';

create function public.take_call_commands(p_claims jsonb, p_take uuid) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_taken jsonb;
begin
  with found as materialized (
    select w.id
    from jsonb_each_text(p_claims) as held (thread_id, claim)
    cross join lateral (
      select c.id from public.call_commands c
      where c.workflow_thread_id = held.thread_id::uuid and c.taken_at is null
    ) w
    where exists (
      select from public.workflow_threads t
      where t.id = held.thread_id::uuid and t.claimed_by = held.claim
    )
  )
  update public.call_commands c set taken_at = now(), take = p_take
  from found f where c.id = f.id and c.taken_at is null;

  -- Those of before, too: the answer to a take may be lost on its way.
  select coalesce(jsonb_agg(flow.command_json(c) order by c.place), '[]') into v_taken
  from public.call_commands c where c.take = p_take;
  return v_taken;
end
$$;
comment on function public.take_call_commands is
  'Gives the commands that wait for calls {"thread id": "claim"} to who has them, once; again for the '
  'same p_take.';

create function public.refuse_call_command(p_id uuid, p_refusal text) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
begin
  update public.call_commands c set refusal = p_refusal where c.id = p_id;
  return to_jsonb(found);
end
$$;

create function public.get_call_command(p_id uuid) returns jsonb
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_command public.call_commands;
begin
  select * into v_command from public.call_commands c where c.id = p_id;
  return case when found then flow.command_json(v_command) end;
end
$$;

-- Turns are numbered from a multiple of p_turns_of_a_lease by each process that has the call, and come
-- to the database in order within these; those of a process that died come late.
create function flow.turns_after(p_thread_id uuid, p_seen jsonb, p_turns_of_a_lease integer)
returns jsonb
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
    from generate_series(0, (
      select coalesce(max(l.seq), 0) / p_turns_of_a_lease
      from public.workflow_thread_turns l where l.workflow_thread_id = p_thread_id
    )) as lease (n)
    cross join lateral (
      select * from public.workflow_thread_turns t
      where t.workflow_thread_id = p_thread_id
        and t.seq > coalesce(
          (p_seen ->> lease.n::text)::integer, lease.n * p_turns_of_a_lease - 1
        )
        and t.seq < (lease.n + 1) * p_turns_of_a_lease
    ) u
  );
end
$$;

-- What has begun, or is over, since.
create function flow.tool_calls_after(p_thread_id uuid, p_place bigint)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
  return (
    select coalesce(
      jsonb_agg(
        jsonb_build_object(
          'id', u.id, 'name', u.name, 'arguments', u.arguments, 'started_at', u.started_at,
          'outcome', u.outcome, 'seconds', u.seconds, 'status', u.status, 'result', null,
          'transition_to', u.transition_to, 'place', u.place
        ) order by u.place
      ),
      '[]'
    )
    from public.workflow_thread_tool_calls u
    where u.workflow_thread_id = p_thread_id and u.place > p_place
  );
end
$$;

create function public.list_thread_progress(p_watched jsonb, p_turns_of_a_lease integer)
returns json
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_accounts json := flow.accounts(array(
    select (w.value ->> 'thread_id')::uuid from jsonb_array_elements(p_watched) w
  ));
begin
  return (
    select json_agg(
      case when t.id is not null then json_build_object(
        'status', t.status,
        'created_at', t.created_at,
        'connected_at', t.connected_at,
        'ended_at', t.ended_at,
        'completed_at', t.completed_at,
        'end_reason', t.end_reason,
        'error', t.error,
        'account', v_accounts -> t.id::text,
        'tool_calls', flow.tool_calls_after(t.id, (w.value ->> 'tools')::bigint),
        'turns', flow.turns_after(t.id, w.value -> 'turns', p_turns_of_a_lease)
      ) end
      order by w.place
    )
    from jsonb_array_elements(p_watched) with ordinality as w (value, place)
    left join public.workflow_threads t on t.id = (w.value ->> 'thread_id')::uuid
  );
end
$$;
comment on function public.list_thread_progress is
  'How threads stand, and their turns and tool calls that were not seen yet, for each of [{"thread_id", "turns": '
  '{"lease": last seq seen}, "tools": the highest place of a tool call seen}]; '
  'null for a thread that is gone.';

select flow.restrict_to_service_role(array['call_commands'], array[
  'command_call', 'take_call_commands', 'refuse_call_command', 'get_call_command',
  'list_thread_progress'
]);
