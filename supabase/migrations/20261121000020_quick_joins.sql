-- Joins in fewer steps, and plans that stay right as tables grow.

-- These bodies were bound when they were made, so they need no search path; without a setting of
-- their own the planner writes them into whoever calls them, which saves running each by itself.
do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid from pg_catalog.pg_proc p
    where p.pronamespace = 'flow'::pg_catalog.regnamespace
      and p.prosqlbody is not null and p.proconfig is not null
  loop
    execute format('alter function %s reset search_path', v_function);
  end loop;
end
$$;

-- Making JSON is stable only, and who says otherwise is not written in.
alter function flow.zero_usage_stats(uuid) stable;
alter function flow.limit_json(flow.limit_state) stable;
alter function flow.budget_json(flow.limit_state, boolean) stable;
alter function flow.refusal_json(flow.limit_state, timestamptz) stable;

-- A plan is kept for as long as its connection is. One that was made while the tables were empty
-- would read them from end to end until something makes Postgres think again. Everything that looks
-- up what a key, a thread or an event is has an index to do it by.
do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid from pg_catalog.pg_proc p
    where p.pronamespace = 'public'::pg_catalog.regnamespace and p.proname in (
      'resolve_api_key', 'find_join', 'get_budget', 'get_limits', 'get_thread_standing',
      'get_workflow_thread_data', 'claim_thread', 'save_workflow_thread_data', 'save_turns',
      'touch_thread', 'touch_claimed_thread', 'save_claimed_thread', 'save_insights', 'finish_thread',
      'record_usage', 'set_budget', 'set_budget_override', 'set_save_mode', 'revoke_api_key',
      'expire_threads', 'take_over_lost_threads', 'take_over_threads_of',
      'queue_room_call', 'take_room_call', 'give_up_room_call', 'get_webhook_url',
      'get_webhook_secrets', 'get_webhook_delivery', 'note_webhook_delivered',
      'note_webhook_failed'
    )
  loop
    execute format('alter function %s set enable_seqscan = off', v_function);
  end loop;
end
$$;

-- While no calls are running every index of theirs seems to cost the same, even one that knows nothing
-- of the key that is asked about. That a team is not null follows from comparing it, and only then.
drop index public.workflow_threads_team_live;
create index workflow_threads_team_live on public.workflow_threads (team_id)
  where status in ('created', 'connecting', 'in_call', 'ended', 'extracting')
    and team_id is not null;

drop function flow.lock_limits(uuid, jsonb);
drop function public.join_thread(
  uuid, uuid, jsonb, boolean, text, text, numeric, integer, integer, jsonb, boolean, timestamptz
);

-- Whether a call may start. A key without limits takes no lock and makes nobody wait. Where there is
-- something to decide, teams are locked before keys, and what is used and held is read after that.
-- A new thread is what was asked for: p_whole = false says of it only what was not asked for.
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
  p_now timestamptz default null,
  p_whole boolean default true
) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_product constant text := p_join ->> 'product';
  v_team_id text;
  v_revoked_at timestamptz;
  v_override_until timestamptz;
  v_with_key boolean;
  v_with_team boolean;
  v_key public.api_keys;
  v_now timestamptz;
  v_overridden boolean;
  v_states flow.limit_state[];
  v_state flow.limit_state;
  v_need numeric;
  v_usd numeric := p_reserve_usd;
  v_secs numeric := p_reserve_secs;
  v_budget flow.limit_state;
  v_refusal jsonb;
  v_created_at timestamptz;
  v_usage_stats jsonb;
  v_thread public.workflow_threads;
begin
  select
    k.team_id, k.revoked_at, k.budget_override_until, coalesce(k.budget_usd > 0, false),
    exists (select from public.team_quotas q where q.team_id = k.team_id)
  into v_team_id, v_revoked_at, v_override_until, v_with_key, v_with_team
  from public.api_keys k where k.id = p_api_key_id;
  if not found then
    raise exception 'There is no API key %.', p_api_key_id using errcode = 'PT404';
  end if;
  -- The key source may be away, or slow to forget it.
  if v_revoked_at is not null then
    raise exception 'This API key was revoked.' using errcode = 'PT403', detail = 'disabled_api_key';
  end if;
  v_with_key := v_with_key or coalesce(p_terms -> 'concurrency', '{}') <> '{}';

  if v_with_key or v_with_team then
    if v_with_team then
      perform from public.team_quotas q where q.team_id = v_team_id
      order by q.resource for no key update;
    end if;
    if v_with_key then
      perform from public.api_keys k where k.id = p_api_key_id for no key update;
    end if;
    select * into v_key from public.api_keys k where k.id = p_api_key_id;
    v_override_until := v_key.budget_override_until;
  end if;
  v_now := coalesce(p_now, clock_timestamp());
  v_overridden := p_override or coalesce(v_override_until > v_now, false);

  if v_with_key or v_with_team then
    v_states := array(select s from flow.key_limits(v_key, p_terms, v_now) s);
    v_budget := v_states[1];
    if v_with_team then
      v_states := v_states || array(select s from flow.team_limits(v_team_id, p_terms, v_now) s);
    end if;
    foreach v_state in array v_states loop
      v_need := flow.need(v_state, p_terms, v_product, p_billable, p_reserve_usd, p_reserve_secs);
      continue when v_need is null or (v_state.resource = 'budget_usd' and v_overridden);
      if not flow.fits(v_state, v_need) then
        v_refusal := flow.refusal_json(v_state, v_now);
        exit;
      end if;
      case v_state.resource
        when 'concurrent_calls' then null;
        when 'call_seconds' then v_secs := least(v_secs, flow.room(v_state));
        when 'budget_usd' then v_usd := least(v_usd, flow.room(v_state));
        else v_usd := least(v_usd, flow.room(v_state) * 0.01);
      end case;
    end loop;
  end if;

  if v_refusal is null then
    insert into public.workflow_threads (
      id, api_key_id, team_id, product, billable, "join", metadata, usage_stats,
      idempotency_key, fingerprint, reserved_usd, reserved_secs, budget_override, lease_until
    )
    values (
      p_thread_id, p_api_key_id, v_team_id, v_product, p_billable, p_join,
      coalesce(p_join -> 'metadata', '{}'), flow.zero_usage_stats(p_thread_id),
      p_idempotency_key, p_fingerprint, v_usd, v_secs, p_override,
      v_now + make_interval(secs => p_waiting_secs)
    )
    on conflict do nothing
    returning created_at, usage_stats into v_created_at, v_usage_stats;
    if found then
      if p_whole then
        select * into v_thread from public.workflow_threads t where t.id = p_thread_id;
      end if;
      v_budget.reserved := v_budget.reserved + v_usd;
      return jsonb_build_object(
        'thread', case when p_whole then flow.thread_json(v_thread) end,
        'team_id', v_team_id,
        'created_at', v_created_at,
        'usage_stats', v_usage_stats,
        'replayed', false,
        'budget',
        case when v_budget.quota is not null then flow.budget_json(v_budget, v_overridden) end
      );
    end if;
  end if;

  -- A join made before gets its thread, whatever the limits have become.
  v_thread := flow.joined_before(p_api_key_id, p_thread_id, p_idempotency_key);
  if v_thread.id is null then
    return jsonb_build_object('refused', v_refusal);
  end if;
  return flow.replay(v_thread, p_api_key_id, p_fingerprint) || jsonb_build_object(
    'budget',
    (select flow.budget_of(k, p_override, v_now) from public.api_keys k where k.id = p_api_key_id)
  );
end
$$;

select flow.restrict_to_service_role(array[]::text[], array['join_thread']);
