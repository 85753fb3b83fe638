-- The transcript by itself: what was said is stored whenever it comes, and says nothing of the call.
-- Signs of life by themselves: a call gives one every few seconds, and needs no transcript for it.

create function public.save_turns(p_turns jsonb) returns jsonb
language plpgsql
set search_path = ''
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
    workflow_thread_id, seq, role, content, started_at, interrupted
  )
  select n.workflow_thread_id, n.seq, n.role, n.content, n.started_at, n.interrupted
  from jsonb_to_recordset(p_turns) as n (
    workflow_thread_id uuid, seq integer, role text, content text, started_at timestamptz,
    interrupted boolean
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
  'Stores turns [{"workflow_thread_id", "seq", "role", "content", "started_at", "interrupted"}] of any '
  'threads in any state, each once; gives the threads that do not exist. Unlike '
  'save_workflow_thread_data it is no sign of life: a dead process''s turns may come late.';

create function public.touch_thread(p_thread_id uuid, p_status text default null) returns jsonb
language plpgsql
set search_path = ''
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

select flow.restrict_to_service_role(array[]::text[], array['save_turns', 'touch_thread']);
