-- Calls in rooms, which any process may take up: at first, and again when the one that had it is gone.

create table public.room_calls (
  workflow_thread_id uuid primary key references public.workflow_threads (id) on delete cascade,
  -- {"type", "url", "name"?, "lasts_until", "trace"?}: no token, whoever enters has one made.
  room jsonb not null,
  -- Until when the caller may come for the first time.
  caller_until timestamptz not null,
  rejoin_secs integer not null check (rejoin_secs >= 0),
  -- Grows whenever the call is to be taken up anew: who was asked before comes too late.
  attempt integer not null default 0,
  taken_at timestamptz,
  heard_at timestamptz
);
comment on table public.room_calls is
  'The rooms that Flow''s bots are in or on their way to; a row goes when its room is closed.';
comment on column public.room_calls.heard_at is
  'The last sign of life of a bot in the call, whoever else has written to the thread.';

-- Whether somebody may still take the call up with the conversation so far.
create function flow.may_be_rejoined(p_thread public.workflow_threads) returns boolean
language sql stable
set search_path = ''
as $$
  select (p_thread).status in ('connecting', 'in_call') and exists (
    select from public.room_calls r
    where r.workflow_thread_id = (p_thread).id
      and r.heard_at + make_interval(secs => r.rejoin_secs) > now()
  )
$$;

create function flow.refuse_taken_call(p_thread_id uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception 'The call % is somebody else''s by now, or over.', p_thread_id
    using errcode = 'PT409', detail = 'call_taken_over';
end
$$;

create function public.queue_room_call(
  p_thread_id uuid, p_room jsonb, p_caller_until timestamptz, p_rejoin_secs integer
) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_status text;
begin
  select t.status into v_status from public.workflow_threads t
  where t.id = p_thread_id for no key update;
  if not found then
    perform flow.refuse_missing_thread(p_thread_id);
  end if;
  if v_status <> 'created' then
    raise exception 'The call cannot be connected to: it is %.', v_status
      using errcode = 'PT409', detail = 'already_connected';
  end if;
  insert into public.room_calls (workflow_thread_id, room, caller_until, rejoin_secs)
  values (p_thread_id, p_room, p_caller_until, p_rejoin_secs)
  on conflict do nothing;
  return to_jsonb(true);
end
$$;
comment on function public.queue_room_call is
  'Keeps what another process needs to enter the room of a thread that nobody has begun.';

create function public.take_room_call(p_thread_id uuid, p_attempt integer, p_claim text)
returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_thread public.workflow_threads;
  v_call public.room_calls;
begin
  select * into v_thread from public.workflow_threads t where t.id = p_thread_id for no key update;
  select * into v_call from public.room_calls r
  where r.workflow_thread_id = p_thread_id and r.attempt = p_attempt;
  if not found
    or v_thread.claimed_by is not null and v_thread.claimed_by <> p_claim
    or not (case
      when v_thread.status = 'created' then v_call.caller_until > now()
      else flow.may_be_rejoined(v_thread)
    end)
  then
    perform flow.refuse_taken_call(p_thread_id);
  end if;
  update public.workflow_threads t set
    status = case when t.status = 'created' then 'connecting' else t.status end,
    claimed_by = p_claim,
    heartbeat_at = now(),
    lease_until = greatest(t.lease_until, now() + flow.lease('connecting'))
  where t.id = p_thread_id
  returning * into v_thread;
  update public.room_calls r set taken_at = now(), heard_at = coalesce(r.heard_at, now())
  where r.workflow_thread_id = p_thread_id;
  return jsonb_build_object(
    'thread', flow.whole_thread_json(v_thread),
    'room', v_call.room,
    -- By the clock of the database: the host that had the call may have had another.
    'wait_secs', extract(epoch from case
      when v_thread.connected_at is null then v_call.caller_until
      else v_call.heard_at + make_interval(secs => v_call.rejoin_secs)
    end - now())::float8,
    'elapsed_secs', extract(epoch from now() - v_thread.connected_at)::float8
  );
end
$$;
comment on function public.take_room_call is
  'Makes a call in a room ours, with what is needed to go on with it; one of all who try gets it.';

-- A call that nobody has, waiting to be taken up: its reservation holds for as long as it may.
create function flow.free_room_call(p_thread_id uuid) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_call public.room_calls;
  v_key uuid;
begin
  update public.room_calls r set attempt = r.attempt + 1, taken_at = null
  where r.workflow_thread_id = p_thread_id
  returning * into v_call;
  update public.workflow_threads t set
    claimed_by = null,
    lease_until = greatest(
      t.lease_until, v_call.heard_at + make_interval(secs => v_call.rejoin_secs)
    )
  where t.id = p_thread_id
  returning t.api_key_id into v_key;
  return jsonb_build_object(
    'thread_id', p_thread_id, 'api_key_id', v_key, 'attempt', v_call.attempt
  );
end
$$;

create function public.give_up_room_call(p_thread_id uuid, p_claim text, p_alive boolean)
returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
begin
  perform from public.workflow_threads t
  where t.id = p_thread_id and t.claimed_by = p_claim and t.status in ('connecting', 'in_call')
  for no key update;
  if not found then
    perform flow.refuse_taken_call(p_thread_id);
  end if;
  if p_alive then
    update public.room_calls r set heard_at = now() where r.workflow_thread_id = p_thread_id;
  end if;
  return flow.free_room_call(p_thread_id);
end
$$;
comment on function public.give_up_room_call is
  'Leaves a call of ours to others. Without p_alive the time they have goes on running: its bot was '
  'not in the room.';

create function public.free_room_calls_of(p_executor text) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_id uuid;
  v_freed jsonb := '[]';
begin
  for v_id in
    select t.id from public.workflow_threads t join public.room_calls r on r.workflow_thread_id = t.id
    where starts_with(t.claimed_by, p_executor || '/') and flow.may_be_rejoined(t)
    order by t.id
    for no key update of t
  loop
    v_freed := v_freed || flow.free_room_call(v_id);
  end loop;
  return v_freed;
end
$$;
comment on function public.free_room_calls_of is
  'Has the calls of a process that is known to be gone taken up by others.';

create function public.free_silent_room_calls(p_silent_secs integer) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_id uuid;
begin
  for v_id in
    select t.id from public.workflow_threads t join public.room_calls r on r.workflow_thread_id = t.id
    where t.claimed_by is not null
      and greatest(r.heard_at, r.taken_at) < now() - make_interval(secs => p_silent_secs)
      and flow.may_be_rejoined(t)
    order by t.id
    -- Both, so that what was heard meanwhile counts.
    for no key update of t, r skip locked
  loop
    perform flow.free_room_call(v_id);
  end loop;
  -- Those that were freed before are given again: who freed them may be gone as well.
  return (
    select coalesce(
      jsonb_agg(
        jsonb_build_object('thread_id', t.id, 'api_key_id', t.api_key_id, 'attempt', r.attempt)
        order by t.id
      ),
      '[]'
    )
    from public.workflow_threads t join public.room_calls r on r.workflow_thread_id = t.id
    where t.claimed_by is null and flow.may_be_rejoined(t)
  );
end
$$;
comment on function public.free_silent_room_calls is
  'Frees the calls whose bots were not heard of for so long; gives all that wait to be taken up.';

-- Refuses a session that has lost its call to another; else the call is held fast, and was heard.
create function flow.hear_claimed_call(p_thread_id uuid, p_claim text) returns void
language plpgsql
set search_path = ''
as $$
begin
  perform from public.workflow_threads t
  where t.id = p_thread_id and t.claimed_by = p_claim for no key update;
  if not found then
    perform flow.refuse_taken_call(p_thread_id);
  end if;
  update public.room_calls r set heard_at = now() where r.workflow_thread_id = p_thread_id;
end
$$;

create function public.touch_claimed_thread(
  p_thread_id uuid, p_claim text, p_status text default null
) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
begin
  perform flow.hear_claimed_call(p_thread_id, p_claim);
  return public.touch_thread(p_thread_id, p_status);
end
$$;
comment on function public.touch_claimed_thread is
  'touch_thread for the session that has the call, refused once another has it.';

create function public.save_claimed_thread(
  p_thread_id uuid,
  p_claim text,
  p_status text default null,
  p_end_reason text default null,
  p_error jsonb default null
) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
begin
  perform flow.hear_claimed_call(p_thread_id, p_claim);
  return public.save_workflow_thread_data(
    p_thread_id, p_status => p_status, p_end_reason => p_end_reason, p_error => p_error
  );
end
$$;
comment on function public.save_claimed_thread is
  'save_workflow_thread_data for the session that has the call, refused once another has it.';

create function public.list_left_rooms(p_over_secs integer) returns jsonb
language sql stable
set search_path = ''
as $$
  select coalesce(jsonb_agg(l.room), '[]')
  from (
    select r.room || jsonb_build_object('thread_id', t.id) as room
    from public.workflow_threads t join public.room_calls r on r.workflow_thread_id = t.id
    where t.status not in ('created', 'connecting', 'in_call')
      and coalesce(t.ended_at, t.completed_at, t.heartbeat_at)
        < now() - make_interval(secs => p_over_secs)
    limit 100
  ) l
$$;
comment on function public.list_left_rooms is
  'The rooms of calls that have been over for so long and that nobody has closed.';

create function public.forget_room(p_thread_id uuid) returns jsonb
language sql
set search_path = ''
as $$
  with forgotten as (
    delete from public.room_calls r where r.workflow_thread_id = p_thread_id
    returning r.workflow_thread_id
  )
  select to_jsonb(exists (select from forgotten))
$$;

select flow.restrict_to_service_role(array['room_calls'], array[
  'queue_room_call', 'take_room_call', 'give_up_room_call', 'free_room_calls_of',
  'free_silent_room_calls', 'touch_claimed_thread', 'save_claimed_thread', 'list_left_rooms',
  'forget_room'
]);
