-- Who runs a call. Several processes may be offered the same connection token: one gets the call.

alter table public.workflow_threads add column claimed_by text;
comment on column public.workflow_threads.claimed_by is
  'The session that runs the call. Set once; the same session may claim again.';

create function public.claim_thread(p_thread_id uuid, p_claim text) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_thread public.workflow_threads;
begin
  update public.workflow_threads t set
    status = 'connecting',
    claimed_by = p_claim,
    heartbeat_at = now()
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

select flow.restrict_to_service_role(array[]::text[], array['claim_thread']);
