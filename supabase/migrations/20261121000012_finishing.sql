-- What follows a call, whatever became of the process that ran it.

create table public.workflow_executors (
  id text collate "C" primary key check (octet_length(id) between 1 and 255),
  heartbeat_at timestamptz not null
);
comment on table public.workflow_executors is
  'The processes that run workflows, each with its last sign of life.';

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

-- Lost threads are taken over and finished, no longer failed on the spot.
drop function public.fail_lost_threads(timestamptz);

-- What was extracted first stays.
create function public.save_insights(p_thread_id uuid, p_insights jsonb) returns jsonb
language plpgsql
set search_path = ''
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
  return flow.thread_json(v_thread, flow.transcript(p_thread_id));
end
$$;

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

select flow.restrict_to_service_role(array['workflow_executors'], array[
  'save_insights', 'beat_executor', 'forget_executor'
]);
