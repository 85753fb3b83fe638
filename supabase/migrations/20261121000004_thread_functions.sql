-- Keys and threads as calls. A refusal carries an SQLSTATE that PostgREST turns into the HTTP status
-- in its name: PT404 not found, PT409 conflict (its code in DETAIL), PT422 invalid input.

create function public.flow_ping() returns jsonb
language sql stable
set search_path = ''
return jsonb_build_object('ok', true);

create function public.resolve_api_key(p_unkey_key_id text, p_team_id text, p_name text default null)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_key public.api_keys;
begin
  select * into v_key from public.api_keys k where k.unkey_key_id = p_unkey_key_id;
  if not found or v_key.team_id <> p_team_id or v_key.name is distinct from p_name then
    insert into public.api_keys (unkey_key_id, team_id, name)
    values (p_unkey_key_id, p_team_id, p_name)
    on conflict (unkey_key_id) do update
      set team_id = excluded.team_id, name = excluded.name, updated_at = now()
    returning * into v_key;
  end if;
  return jsonb_build_object(
    'id', v_key.id, 'unkey_key_id', v_key.unkey_key_id,
    'team_id', v_key.team_id, 'name', v_key.name
  );
end
$$;

create function flow.zero_usage_stats(p_thread_id uuid) returns jsonb
language sql immutable
set search_path = ''
return jsonb_build_object(
  'total_tokens', 0, 'total_cost_usd', 0, 'llm_calls', 0, 'models_used', '{}'::jsonb,
  'tts', '{"characters": 0, "audio_seconds": 0, "cost_usd": 0}'::jsonb,
  'stt', '{"audio_seconds": 0, "cost_usd": 0}'::jsonb,
  'call_seconds', 0,
  'cost_breakdown_usd', '{
    "llm_input": 0, "llm_cache_read": 0, "llm_cache_write": 0, "llm_output": 0, "llm_audio": 0,
    "tts": 0, "stt": 0, "call": 0
  }'::jsonb,
  'estimated_events', 0, 'unpriced_events', 0,
  'interrupted_generations', 0, 'failed_generations', 0,
  'billable_cost_usd', 0, 'posthog_trace_id', p_thread_id
);

create function flow.transcript(p_thread_id uuid) returns jsonb
language sql stable
set search_path = ''
as $$
  select coalesce(
    jsonb_agg(
      jsonb_build_object(
        'seq', u.seq, 'role', u.role, 'content', u.content,
        'started_at', u.started_at, 'interrupted', u.interrupted
      ) order by u.seq
    ),
    '[]'
  )
  from public.workflow_thread_turns u where u.workflow_thread_id = p_thread_id
$$;

create function flow.thread_json(p_thread public.workflow_threads, p_transcript jsonb default '[]')
returns jsonb
language sql stable
set search_path = ''
return jsonb_build_object(
  'id', (p_thread).id,
  'api_key_id', (p_thread).api_key_id,
  'team_id', (p_thread).team_id,
  'product', (p_thread).product,
  'billable', (p_thread).billable,
  'status', (p_thread).status,
  'join', (p_thread)."join",
  'transcript', p_transcript,
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

create function flow.refuse_missing_thread(p_thread_id uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception 'There is no thread % for this key.', p_thread_id using errcode = 'PT404';
end
$$;

create function public.join_thread(
  p_api_key_id uuid,
  p_thread_id uuid,
  p_join jsonb,
  p_billable boolean,
  p_idempotency_key text,
  p_fingerprint text
) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_thread public.workflow_threads;
begin
  insert into public.workflow_threads (
    id, api_key_id, team_id, product, billable, "join", metadata, usage_stats,
    idempotency_key, fingerprint
  )
  select
    p_thread_id, k.id, k.team_id, p_join ->> 'product', p_billable, p_join,
    coalesce(p_join -> 'metadata', '{}'), flow.zero_usage_stats(p_thread_id),
    p_idempotency_key, p_fingerprint
  from public.api_keys k where k.id = p_api_key_id
  on conflict do nothing
  returning * into v_thread;
  if found then
    return jsonb_build_object('thread', flow.thread_json(v_thread), 'replayed', false);
  end if;

  -- A join made before: under the same idempotency key, or the same call sent again.
  select * into v_thread from public.workflow_threads t
  where t.api_key_id = p_api_key_id
    and (t.idempotency_key = p_idempotency_key or t.id = p_thread_id)
  order by t.idempotency_key = p_idempotency_key desc nulls last
  limit 1;
  if not found then
    if exists (select from public.api_keys k where k.id = p_api_key_id) then
      raise exception 'The thread id % is taken.', p_thread_id using errcode = 'PT409';
    end if;
    raise exception 'There is no API key %.', p_api_key_id using errcode = 'PT404';
  end if;
  if v_thread.fingerprint <> p_fingerprint then
    raise exception 'This idempotency key was used for a different request.'
      using errcode = 'PT409', detail = 'idempotency_conflict';
  end if;
  return jsonb_build_object(
    'thread', flow.thread_json(v_thread, flow.transcript(v_thread.id)), 'replayed', true
  );
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
    heartbeat_at = now()
  where t.id = p_thread_id
  returning * into v_thread;
  if not found then
    perform flow.refuse_missing_thread(p_thread_id);
  end if;

  insert into public.workflow_thread_turns (
    workflow_thread_id, seq, role, content, started_at, interrupted
  )
  select p_thread_id, n.seq, n.role, n.content, n.started_at, n.interrupted
  from jsonb_to_recordset(p_turns) as n (
    seq integer, role text, content text, started_at timestamptz, interrupted boolean
  )
  order by n.seq
  on conflict (workflow_thread_id, seq) do update set
    role = excluded.role, content = excluded.content,
    started_at = excluded.started_at, interrupted = excluded.interrupted;
  return flow.thread_json(v_thread, flow.transcript(p_thread_id));
end
$$;

create function public.get_workflow_thread_data(p_thread_id uuid, p_api_key_id uuid default null)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_thread public.workflow_threads;
begin
  select * into v_thread from public.workflow_threads t
  where t.id = p_thread_id and (p_api_key_id is null or t.api_key_id = p_api_key_id);
  if not found then
    perform flow.refuse_missing_thread(p_thread_id);
  end if;
  return flow.thread_json(v_thread, flow.transcript(p_thread_id));
end
$$;

create function public.list_workflow_threads(
  p_api_key_id uuid,
  p_limit integer,
  p_before_created_at timestamptz default null,
  p_before_id uuid default null,
  p_status text default null,
  p_product text default null
) returns jsonb
language sql stable
set search_path = ''
as $$
  with page as (
    select t as thread, t.created_at, t.id
    from public.workflow_threads t
    where t.api_key_id = p_api_key_id
      and (t.created_at, t.id) < (
        coalesce(p_before_created_at, 'infinity'),
        coalesce(p_before_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
      )
      and (p_status is null or t.status = p_status)
      and (p_product is null or t.product = p_product)
    order by t.created_at desc, t.id desc
    limit p_limit
  )
  select coalesce(
    jsonb_agg(flow.thread_json(p.thread) order by p.created_at desc, p.id desc), '[]'
  )
  from page p
$$;

create function public.expire_threads(p_created_before timestamptz) returns jsonb
language sql
set search_path = ''
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

select flow.restrict_to_service_role(array[]::text[], array[
  'flow_ping', 'resolve_api_key', 'join_thread', 'save_workflow_thread_data',
  'get_workflow_thread_data', 'list_workflow_threads', 'expire_threads'
]);
