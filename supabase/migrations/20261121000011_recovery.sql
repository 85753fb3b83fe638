-- What follows a call, whatever became of the process that ran it.

create table public.workflow_executors (
  id text collate "C" primary key check (octet_length(id) between 1 and 255),
  heartbeat_at timestamptz not null
);
comment on table public.workflow_executors is
  'The processes that run workflows, each with its last sign of life.';

create function public.beat_executor(p_id text, p_dead_secs integer) returns jsonb
language plpgsql
set search_path = ''
as $$
begin
  insert into public.workflow_executors (id, heartbeat_at) values (p_id, now())
  on conflict (id) do update set heartbeat_at = excluded.heartbeat_at;
  return (
    select coalesce(jsonb_agg(e.id order by e.id), '[]') from public.workflow_executors e
    where e.heartbeat_at < now() - make_interval(secs => p_dead_secs)
  );
end
$$;
comment on function public.beat_executor is
  'A sign of life of an executor; gives those that have shown none for so long.';

create function public.forget_executor(p_id text, p_dead_secs integer) returns jsonb
language sql
set search_path = ''
as $$
  with forgotten as (
    delete from public.workflow_executors e
    where e.id = p_id and e.heartbeat_at < now() - make_interval(secs => p_dead_secs)
    returning e.id
  )
  select to_jsonb(exists (select from forgotten))
$$;

-- A call whose process is gone ended when it was last heard of; one that had ended is left as it is.
-- Whoever finishes it now has the time that a step after a call may take.
create function flow.take_over_thread(p_thread_id uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
  update public.workflow_threads t set
    status = 'ended',
    end_reason = coalesce(t.end_reason, 'process_lost'),
    error = coalesce(t.error, jsonb_build_object(
      'code', 'process_lost', 'message', 'the process that ran the call is gone'
    ))
  where t.id = p_thread_id and t.status in ('connecting', 'in_call');
  if found then
    update public.workflow_threads t
    set ended_at = case when t.connected_at is not null then least(t.ended_at, t.heartbeat_at) end
    where t.id = p_thread_id;
  end if;
  update public.workflow_threads t
  set lease_until = greatest(t.lease_until, now() + flow.lease('ended'))
  where t.id = p_thread_id;
end
$$;

-- A call in a room is lost only when it can no longer be rejoined, and then at once.
create function public.take_over_lost_threads(p_lost_secs integer, p_missing_secs integer)
returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_id uuid;
  v_taken jsonb := '[]';
begin
  for v_id in
    select t.id from public.workflow_threads t
    where t.status in ('connecting', 'in_call', 'ended', 'extracting')
      and (
        t.lease_until < now() - make_interval(secs => p_lost_secs)
        or t.lease_until < now() and t.claimed_by is null
      )
      and not flow.may_be_rejoined(t)
      and (
        t.connected_at is null
        or t.lease_until < now() - make_interval(secs => p_missing_secs)
        or exists (
          select from public.usage_events e where e.workflow_thread_id = t.id and e.kind = 'call'
        )
      )
    order by t.lease_until
    limit 100
    for no key update skip locked
  loop
    perform flow.take_over_thread(v_id);
    v_taken := v_taken || to_jsonb(v_id);
  end loop;
  return v_taken;
end
$$;
comment on function public.take_over_lost_threads is
  'Ends the threads whose lease lapsed so long ago, and gives those that are to be finished: one whose '
  'own seconds are not in the ledger yet is waited for, as its process may come back with its usage.';

create function public.take_over_threads_of(p_executor text) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_id uuid;
  v_taken jsonb := '[]';
begin
  for v_id in
    select t.id from public.workflow_threads t
    where t.status in ('connecting', 'in_call', 'ended', 'extracting')
      and starts_with(t.claimed_by, p_executor || '/')
      and not flow.may_be_rejoined(t)
    order by t.lease_until
    for no key update
  loop
    perform flow.take_over_thread(v_id);
    v_taken := v_taken || to_jsonb(v_id);
  end loop;
  return v_taken;
end
$$;
comment on function public.take_over_threads_of is
  'The same for the threads of a process that is known to be gone, whatever their leases say.';

select flow.restrict_to_service_role(array['workflow_executors'], array[
  'beat_executor', 'forget_executor', 'take_over_lost_threads', 'take_over_threads_of'
]);
