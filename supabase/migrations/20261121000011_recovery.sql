-- What follows a call, whatever became of the process that ran it.

create table public.workflow_executors (
  id text collate "C" primary key check (octet_length(id) between 1 and 255),
  home text not null check (octet_length(home) between 1 and 255),
  instance uuid,
  started_at timestamptz not null default now(),
  heartbeat_at timestamptz not null,
  report jsonb not null default '{}'
);
comment on table public.workflow_executors is
  'The processes that have calls or run workflows, by their names, each with its last sign of life.';
comment on column public.workflow_executors.home is
  'The id of the data folder whose lock the process holds.';
comment on column public.workflow_executors.instance is
  'The run of the process that has the name; null once it has stopped by itself.';

comment on column public.workflow_executors.report is
  'What the process last said of itself: its calls and how many it may run, its spool, its version.';

-- A process holds the lock of its data folder, so whoever had the name there is gone. One of another
-- folder may be alive as long as it was heard of lately.
create function public.claim_executor(
  p_id text, p_home text, p_instance uuid, p_dead_secs integer
) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_heard_at timestamptz;
begin
  insert into public.workflow_executors as e (id, home, instance, heartbeat_at)
  values (p_id, p_home, p_instance, now())
  on conflict (id) do update
  set home = excluded.home, instance = excluded.instance, heartbeat_at = excluded.heartbeat_at,
    started_at = excluded.heartbeat_at, report = '{}'
  where e.home = excluded.home or e.instance is null
    or e.heartbeat_at < now() - make_interval(secs => p_dead_secs);
  if found then
    return jsonb_build_object('claimed', true);
  end if;
  select e.heartbeat_at into v_heard_at from public.workflow_executors e where e.id = p_id;
  return jsonb_build_object('claimed', false, 'heard_at', v_heard_at);
end
$$;
comment on function public.claim_executor is
  'Takes a name for a process, unless one of another data folder has it that was heard of within so '
  'many seconds: then it says when that was.';

create function public.release_executor(p_id text, p_instance uuid) returns jsonb
language sql
set search_path = ''
as $$
  with released as (
    update public.workflow_executors e set instance = null
    where e.id = p_id and e.instance = p_instance
    returning e.id
  )
  select to_jsonb(exists (select from released))
$$;
comment on function public.release_executor is
  'A process has stopped: its name is free. What it left is taken up when it would count as dead.';

create function public.beat_executor(
  p_id text, p_home text, p_instance uuid, p_dead_secs integer, p_report jsonb default '{}'
) returns jsonb
language plpgsql
set search_path = ''
as $$
begin
  insert into public.workflow_executors as e (id, home, instance, heartbeat_at, report)
  values (p_id, p_home, p_instance, now(), p_report)
  on conflict (id) do update set heartbeat_at = excluded.heartbeat_at, report = excluded.report
  where e.instance = excluded.instance;
  if not found then
    return null;
  end if;
  return (
    select coalesce(jsonb_agg(e.id order by e.id), '[]') from public.workflow_executors e
    where e.heartbeat_at < now() - make_interval(secs => p_dead_secs)
  );
end
$$;
comment on function public.beat_executor is
  'A sign of life of an executor; gives those that have shown none for so long. Null: another '
  'process has the name by now.';

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
  'claim_executor', 'release_executor', 'beat_executor', 'forget_executor', 'take_over_lost_threads',
  'take_over_threads_of'
]);
