-- Recording usage moves the month, tells customers of their budget, and says how each key stands.

create function flow.add_to_months(p_rows public.usage_events[]) returns void
language sql
set search_path = ''
as $$
  insert into public.usage_monthly as m (
    api_key_id, month, team_id, product, total_cost_usd, billable_cost_usd, call_seconds
  )
  select
    e.api_key_id, flow.month_of(e.occurred_at), e.team_id, e.product,
    coalesce(sum(e.total_cost_usd), 0),
    coalesce(sum(e.total_cost_usd) filter (where e.billable), 0),
    coalesce(sum(e.audio_seconds) filter (where e.kind = 'call'), 0)
  from unnest(p_rows) e
  group by 1, 2, 3, 4
  order by 1, 2, 3, 4
  on conflict (api_key_id, month, team_id, product) do update set
    total_cost_usd = m.total_cost_usd + excluded.total_cost_usd,
    billable_cost_usd = m.billable_cost_usd + excluded.billable_cost_usd,
    call_seconds = m.call_seconds + excluded.call_seconds
$$;

create function flow.month_spent(p_api_key_id uuid, p_month date) returns numeric
language sql stable
set search_path = ''
return coalesce((
  select sum(m.total_cost_usd) from public.usage_monthly m
  where m.api_key_id = p_api_key_id and m.month = p_month
), 0);

-- One event for each threshold that the month's spending has reached, however it was reached.
create function flow.note_budget(p_key public.api_keys, p_month date, p_thread_id uuid) returns void
language sql
set search_path = ''
as $$
  insert into public.webhook_events (type, api_key_id, team_id, workflow_thread_id, period, data)
  select
    n.type, (p_key).id, (p_key).team_id, p_thread_id, p_month,
    jsonb_build_object(
      'api_key_id', (p_key).id,
      'team_id', (p_key).team_id,
      'period', to_char(p_month, 'YYYY-MM'),
      'tier', flow.budget_tier(s.spent, (p_key).budget_usd, false),
      'cap_usd', trim_scale((p_key).budget_usd)::text,
      'spent_usd', trim_scale(s.spent)::text,
      'resets_at', flow.month_end(p_month::timestamp at time zone 'UTC')
    )
  from (select flow.month_spent((p_key).id, p_month) as spent) s
  cross join (values ('budget.warn', 0.85), ('budget.exceeded', 1)) as n (type, share)
  where (p_key).budget_usd > 0 and s.spent >= (p_key).budget_usd * n.share
  order by n.share
  on conflict (api_key_id, type, period) where period is not null do nothing
$$;

-- The lock is set_budget's counterpart: either this sees the new cap or that sees this spending.
create function flow.note_budgets(p_rows public.usage_events[]) returns void
language sql
set search_path = ''
as $$
  with spent as materialized (
    select r.api_key_id, flow.month_of(r.occurred_at) as month,
      (array_agg(r.workflow_thread_id order by r.occurred_at desc))[1] as thread_id
    from unnest(p_rows) r
    where r.total_cost_usd > 0
    group by 1, 2
  ), keys as materialized (
    select k from public.api_keys k
    where k.id = any (array(select s.api_key_id from spent s))
    order by k.id
    for key share
  )
  select flow.note_budget(o.k, s.month, s.thread_id)
  from spent s join keys o on (o.k).id = s.api_key_id
  where (o.k).budget_usd > 0
  order by s.api_key_id, s.month
$$;

create function flow.standing_json(p_thread public.workflow_threads, p_key public.api_keys, p_spent numeric)
returns jsonb
language sql stable
set search_path = ''
return jsonb_build_object(
  'budget_tier', flow.budget_tier(
    p_spent,
    (p_key).budget_usd,
    (p_thread).budget_override or coalesce((p_key).budget_override_until > now(), false)
  ),
  'save_mode', (p_key).save_mode
);

create function public.get_thread_standing(p_thread_id uuid) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_standing jsonb;
begin
  select flow.standing_json(t, k, flow.month_spent(k.id, flow.month_of(now()))) into v_standing
  from public.workflow_threads t join public.api_keys k on k.id = t.api_key_id
  where t.id = p_thread_id;
  if not found then
    perform flow.refuse_missing_thread(p_thread_id);
  end if;
  return v_standing;
end
$$;

create or replace function flow.accounts(p_thread_ids uuid[]) returns json
language sql stable
set search_path = ''
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
  with threads as materialized (
    select t from public.workflow_threads t where t.id = any (p_thread_ids)
  ), keys as materialized (
    select k, case when k.budget_usd > 0 then flow.month_spent(k.id, flow.month_of(now())) end as spent
    from public.api_keys k
    where k.id = any (array(select (h.t).api_key_id from threads h))
  )
  select coalesce(
    json_object_agg(
      (h.t).id,
      json_build_object(
        'usage_stats', (h.t).usage_stats,
        'status', (h.t).status,
        'end_requested', (h.t).end_requested_at is not null,
        'standing', flow.standing_json(h.t, o.k, o.spent)
      )
    ),
    '{}'
  )
  from threads h join keys o on (o.k).id = (h.t).api_key_id
$$;

-- Plans are kept as long as a connection, so one made while the tables were small must do when
-- they are large: threads are found by their index, whatever it seems to cost.
create or replace function flow.insert_usage(p_events jsonb) returns public.usage_events[]
language plpgsql
set search_path = ''
set timezone = 'UTC'
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_rows public.usage_events[];
begin
  with fresh as (
    insert into public.usage_events as kept (
      id, workflow_thread_id, api_key_id, team_id, product, billable,
      kind, source, provider, model, requested_model, service_tier,
      input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
      input_audio_tokens, output_audio_tokens, cache_read_audio_tokens, characters, audio_seconds,
      provenance, outcome,
      input_cost_usd, cache_read_cost_usd, cache_write_cost_usd, output_cost_usd,
      audio_input_cost_usd, audio_output_cost_usd, tts_cost_usd, stt_cost_usd, call_cost_usd,
      price_version, occurred_at, latency_secs, time_to_first_token_secs, stream,
      failure_type, failure_message, failure_http_status, note, capture,
      save_mode, save_mode_reason, budget_tier
    )
    select
      e.id, t.id, t.api_key_id, t.team_id, t.product, coalesce(e.billable, t.billable),
      e.kind, e.source, e.provider, e.model, e.requested_model, e.service_tier,
      coalesce(e.input_tokens, 0), coalesce(e.cache_read_tokens, 0),
      coalesce(e.cache_write_tokens, 0), coalesce(e.output_tokens, 0),
      coalesce(e.reasoning_tokens, 0), coalesce(e.input_audio_tokens, 0),
      coalesce(e.output_audio_tokens, 0), coalesce(e.cache_read_audio_tokens, 0),
      coalesce(e.characters, 0), coalesce(e.audio_seconds, 0),
      e.provenance, e.outcome,
      flow.cost_input(e.cost), flow.cost_part(e.cost, 'cache_read'),
      flow.cost_part(e.cost, 'cache_write'), flow.cost_part(e.cost, 'output'),
      flow.cost_part(e.cost, 'audio_input'), flow.cost_part(e.cost, 'audio_output'),
      flow.cost_part(e.cost, 'tts'), flow.cost_part(e.cost, 'stt'), flow.cost_part(e.cost, 'call'),
      e.price_version, e.occurred_at, e.latency_secs, e.time_to_first_token_secs, e.stream,
      e.failure ->> 'type', e.failure ->> 'message', (e.failure ->> 'http_status')::integer,
      e.note, e.capture, coalesce(e.save_mode, false), e.save_mode_reason, e.budget_tier
    from jsonb_to_recordset(p_events) as e (
      id uuid, workflow_thread_id uuid, api_key_id uuid, team_id text, product text,
      billable boolean, kind text, source text, provider text, model text, requested_model text,
      service_tier text, input_tokens integer, cache_read_tokens integer,
      cache_write_tokens integer, output_tokens integer, reasoning_tokens integer,
      input_audio_tokens integer, output_audio_tokens integer, cache_read_audio_tokens integer,
      characters integer, audio_seconds numeric, provenance text, outcome text, cost jsonb,
      price_version text, occurred_at timestamptz, latency_secs double precision,
      time_to_first_token_secs double precision, stream boolean, failure jsonb, note text,
      capture boolean, save_mode boolean, save_mode_reason text, budget_tier text
    )
    join public.workflow_threads t on t.id = e.workflow_thread_id
      and t.api_key_id = coalesce(e.api_key_id, t.api_key_id)
      and t.team_id = coalesce(e.team_id, t.team_id)
      and t.product = coalesce(e.product, t.product)
      -- Insights may be free of charge where the call is not; nothing else differs from the thread.
      and (
        t.billable = coalesce(e.billable, t.billable) or (t.billable and e.source = 'insights')
      )
    order by e.id
    on conflict (id) do nothing
    -- The whole row in its own type; of another type it would be converted by way of text.
    returning kept
  )
  select coalesce(array_agg(f.kept), '{}') into v_rows from fresh f;
  return v_rows;
end
$$;

-- Returns json, not jsonb: the accounts of many threads go out as text without a detour.
create or replace function flow.record_batch(p_events jsonb, p_rejected jsonb default '[]') returns json
language plpgsql
set search_path = ''
as $$
declare
  v_fresh public.usage_events[];
  v_threads uuid[];
  v_others uuid[] := '{}';
  v_duplicates jsonb := '[]';
  v_rejected jsonb := '[]';
begin
  -- Event ids, then threads, days and months, each in order: no two batches wait for each other. What
  -- others may wait for is taken as late as can be.
  v_fresh := flow.insert_usage(p_events);
  v_threads := array(select distinct f.workflow_thread_id from unnest(v_fresh) f);
  if cardinality(v_fresh) > 0 then
    perform flow.add_to_threads(v_fresh);
    perform flow.add_to_days(v_fresh);
    perform flow.add_to_months(v_fresh);
    perform flow.note_budgets(v_fresh);
  end if;
  if cardinality(v_fresh) < jsonb_array_length(p_events) then
    select
      coalesce(array_agg(u.thread_id), '{}'),
      coalesce(jsonb_agg(u.id) filter (where u.reason is null), '[]'),
      coalesce(
        jsonb_agg(flow.keep_rejected(u.event, u.reason)) filter (where u.reason is not null), '[]'
      )
    into v_others, v_duplicates, v_rejected
    from flow.unrecorded(p_events, v_fresh) u;
  end if;
  return json_build_object(
    'new', (select coalesce(json_agg(f.id), '[]') from unnest(v_fresh) f),
    'duplicates', v_duplicates,
    'rejected', p_rejected || v_rejected,
    'threads', flow.accounts(v_threads || v_others)
  );
end
$$;

select flow.restrict_to_service_role(array[]::text[], array['get_thread_standing']);
