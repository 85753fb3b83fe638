-- The way into the ledger: one call, one transaction, each event once.

create function flow.accounts(p_thread_ids uuid[]) returns json
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
  return (
    with threads as materialized (
      select
        t.id, t.usage_stats, t.status, t.end_requested_at, t.budget_override, t.api_key_id,
        t.team_id, t.buckets
      from public.workflow_threads t where t.id = any (p_thread_ids)
    ), keys as materialized (
      select
        k.id, k.budget_usd, k.save_mode,
        coalesce(k.budget_override_until > now(), false) as is_overridden,
        case when k.budget_usd > 0 then flow.month_spent(k.id, flow.month_of(now())) end as spent
      from public.api_keys k
      where k.id = any (array(select t.api_key_id from threads t))
    ), teams as materialized (
      select s.team_id, s.buckets, flow.team_tier(s.team_id, s.buckets, now()) as tier
      from (select distinct t.team_id, t.buckets from threads t) s
    )
    select coalesce(
      json_object_agg(
        t.id,
        json_build_object(
          'usage_stats', t.usage_stats,
          'status', t.status,
          'end_requested', t.end_requested_at is not null,
          'standing', json_build_object(
            'budget_tier',
            flow.higher_tier(
              flow.budget_tier(k.spent, k.budget_usd, t.budget_override or k.is_overridden), s.tier
            ),
            'save_mode', k.save_mode
          )
        )
      ),
      '{}'
    )
    from threads t
    join keys k on k.id = t.api_key_id
    join teams s on s.team_id = t.team_id and s.buckets = t.buckets
  );
end
$$;

-- Returns json, not jsonb: the accounts of many threads go out as text without a detour.
create function flow.record_batch(
  p_events jsonb, p_clock_behind interval, p_rejected jsonb default '[]'
) returns json
language plpgsql
set search_path = ''
as $$
declare
  v_new uuid[] := flow.insert_usage(p_events, p_clock_behind);
  v_parts flow.usage_part[] := flow.usage_parts(v_new);
  v_threads uuid[];
  v_duplicates jsonb := '[]';
  v_rejected jsonb := '[]';
begin
  -- Event ids, then threads, days and months, each in order: no two batches wait for each other. What
  -- others may wait for is taken as late as can be.
  if cardinality(v_new) > 0 then
    perform flow.add_to_threads(v_parts);
    perform flow.add_to_days(v_parts);
    perform flow.add_to_months(v_parts);
    perform flow.note_budgets(v_parts);
  end if;
  v_threads := array(
    select distinct p.workflow_thread_id from unnest(v_parts) p
    where p.workflow_thread_id is not null
  );
  if cardinality(v_new) < jsonb_array_length(p_events) then
    select
      v_threads
        || coalesce(array_agg(u.thread_id) filter (where u.thread_id is not null), '{}'),
      coalesce(jsonb_agg(u.id) filter (where u.reason is null), '[]'),
      coalesce(
        jsonb_agg(flow.keep_rejected(u.event, u.reason)) filter (where u.reason is not null), '[]'
      )
    into v_threads, v_duplicates, v_rejected
    from flow.unrecorded(p_events, v_new) u;
  end if;
  return json_build_object(
    'new', to_json(v_new),
    'duplicates', v_duplicates,
    'rejected', p_rejected || v_rejected,
    'dated', flow.dated_otherwise(
      v_new || array(select d::uuid from jsonb_array_elements_text(v_duplicates) d)
    ),
    'threads', flow.accounts(v_threads)
  );
end
$$;

-- p_sent_at is what the sender's clock says now: the events are as far off as it is.
create function public.record_usage(p_events jsonb, p_sent_at timestamptz default null) returns json
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_behind constant interval := coalesce(flow.clock_behind(p_sent_at), interval '0');
  v_rejected jsonb;
  v_sound jsonb;
begin
  if p_events is null or jsonb_typeof(p_events) <> 'array' then
    raise exception 'p_events must be a JSON array of usage events.' using errcode = 'PT422';
  end if;
  begin
    return flow.record_batch(p_events, v_behind);
  exception
    when data_exception or integrity_constraint_violation then null;
  end;
  -- At least one event is malformed: find which, keep those aside, record the others.
  with judged as materialized (
    select e.event, e.place, flow.event_problem(e.event, v_behind) as problem
    from jsonb_array_elements(p_events) with ordinality as e (event, place)
  )
  select
    coalesce(jsonb_agg(j.event order by j.place) filter (where j.problem is null), '[]'),
    coalesce(
      jsonb_agg(flow.keep_rejected(j.event, j.problem) order by j.place)
        filter (where j.problem is not null),
      '[]'
    )
  into v_sound, v_rejected
  from judged j;
  return flow.record_batch(v_sound, v_behind, v_rejected);
end
$$;

select flow.restrict_to_service_role(array[]::text[], array['record_usage']);
