-- Whether a call may start. What is used, what running calls hold and what the limits are is read in
-- one statement, so in one snapshot, after a lock that makes racing joins see each other.

create type flow.limit_state as (
  resource text,
  scope text,
  product text,
  used numeric,
  reserved numeric,
  quota numeric,
  resets_at timestamptz
);

create function flow.budget_tier(p_spent numeric, p_cap numeric, p_overridden boolean) returns text
language sql immutable
set search_path = ''
return case
  when p_cap is null or p_cap <= 0 then null
  when p_overridden then 'override'
  when p_spent >= p_cap then 'exceeded'
  when p_spent >= p_cap * 0.95 then 'engage'
  when p_spent >= p_cap * 0.85 then 'warn'
  else 'ok'
end;

-- p_terms is what the operator's products say: {"buckets": {"ai_credits": ["voice_bot"]},
-- "concurrency": {"voice_bot": 10}}. The functions are in plpgsql, which keeps plans: planning them
-- takes longer than running them. A plan made while tables were small must do when they are large.
create function flow.key_limits(p_key public.api_keys, p_terms jsonb, p_now timestamptz)
returns setof flow.limit_state
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
begin
  return query
  select
    'budget_usd', 'key', null,
    coalesce((
      select sum(m.total_cost_usd) from public.usage_monthly m
      where m.api_key_id = p_key.id and m.month = flow.month_of(p_now)
    ), 0),
    coalesce((
      select sum(greatest(t.reserved_usd - t.recorded_usd, 0)) from public.workflow_threads t
      where t.api_key_id = p_key.id and t.lease_until > p_now
        and t.status in ('created', 'connecting', 'in_call', 'ended', 'extracting')
    ), 0),
    case when p_key.budget_usd > 0 then p_key.budget_usd end,
    flow.month_end(p_now)
  union all
  select
    'concurrent_calls', 'key', c.product,
    (
      select count(*) from public.workflow_threads t
      where t.api_key_id = p_key.id and t.lease_until > p_now
        and t.status in ('created', 'connecting', 'in_call') and t.product = c.product
    ),
    0,
    c.most::numeric,
    null
  from jsonb_each_text(coalesce(p_terms -> 'concurrency', '{}')) as c (product, most);
end
$$;

create function flow.team_limits(p_team_id text, p_terms jsonb, p_now timestamptz)
returns setof flow.limit_state
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
begin
  return query
  with quotas as materialized (
    select q.resource, q.quota from public.team_quotas q where q.team_id = p_team_id
  ), spent as materialized (
    select m.product, m.billable_cost_usd, m.call_seconds from public.usage_monthly m
    where m.team_id = p_team_id and m.month = flow.month_of(p_now)
  ), live as materialized (
    select
      t.product,
      t.billable,
      t.status in ('created', 'connecting', 'in_call') as is_running,
      greatest(t.reserved_usd - t.recorded_usd, 0) as held_usd,
      t.reserved_secs,
      -- The seconds of a call are recorded at its end; until then they are told from the clock.
      case
        when t.connected_at is null or t.recorded_call_secs > 0 then 0
        else greatest(extract(epoch from coalesce(t.ended_at, p_now) - t.connected_at), 0)
      end as elapsed
    from public.workflow_threads t
    where t.team_id = p_team_id and t.lease_until > p_now
      and t.status in ('created', 'connecting', 'in_call', 'ended', 'extracting')
  )
  select
    b.name, 'team', null,
    coalesce((
      select sum(s.billable_cost_usd) * 100 from spent s where b.products ? s.product
    ), 0),
    coalesce((
      select sum(l.held_usd) * 100 from live l where l.billable and b.products ? l.product
    ), 0),
    (select q.quota from quotas q where q.resource = b.name),
    flow.month_end(p_now)
  from jsonb_each(coalesce(p_terms -> 'buckets', '{}')) as b (name, products)
  union all
  select
    'call_seconds', 'team', null,
    coalesce((select sum(s.call_seconds) from spent s), 0)
    + coalesce((select sum(l.elapsed) from live l), 0),
    coalesce((
      select sum(greatest(l.reserved_secs - l.elapsed, 0)) from live l where l.is_running
    ), 0),
    (select q.quota from quotas q where q.resource = 'call_seconds'),
    flow.month_end(p_now)
  union all
  select
    'concurrent_calls', 'team', null,
    (select count(*) from live l where l.is_running),
    0,
    (select q.quota from quotas q where q.resource = 'concurrent_calls'),
    null;
end
$$;

create function flow.limit_states(
  p_key public.api_keys, p_terms jsonb, p_with_team boolean, p_now timestamptz
)
returns setof flow.limit_state
language plpgsql stable
set search_path = ''
as $$
begin
  return query select * from flow.key_limits(p_key, p_terms, p_now);
  if p_with_team then
    return query select * from flow.team_limits(p_key.team_id, p_terms, p_now);
  end if;
end
$$;
comment on function flow.limit_states is
  'Every limit of a key and its team: what is used, what running calls hold besides, how much there is '
  '(null: no limit) and when it starts anew (null: when a call ends). The budget is the first row.';

create function flow.limit_json(p_state flow.limit_state) returns jsonb
language sql immutable
set search_path = ''
return jsonb_build_object(
  'resource', (p_state).resource,
  'scope', (p_state).scope,
  'product', (p_state).product,
  'used', trim_scale((p_state).used)::text,
  'reserved', trim_scale((p_state).reserved)::text,
  'limit', trim_scale((p_state).quota)::text,
  'resets_at', (p_state).resets_at
);

create function flow.budget_json(p_state flow.limit_state, p_overridden boolean) returns jsonb
language sql immutable
set search_path = ''
return jsonb_build_object(
  'tier', flow.budget_tier((p_state).used, (p_state).quota, p_overridden),
  'cap_usd', trim_scale((p_state).quota)::text,
  'spent_usd', trim_scale((p_state).used)::text,
  'reserved_usd', trim_scale((p_state).reserved)::text,
  'remaining_usd', trim_scale(greatest((p_state).quota - (p_state).used, 0))::text,
  'resets_at', (p_state).resets_at
);

-- Whether so much more fits. Where nothing is held, whatever is left may be used: a reservation larger
-- than the limit must not keep a key with room from calling. A call itself is never a part of one.
create function flow.fits(p_state flow.limit_state, p_need numeric) returns boolean
language sql immutable
set search_path = ''
return (p_state).quota is null or (
  (p_state).used + (p_state).reserved < (p_state).quota
  and (
    ((p_state).reserved = 0 and (p_state).resource <> 'concurrent_calls')
    or (p_state).used + (p_state).reserved + p_need <= (p_state).quota
  )
);

create function flow.room(p_state flow.limit_state) returns numeric
language sql immutable
set search_path = ''
return greatest((p_state).quota - (p_state).used - (p_state).reserved, 0);

-- What a join of a product needs of a limit: null if the limit is not about it.
create function flow.need(
  p_state flow.limit_state, p_terms jsonb, p_product text, p_billable boolean,
  p_reserve_usd numeric, p_reserve_secs numeric
) returns numeric
language sql immutable
set search_path = ''
return case
  when (p_state).quota is null then null
  when (p_state).resource = 'budget_usd' then p_reserve_usd
  when (p_state).resource = 'call_seconds' then p_reserve_secs
  when (p_state).resource = 'concurrent_calls' then
    case when coalesce((p_state).product, p_product) = p_product then 1 end
  when p_billable and p_terms -> 'buckets' -> (p_state).resource ? p_product then p_reserve_usd * 100
end;

create function flow.refusal_json(p_state flow.limit_state, p_now timestamptz) returns jsonb
language sql immutable
set search_path = ''
return flow.limit_json(p_state) || jsonb_build_object(
  'code', case (p_state).resource
    when 'budget_usd' then 'budget_exceeded'
    when 'concurrent_calls' then 'concurrency_exceeded'
    else 'quota_exceeded'
  end,
  'retry_after_secs', case
    when (p_state).used >= (p_state).quota and (p_state).resets_at is not null
      then ceil(extract(epoch from (p_state).resets_at - p_now))::bigint
    else 5
  end
);

-- Takes the locks of a join, teams before keys, and only where there is something to decide.
create function flow.lock_limits(
  p_api_key_id uuid, p_terms jsonb, out v_key public.api_keys, out v_with_team boolean
)
language plpgsql
set search_path = ''
as $$
begin
  select * into v_key from public.api_keys k where k.id = p_api_key_id;
  if not found then
    raise exception 'There is no API key %.', p_api_key_id using errcode = 'PT404';
  end if;
  -- The key source may be away, or slow to forget it.
  if v_key.revoked_at is not null then
    raise exception 'This API key was revoked.' using errcode = 'PT403', detail = 'disabled_api_key';
  end if;
  perform from public.team_quotas q where q.team_id = v_key.team_id
  order by q.resource for no key update;
  v_with_team := found;
  if v_key.budget_usd > 0 or coalesce(p_terms -> 'concurrency', '{}') <> '{}' then
    select * into v_key from public.api_keys k where k.id = p_api_key_id for no key update;
  end if;
end
$$;

drop function public.join_thread(uuid, uuid, jsonb, boolean, text, text);

-- A join made before: under the same idempotency key, or the same call sent again.
create function flow.joined_before(p_api_key_id uuid, p_thread_id uuid, p_idempotency_key text)
returns public.workflow_threads
language plpgsql stable
set search_path = ''
as $$
declare
  v_thread public.workflow_threads;
begin
  if p_idempotency_key is not null then
    select * into v_thread from public.workflow_threads t
    where t.api_key_id = p_api_key_id and t.idempotency_key = p_idempotency_key;
  end if;
  if v_thread.id is null then
    select * into v_thread from public.workflow_threads t where t.id = p_thread_id;
  end if;
  return v_thread;
end
$$;

create function flow.replay(p_thread public.workflow_threads, p_api_key_id uuid, p_fingerprint text)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
  if (p_thread).api_key_id <> p_api_key_id then
    raise exception 'The thread id % is taken.', (p_thread).id using errcode = 'PT409';
  end if;
  if (p_thread).fingerprint <> p_fingerprint then
    raise exception 'This idempotency key was used for a different request.'
      using errcode = 'PT409', detail = 'idempotency_conflict';
  end if;
  return jsonb_build_object(
    'thread', flow.thread_json(p_thread, flow.transcript((p_thread).id)), 'replayed', true
  );
end
$$;

-- What a key's budget is and how far it has got; null without a budget.
create function flow.budget_of(p_key public.api_keys, p_override boolean, p_now timestamptz)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
  if coalesce(p_key.budget_usd, 0) <= 0 then
    return null;
  end if;
  return (
    select flow.budget_json(s, p_override or coalesce(p_key.budget_override_until > p_now, false))
    from flow.key_limits(p_key, '{}', p_now) s
  );
end
$$;

create function public.join_thread(
  p_api_key_id uuid,
  p_thread_id uuid,
  p_join jsonb,
  p_billable boolean,
  p_idempotency_key text,
  p_fingerprint text,
  p_reserve_usd numeric default 0,
  p_reserve_secs integer default 0,
  p_waiting_secs integer default 360,
  p_terms jsonb default '{}',
  p_override boolean default false,
  p_now timestamptz default null
) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_locked record;
  v_key public.api_keys;
  v_thread public.workflow_threads;
  v_now timestamptz;
  v_overridden boolean;
  v_state flow.limit_state;
  v_need numeric;
  v_usd numeric := p_reserve_usd;
  v_secs numeric := p_reserve_secs;
  v_budget flow.limit_state;
begin
  select * into v_locked from flow.lock_limits(p_api_key_id, p_terms);
  v_key := v_locked.v_key;
  v_now := coalesce(p_now, clock_timestamp());
  v_overridden := p_override or coalesce(v_key.budget_override_until > v_now, false);

  v_thread := flow.joined_before(p_api_key_id, p_thread_id, p_idempotency_key);
  if v_thread.id is not null then
    return flow.replay(v_thread, p_api_key_id, p_fingerprint)
      || jsonb_build_object('budget', flow.budget_of(v_key, p_override, v_now));
  end if;

  if v_locked.v_with_team or v_key.budget_usd > 0 or coalesce(p_terms -> 'concurrency', '{}') <> '{}' then
    for v_state in select * from flow.limit_states(v_key, p_terms, v_locked.v_with_team, v_now) loop
      if v_state.resource = 'budget_usd' then
        v_budget := v_state;
      end if;
      v_need := flow.need(
        v_state, p_terms, p_join ->> 'product', p_billable, p_reserve_usd, p_reserve_secs
      );
      continue when v_need is null or (v_state.resource = 'budget_usd' and v_overridden);
      if not flow.fits(v_state, v_need) then
        return jsonb_build_object('refused', flow.refusal_json(v_state, v_now));
      end if;
      case v_state.resource
        when 'concurrent_calls' then null;
        when 'call_seconds' then v_secs := least(v_secs, flow.room(v_state));
        when 'budget_usd' then v_usd := least(v_usd, flow.room(v_state));
        else v_usd := least(v_usd, flow.room(v_state) * 0.01);
      end case;
    end loop;
  end if;

  insert into public.workflow_threads (
    id, api_key_id, team_id, product, billable, "join", metadata, usage_stats,
    idempotency_key, fingerprint, reserved_usd, reserved_secs, budget_override, lease_until
  )
  values (
    p_thread_id, v_key.id, v_key.team_id, p_join ->> 'product', p_billable, p_join,
    coalesce(p_join -> 'metadata', '{}'), flow.zero_usage_stats(p_thread_id),
    p_idempotency_key, p_fingerprint, v_usd, v_secs, p_override,
    v_now + make_interval(secs => p_waiting_secs)
  )
  on conflict do nothing
  returning * into v_thread;
  if not found then
    -- Nothing limits this key, so nothing made two equal joins wait for each other before.
    v_thread := flow.joined_before(p_api_key_id, p_thread_id, p_idempotency_key);
    return flow.replay(v_thread, p_api_key_id, p_fingerprint)
      || jsonb_build_object('budget', flow.budget_of(v_key, p_override, v_now));
  end if;
  v_budget.reserved := v_budget.reserved + v_usd;
  return jsonb_build_object(
    'thread', flow.thread_json(v_thread),
    'replayed', false,
    'budget', case when v_budget.quota is not null then flow.budget_json(v_budget, v_overridden) end
  );
end
$$;

create function public.find_join(p_api_key_id uuid, p_idempotency_key text, p_fingerprint text)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_key public.api_keys;
  v_thread public.workflow_threads := flow.joined_before(p_api_key_id, null, p_idempotency_key);
begin
  if v_thread.id is null then
    return null;
  end if;
  select * into v_key from public.api_keys k where k.id = p_api_key_id;
  return flow.replay(v_thread, p_api_key_id, p_fingerprint)
    || jsonb_build_object('budget', flow.budget_of(v_key, v_thread.budget_override, now()));
end
$$;

create function public.get_budget(p_api_key_id uuid, p_now timestamptz default null) returns jsonb
language sql stable
set search_path = ''
as $$
  select flow.budget_of(k, false, coalesce(p_now, now())) from public.api_keys k
  where k.id = p_api_key_id
$$;

create function public.get_limits(
  p_api_key_id uuid, p_terms jsonb default '{}', p_now timestamptz default null
) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_key public.api_keys;
  v_now timestamptz := coalesce(p_now, now());
  v_states flow.limit_state[];
begin
  select * into v_key from public.api_keys k where k.id = p_api_key_id;
  if not found then
    raise exception 'There is no API key %.', p_api_key_id using errcode = 'PT404';
  end if;
  v_states := array(select s from flow.limit_states(v_key, p_terms, true, v_now) s);
  return jsonb_build_object(
    'limits', (select jsonb_agg(flow.limit_json(s)) from unnest(v_states) s),
    'budget', case when v_key.budget_usd > 0 then flow.budget_json(
      v_states[1], coalesce(v_key.budget_override_until > v_now, false)
    ) end
  );
end
$$;

-- Signs of life renew the lease.
create or replace function public.claim_thread(p_thread_id uuid, p_claim text) returns jsonb
language plpgsql
set search_path = ''
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

create or replace function public.save_workflow_thread_data(
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
    heartbeat_at = now(),
    lease_until = coalesce(now() + flow.lease(coalesce(p_status, t.status)), t.lease_until)
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

-- Ends the threads that nothing has been heard of since p_lost_before: whoever ran them is gone.
create function public.fail_lost_threads(p_lost_before timestamptz) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_id uuid;
  v_failed jsonb := '[]';
begin
  for v_id in
    select t.id from public.workflow_threads t
    where t.status in ('connecting', 'in_call', 'ended', 'extracting')
      and t.lease_until < p_lost_before
    order by t.id
    for no key update skip locked
  loop
    perform public.finish_thread(
      v_id, 'failed',
      jsonb_build_object('code', 'process_lost', 'message', 'nothing was heard of the call any more')
    );
    update public.workflow_threads t
    set end_reason = coalesce(t.end_reason, 'process_lost'),
      ended_at = case when t.connected_at is not null then least(t.ended_at, t.heartbeat_at) end
    where t.id = v_id;
    v_failed := v_failed || to_jsonb(v_id);
  end loop;
  return v_failed;
end
$$;

select flow.restrict_to_service_role(array[]::text[], array[
  'join_thread', 'find_join', 'get_budget', 'get_limits', 'claim_thread', 'save_workflow_thread_data',
  'fail_lost_threads'
]);
