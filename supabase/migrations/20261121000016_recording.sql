-- The way into the ledger in fewer steps. What a batch adds is summed once, from the ledger rows that
-- were inserted, and threads, days and months are moved by those sums. The functions are in plpgsql,
-- which keeps plans, and take the generic ones: with arrays for arguments a plan made for just this
-- batch always looks cheaper, and planning takes longer than running. Threads, keys and events are
-- found by their indexes, whatever it seemed to cost when the plan was made.

create type flow.usage_part as (
  workflow_thread_id uuid,
  api_key_id uuid,
  day date,
  team_id text,
  product text,
  billable boolean,
  kind text,
  source text,
  provider text,
  model text,
  events bigint,
  input_tokens bigint,
  cache_read_tokens bigint,
  cache_write_tokens bigint,
  output_tokens bigint,
  reasoning_tokens bigint,
  input_audio_tokens bigint,
  output_audio_tokens bigint,
  cache_read_audio_tokens bigint,
  characters bigint,
  audio_seconds numeric,
  estimated_events bigint,
  unpriced_events bigint,
  interrupted_events bigint,
  failed_events bigint,
  input_cost_usd numeric,
  cache_read_cost_usd numeric,
  cache_write_cost_usd numeric,
  output_cost_usd numeric,
  audio_input_cost_usd numeric,
  audio_output_cost_usd numeric,
  tts_cost_usd numeric,
  stt_cost_usd numeric,
  call_cost_usd numeric,
  total_cost_usd numeric,
  last_paid_at timestamptz
);
comment on type flow.usage_part is
  'Ledger rows of one thread that are alike in all that anything is summed by. Costs are null where '
  'all of them are unpriced; last_paid_at is when the latest that cost something occurred.';

drop function flow.insert_usage(jsonb);
drop function flow.usage_sums(public.usage_events[]);
drop function flow.stats_with(public.usage_events[], jsonb);
drop function flow.add_to_threads(public.usage_events[]);
drop function flow.add_to_days(public.usage_events[]);
drop function flow.add_to_months(public.usage_events[]);
drop function flow.note_budgets(public.usage_events[]);
drop function flow.unrecorded(jsonb, public.usage_events[]);

create function flow.insert_usage(p_events jsonb) returns uuid[]
language plpgsql
set search_path = ''
set timezone = 'UTC'
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_new uuid[];
begin
  with fresh as (
    insert into public.usage_events (
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
    returning id
  )
  select coalesce(array_agg(f.id), '{}') into v_new from fresh f;
  return v_new;
end
$$;
comment on function flow.insert_usage is 'Inserts what is not in the ledger yet; gives its ids.';

create function flow.usage_parts(p_ids uuid[]) returns flow.usage_part[]
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
as $$
begin
  return array(
    select row(
      e.workflow_thread_id, e.api_key_id, (e.occurred_at at time zone 'UTC')::date, e.team_id,
      e.product, e.billable, e.kind, e.source, e.provider, e.model, count(*),
      sum(e.input_tokens), sum(e.cache_read_tokens), sum(e.cache_write_tokens),
      sum(e.output_tokens), sum(e.reasoning_tokens), sum(e.input_audio_tokens),
      sum(e.output_audio_tokens), sum(e.cache_read_audio_tokens), sum(e.characters),
      sum(e.audio_seconds),
      count(*) filter (where e.provenance = 'estimated'),
      count(*) filter (where e.total_cost_usd is null),
      count(*) filter (where e.outcome = 'interrupted'),
      count(*) filter (where e.outcome = 'error'),
      sum(e.input_cost_usd), sum(e.cache_read_cost_usd), sum(e.cache_write_cost_usd),
      sum(e.output_cost_usd), sum(e.audio_input_cost_usd), sum(e.audio_output_cost_usd),
      sum(e.tts_cost_usd), sum(e.stt_cost_usd), sum(e.call_cost_usd), sum(e.total_cost_usd),
      max(e.occurred_at) filter (where e.total_cost_usd > 0)
    )::flow.usage_part
    from public.usage_events e
    where e.id = any (p_ids)
    group by
      e.workflow_thread_id, e.api_key_id, (e.occurred_at at time zone 'UTC')::date, e.team_id,
      e.product, e.billable, e.kind, e.source, e.provider, e.model
  );
end
$$;

create function flow.usage_sums(p_parts flow.usage_part[]) returns flow.usage_sums[]
language plpgsql immutable
set search_path = ''
set plan_cache_mode = force_generic_plan
set jit = off
as $$
begin
  return array(
    select row(
      p.workflow_thread_id,
      sum(p.input_tokens + p.cache_read_tokens + p.cache_write_tokens + p.output_tokens),
      sum(p.events) filter (where p.kind = 'llm'),
      array_agg(row(
        p.provider || '/' || p.model, p.events, p.input_tokens, p.cache_read_tokens,
        p.cache_write_tokens, p.output_tokens, p.reasoning_tokens, p.total_cost_usd
      )::flow.model_sums) filter (where p.kind = 'llm'),
      sum(p.characters) filter (where p.kind = 'tts'),
      sum(p.audio_seconds) filter (where p.kind = 'tts'),
      sum(p.audio_seconds) filter (where p.kind = 'stt'),
      sum(p.audio_seconds) filter (where p.kind = 'call'),
      sum(p.input_cost_usd), sum(p.cache_read_cost_usd), sum(p.cache_write_cost_usd),
      sum(p.output_cost_usd), sum(p.audio_input_cost_usd + p.audio_output_cost_usd),
      sum(p.tts_cost_usd), sum(p.stt_cost_usd), sum(p.call_cost_usd), sum(p.total_cost_usd),
      sum(p.total_cost_usd) filter (where p.billable),
      sum(p.estimated_events), sum(p.unpriced_events),
      sum(p.interrupted_events) filter (where p.kind = 'llm'),
      sum(p.failed_events) filter (where p.kind = 'llm')
    )::flow.usage_sums
    from unnest(p_parts) p
    group by p.workflow_thread_id
  );
end
$$;
comment on function flow.usage_sums is
  'The parts summed by thread; null where nothing was there to add. A model may have several entries.';

create function flow.stats_with(p_parts flow.usage_part[], p_base jsonb default null)
returns table (thread_id uuid, usage_stats jsonb)
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
  return query
  select
    t.id,
    flow.usage_stats_plus(coalesce(p_base, t.usage_stats), s, (
      select string_agg(flow.model_plus(coalesce(p_base, t.usage_stats) -> 'models_used', m), ',')
      from (
        select row(
          g.name, sum(g.llm_calls), sum(g.input_tokens), sum(g.cache_read_tokens),
          sum(g.cache_write_tokens), sum(g.output_tokens), sum(g.reasoning_tokens), sum(g.cost_usd)
        )::flow.model_sums
        from unnest(s.models) g
        group by g.name
      ) as models (m)
    ))
  from unnest(flow.usage_sums(p_parts)) s
  join public.workflow_threads t on t.id = s.workflow_thread_id;
end
$$;
comment on function flow.stats_with is
  'usage_stats of each thread with its parts added, to p_base if that is given.';

create function flow.add_to_threads(p_parts flow.usage_part[]) returns void
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
  perform from public.workflow_threads t
  where t.id = any (array(
    select distinct p.workflow_thread_id from unnest(p_parts) p
  ))
  order by t.id
  for no key update;

  update public.workflow_threads t set usage_stats = a.usage_stats
  from flow.stats_with(p_parts) a
  where t.id = a.thread_id;
end
$$;

create function flow.add_to_days(p_parts flow.usage_part[]) returns void
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan
set jit = off
as $$
begin
  insert into public.usage_daily as d (
    api_key_id, day, team_id, product, billable, kind, source, provider, model, events,
    input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
    input_audio_tokens, output_audio_tokens, cache_read_audio_tokens, characters, audio_seconds,
    estimated_events, unpriced_events, interrupted_events, failed_events,
    input_cost_usd, cache_read_cost_usd, cache_write_cost_usd, output_cost_usd,
    audio_input_cost_usd, audio_output_cost_usd, tts_cost_usd, stt_cost_usd, call_cost_usd,
    total_cost_usd
  )
  select
    p.api_key_id, p.day, p.team_id, p.product, p.billable, p.kind, p.source, p.provider, p.model,
    sum(p.events),
    sum(p.input_tokens), sum(p.cache_read_tokens), sum(p.cache_write_tokens),
    sum(p.output_tokens), sum(p.reasoning_tokens), sum(p.input_audio_tokens),
    sum(p.output_audio_tokens), sum(p.cache_read_audio_tokens), sum(p.characters),
    sum(p.audio_seconds), sum(p.estimated_events), sum(p.unpriced_events),
    sum(p.interrupted_events), sum(p.failed_events),
    coalesce(sum(p.input_cost_usd), 0), coalesce(sum(p.cache_read_cost_usd), 0),
    coalesce(sum(p.cache_write_cost_usd), 0), coalesce(sum(p.output_cost_usd), 0),
    coalesce(sum(p.audio_input_cost_usd), 0), coalesce(sum(p.audio_output_cost_usd), 0),
    coalesce(sum(p.tts_cost_usd), 0), coalesce(sum(p.stt_cost_usd), 0),
    coalesce(sum(p.call_cost_usd), 0), coalesce(sum(p.total_cost_usd), 0)
  from unnest(p_parts) p
  group by 1, 2, 3, 4, 5, 6, 7, 8, 9
  order by 1, 2, 3, 4, 5, 6, 7, 8, 9
  on conflict (api_key_id, day, team_id, product, billable, kind, source, provider, model)
  do update set
    events = d.events + excluded.events,
    input_tokens = d.input_tokens + excluded.input_tokens,
    cache_read_tokens = d.cache_read_tokens + excluded.cache_read_tokens,
    cache_write_tokens = d.cache_write_tokens + excluded.cache_write_tokens,
    output_tokens = d.output_tokens + excluded.output_tokens,
    reasoning_tokens = d.reasoning_tokens + excluded.reasoning_tokens,
    input_audio_tokens = d.input_audio_tokens + excluded.input_audio_tokens,
    output_audio_tokens = d.output_audio_tokens + excluded.output_audio_tokens,
    cache_read_audio_tokens = d.cache_read_audio_tokens + excluded.cache_read_audio_tokens,
    characters = d.characters + excluded.characters,
    audio_seconds = d.audio_seconds + excluded.audio_seconds,
    estimated_events = d.estimated_events + excluded.estimated_events,
    unpriced_events = d.unpriced_events + excluded.unpriced_events,
    interrupted_events = d.interrupted_events + excluded.interrupted_events,
    failed_events = d.failed_events + excluded.failed_events,
    input_cost_usd = d.input_cost_usd + excluded.input_cost_usd,
    cache_read_cost_usd = d.cache_read_cost_usd + excluded.cache_read_cost_usd,
    cache_write_cost_usd = d.cache_write_cost_usd + excluded.cache_write_cost_usd,
    output_cost_usd = d.output_cost_usd + excluded.output_cost_usd,
    audio_input_cost_usd = d.audio_input_cost_usd + excluded.audio_input_cost_usd,
    audio_output_cost_usd = d.audio_output_cost_usd + excluded.audio_output_cost_usd,
    tts_cost_usd = d.tts_cost_usd + excluded.tts_cost_usd,
    stt_cost_usd = d.stt_cost_usd + excluded.stt_cost_usd,
    call_cost_usd = d.call_cost_usd + excluded.call_cost_usd,
    total_cost_usd = d.total_cost_usd + excluded.total_cost_usd;
end
$$;

create function flow.add_to_months(p_parts flow.usage_part[]) returns void
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan
set jit = off
as $$
begin
  insert into public.usage_monthly as m (
    api_key_id, month, team_id, product, total_cost_usd, billable_cost_usd, call_seconds
  )
  select
    p.api_key_id, date_trunc('month', p.day::timestamp)::date, p.team_id, p.product,
    coalesce(sum(p.total_cost_usd), 0),
    coalesce(sum(p.total_cost_usd) filter (where p.billable), 0),
    coalesce(sum(p.audio_seconds) filter (where p.kind = 'call'), 0)
  from unnest(p_parts) p
  group by 1, 2, 3, 4
  order by 1, 2, 3, 4
  on conflict (api_key_id, month, team_id, product) do update set
    total_cost_usd = m.total_cost_usd + excluded.total_cost_usd,
    billable_cost_usd = m.billable_cost_usd + excluded.billable_cost_usd,
    call_seconds = m.call_seconds + excluded.call_seconds;
end
$$;

-- The lock is set_budget's counterpart: either this sees the new cap or that sees this spending.
create function flow.note_budgets(p_parts flow.usage_part[]) returns void
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
as $$
declare
  v_key public.api_keys;
begin
  for v_key in
    select k.* from public.api_keys k
    where k.id = any (array(
      select distinct p.api_key_id from unnest(p_parts) p where p.total_cost_usd > 0
    ))
    order by k.id
    for key share
  loop
    continue when v_key.budget_usd is null or v_key.budget_usd <= 0;
    perform flow.note_budget(v_key, s.month, s.thread_id)
    from (
      select
        date_trunc('month', p.day::timestamp)::date as month,
        (array_agg(p.workflow_thread_id order by p.last_paid_at desc))[1] as thread_id
      from unnest(p_parts) p
      where p.api_key_id = v_key.id and p.total_cost_usd > 0
      group by 1
      order by 1
    ) s;
  end loop;
end
$$;

create or replace function flow.accounts(p_thread_ids uuid[]) returns json
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
      select t.id, t.usage_stats, t.status, t.end_requested_at, t.budget_override, t.api_key_id
      from public.workflow_threads t where t.id = any (p_thread_ids)
    ), keys as materialized (
      select
        k.id, k.budget_usd, k.save_mode,
        coalesce(k.budget_override_until > now(), false) as is_overridden,
        case when k.budget_usd > 0 then flow.month_spent(k.id, flow.month_of(now())) end as spent
      from public.api_keys k
      where k.id = any (array(select t.api_key_id from threads t))
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
            flow.budget_tier(k.spent, k.budget_usd, t.budget_override or k.is_overridden),
            'save_mode', k.save_mode
          )
        )
      ),
      '{}'
    )
    from threads t join keys k on k.id = t.api_key_id
  );
end
$$;

-- What the ledger did not take of a well-formed batch: a reason, or null for a duplicate.
create function flow.unrecorded(p_events jsonb, p_new uuid[])
returns table (id uuid, thread_id uuid, event jsonb, reason text)
language sql stable
set search_path = ''
as $$
  select
    e.id,
    e.thread_id,
    e.event,
    case
      when t.id is null then 'there is no thread ' || coalesce(e.thread_id::text, 'named')
      when held.id is null then
        'its owner contradicts the thread: api_key_id, team_id, product or billable differ'
      when held.workflow_thread_id <> e.thread_id then
        'the id belongs to an event of thread ' || held.workflow_thread_id
    end
  from (
    select distinct on (id, thread_id)
      (j.event ->> 'id')::uuid as id, (j.event ->> 'workflow_thread_id')::uuid as thread_id, j.event
    from jsonb_array_elements(p_events) with ordinality as j (event, place)
    order by id, thread_id, j.place
  ) e
  left join public.workflow_threads t on t.id = e.thread_id
  left join public.usage_events held on held.id = e.id
  where (held.workflow_thread_id = e.thread_id and held.id = any (p_new)) is not true
$$;

-- Returns json, not jsonb: the accounts of many threads go out as text without a detour.
create or replace function flow.record_batch(p_events jsonb, p_rejected jsonb default '[]') returns json
language plpgsql
set search_path = ''
as $$
declare
  v_new uuid[] := flow.insert_usage(p_events);
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
  v_threads := array(select distinct p.workflow_thread_id from unnest(v_parts) p);
  if cardinality(v_new) < jsonb_array_length(p_events) then
    select
      v_threads || coalesce(array_agg(u.thread_id), '{}'),
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
    'threads', flow.accounts(v_threads)
  );
end
$$;

create or replace function flow.settled_usage_stats(p_thread_id uuid) returns jsonb
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_parts flow.usage_part[] := flow.usage_parts(array(
    select e.id from public.usage_events e where e.workflow_thread_id = p_thread_id
  ));
  v_zero jsonb := flow.zero_usage_stats(p_thread_id);
begin
  return coalesce((select a.usage_stats from flow.stats_with(v_parts, v_zero) a), v_zero);
end
$$;

select flow.restrict_to_service_role(array[]::text[], array[]::text[]);
