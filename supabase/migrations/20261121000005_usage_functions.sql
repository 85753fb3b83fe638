-- The way into the ledger, and out of it.

create type flow.model_sums as (
  name text,
  llm_calls bigint,
  input_tokens bigint,
  cache_read_tokens bigint,
  cache_write_tokens bigint,
  output_tokens bigint,
  reasoning_tokens bigint,
  cost_usd numeric
);

create type flow.usage_sums as (
  workflow_thread_id uuid,
  total_tokens bigint,
  llm_calls bigint,
  models flow.model_sums[],
  tts_characters bigint,
  tts_seconds numeric,
  stt_seconds numeric,
  call_seconds numeric,
  llm_input_cost numeric,
  llm_cache_read_cost numeric,
  llm_cache_write_cost numeric,
  llm_output_cost numeric,
  llm_audio_cost numeric,
  tts_cost numeric,
  stt_cost numeric,
  call_cost numeric,
  total_cost numeric,
  billable_cost numeric,
  estimated_events bigint,
  unpriced_events bigint,
  interrupted_generations bigint,
  failed_generations bigint
);

create function flow.usage_sums(p_rows public.usage_events[]) returns setof flow.usage_sums
language sql stable
set search_path = ''
as $$
  with parts as (
    select
      e.workflow_thread_id,
      e.kind,
      case when e.kind = 'llm' then e.provider || '/' || e.model end as model,
      count(*) as events,
      sum(e.input_tokens) as input,
      sum(e.cache_read_tokens) as cache_read,
      sum(e.cache_write_tokens) as cache_write,
      sum(e.output_tokens) as output,
      sum(e.reasoning_tokens) as reasoning,
      sum(e.characters) as characters,
      sum(e.audio_seconds) as seconds,
      sum(e.input_cost_usd) as input_cost,
      sum(e.cache_read_cost_usd) as cache_read_cost,
      sum(e.cache_write_cost_usd) as cache_write_cost,
      sum(e.output_cost_usd) as output_cost,
      sum(e.audio_input_cost_usd + e.audio_output_cost_usd) as audio_cost,
      sum(e.tts_cost_usd) as tts_cost,
      sum(e.stt_cost_usd) as stt_cost,
      sum(e.call_cost_usd) as call_cost,
      sum(e.total_cost_usd) as total_cost,
      sum(e.total_cost_usd) filter (where e.billable) as billable_cost,
      count(*) filter (where e.provenance = 'estimated') as estimated,
      count(*) filter (where e.total_cost_usd is null) as unpriced,
      count(*) filter (where e.kind = 'llm' and e.outcome = 'interrupted') as interrupted,
      count(*) filter (where e.kind = 'llm' and e.outcome = 'error') as failed
    from unnest(p_rows) e
    group by 1, 2, 3
  )
  select
    p.workflow_thread_id,
    sum(p.input + p.cache_read + p.cache_write + p.output),
    sum(p.events) filter (where p.kind = 'llm'),
    array_agg(row(
      p.model, p.events, p.input, p.cache_read, p.cache_write, p.output, p.reasoning, p.total_cost
    )::flow.model_sums) filter (where p.kind = 'llm'),
    sum(p.characters) filter (where p.kind = 'tts'),
    sum(p.seconds) filter (where p.kind = 'tts'),
    sum(p.seconds) filter (where p.kind = 'stt'),
    sum(p.seconds) filter (where p.kind = 'call'),
    sum(p.input_cost), sum(p.cache_read_cost), sum(p.cache_write_cost), sum(p.output_cost),
    sum(p.audio_cost), sum(p.tts_cost), sum(p.stt_cost), sum(p.call_cost), sum(p.total_cost),
    sum(p.billable_cost), sum(p.estimated), sum(p.unpriced), sum(p.interrupted), sum(p.failed)
  from parts p
  group by p.workflow_thread_id
$$;
comment on function flow.usage_sums is
  'The rows summed by thread; null where nothing was there to add.';

-- The next three are inlined by the planner into add_to_threads, which functions with settings of
-- their own would not be. Their bodies are bound when they are made, whatever the search_path.
create function flow.plus(p_stats jsonb, p_name text, p_more numeric) returns numeric
language sql immutable
return trim_scale(coalesce((p_stats -> p_name)::numeric, 0) + coalesce(p_more, 0));

create function flow.model_plus(p_models jsonb, m flow.model_sums) returns text
language sql stable
return format(
  '%s: {"llm_calls": %s, "input_tokens": %s, "cache_read_tokens": %s, "cache_write_tokens": %s,'
  '"output_tokens": %s, "reasoning_tokens": %s, "cost_usd": %s}',
  to_json((m).name),
  flow.plus(p_models -> (m).name, 'llm_calls', (m).llm_calls),
  flow.plus(p_models -> (m).name, 'input_tokens', (m).input_tokens),
  flow.plus(p_models -> (m).name, 'cache_read_tokens', (m).cache_read_tokens),
  flow.plus(p_models -> (m).name, 'cache_write_tokens', (m).cache_write_tokens),
  flow.plus(p_models -> (m).name, 'output_tokens', (m).output_tokens),
  flow.plus(p_models -> (m).name, 'reasoning_tokens', (m).reasoning_tokens),
  flow.plus(p_models -> (m).name, 'cost_usd', (m).cost_usd)
);

-- Written as text and parsed once, which is twice as fast as jsonb_build_object.
create function flow.usage_stats_plus(p_stats jsonb, s flow.usage_sums, p_models text) returns jsonb
language sql stable
return format(
  '{"total_tokens": %s, "total_cost_usd": %s, "llm_calls": %s, "models_used": %s,'
  '"tts": {"characters": %s, "audio_seconds": %s, "cost_usd": %s},'
  '"stt": {"audio_seconds": %s, "cost_usd": %s},'
  '"call_seconds": %s,'
  '"cost_breakdown_usd": {"llm_input": %s, "llm_cache_read": %s, "llm_cache_write": %s,'
  '"llm_output": %s, "llm_audio": %s, "tts": %s, "stt": %s, "call": %s},'
  '"estimated_events": %s, "unpriced_events": %s,'
  '"interrupted_generations": %s, "failed_generations": %s,'
  '"billable_cost_usd": %s, "posthog_trace_id": %s}',
  flow.plus(p_stats, 'total_tokens', (s).total_tokens),
  flow.plus(p_stats, 'total_cost_usd', (s).total_cost),
  flow.plus(p_stats, 'llm_calls', (s).llm_calls),
  (p_stats -> 'models_used') || coalesce('{' || p_models || '}', '{}')::jsonb,
  flow.plus(p_stats -> 'tts', 'characters', (s).tts_characters),
  flow.plus(p_stats -> 'tts', 'audio_seconds', (s).tts_seconds),
  flow.plus(p_stats -> 'tts', 'cost_usd', (s).tts_cost),
  flow.plus(p_stats -> 'stt', 'audio_seconds', (s).stt_seconds),
  flow.plus(p_stats -> 'stt', 'cost_usd', (s).stt_cost),
  flow.plus(p_stats, 'call_seconds', (s).call_seconds),
  flow.plus(p_stats -> 'cost_breakdown_usd', 'llm_input', (s).llm_input_cost),
  flow.plus(p_stats -> 'cost_breakdown_usd', 'llm_cache_read', (s).llm_cache_read_cost),
  flow.plus(p_stats -> 'cost_breakdown_usd', 'llm_cache_write', (s).llm_cache_write_cost),
  flow.plus(p_stats -> 'cost_breakdown_usd', 'llm_output', (s).llm_output_cost),
  flow.plus(p_stats -> 'cost_breakdown_usd', 'llm_audio', (s).llm_audio_cost),
  flow.plus(p_stats -> 'cost_breakdown_usd', 'tts', (s).tts_cost),
  flow.plus(p_stats -> 'cost_breakdown_usd', 'stt', (s).stt_cost),
  flow.plus(p_stats -> 'cost_breakdown_usd', 'call', (s).call_cost),
  flow.plus(p_stats, 'estimated_events', (s).estimated_events),
  flow.plus(p_stats, 'unpriced_events', (s).unpriced_events),
  flow.plus(p_stats, 'interrupted_generations', (s).interrupted_generations),
  flow.plus(p_stats, 'failed_generations', (s).failed_generations),
  flow.plus(p_stats, 'billable_cost_usd', (s).billable_cost),
  p_stats -> 'posthog_trace_id'
)::jsonb;

create function flow.stats_with(p_rows public.usage_events[], p_base jsonb default null)
returns table (thread_id uuid, usage_stats jsonb)
language sql stable
set search_path = ''
as $$
  select
    t.id,
    flow.usage_stats_plus(t.base, s, (
      select string_agg(flow.model_plus(t.base -> 'models_used', m), ',') from unnest(s.models) m
    ))
  from flow.usage_sums(p_rows) s
  join (
    select w.id, coalesce(p_base, w.usage_stats) as base from public.workflow_threads w
  ) t on t.id = s.workflow_thread_id
$$;
comment on function flow.stats_with is
  'usage_stats of each thread in the rows with these rows added, to p_base if that is given.';

-- One component of an event's cost: null if the event is unpriced, else 0 where it is left out.
create function flow.cost_part(p_cost jsonb, p_part text) returns numeric
language sql immutable
return case when p_cost is not null then coalesce((p_cost ->> p_part)::numeric, 0) end;

-- A component nobody knows would be left out of the total: it makes the event one to reject.
create function flow.cost_input(p_cost jsonb) returns numeric
language sql immutable
return case
  when p_cost - '{input,cache_read,cache_write,output,audio_input,audio_output,tts,stt,call}'::text[]
    = '{}' then coalesce((p_cost ->> 'input')::numeric, 0)
  when p_cost is not null then 'NaN'
end;

-- Plans are kept as long as a connection, so one made while the tables were small must do when
-- they are large: threads are found by their index, whatever it seems to cost.
create function flow.insert_usage(p_events jsonb) returns public.usage_events[]
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
      failure_type, failure_message, failure_http_status, note, capture
    )
    select
      e.id, t.id, t.api_key_id, t.team_id, t.product, t.billable,
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
      e.note, e.capture
    from jsonb_to_recordset(p_events) as e (
      id uuid, workflow_thread_id uuid, api_key_id uuid, team_id text, product text,
      billable boolean, kind text, source text, provider text, model text, requested_model text,
      service_tier text, input_tokens integer, cache_read_tokens integer,
      cache_write_tokens integer, output_tokens integer, reasoning_tokens integer,
      input_audio_tokens integer, output_audio_tokens integer, cache_read_audio_tokens integer,
      characters integer, audio_seconds numeric, provenance text, outcome text, cost jsonb,
      price_version text, occurred_at timestamptz, latency_secs double precision,
      time_to_first_token_secs double precision, stream boolean, failure jsonb, note text,
      capture boolean
    )
    join public.workflow_threads t on t.id = e.workflow_thread_id
      and t.api_key_id = coalesce(e.api_key_id, t.api_key_id)
      and t.team_id = coalesce(e.team_id, t.team_id)
      and t.product = coalesce(e.product, t.product)
      and t.billable = coalesce(e.billable, t.billable)
    order by e.id
    on conflict (id) do nothing
    -- The whole row in its own type; of another type it would be converted by way of text.
    returning kept
  )
  select coalesce(array_agg(f.kept), '{}') into v_rows from fresh f;
  return v_rows;
end
$$;

create function flow.add_to_threads(p_rows public.usage_events[]) returns void
language plpgsql
set search_path = ''
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
  perform from public.workflow_threads t
  where t.id = any (array(select distinct r.workflow_thread_id from unnest(p_rows) r))
  order by t.id
  for no key update;

  update public.workflow_threads t set usage_stats = a.usage_stats
  from flow.stats_with(p_rows) a
  where t.id = a.thread_id;
end
$$;

create function flow.add_to_days(p_rows public.usage_events[]) returns void
language sql
set search_path = ''
as $$
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
    e.api_key_id, (e.occurred_at at time zone 'UTC')::date, e.team_id, e.product, e.billable,
    e.kind, e.source, e.provider, e.model, count(*),
    sum(e.input_tokens), sum(e.cache_read_tokens), sum(e.cache_write_tokens),
    sum(e.output_tokens), sum(e.reasoning_tokens), sum(e.input_audio_tokens),
    sum(e.output_audio_tokens), sum(e.cache_read_audio_tokens), sum(e.characters),
    sum(e.audio_seconds),
    count(*) filter (where e.provenance = 'estimated'),
    count(*) filter (where e.total_cost_usd is null),
    count(*) filter (where e.outcome = 'interrupted'),
    count(*) filter (where e.outcome = 'error'),
    coalesce(sum(e.input_cost_usd), 0), coalesce(sum(e.cache_read_cost_usd), 0),
    coalesce(sum(e.cache_write_cost_usd), 0), coalesce(sum(e.output_cost_usd), 0),
    coalesce(sum(e.audio_input_cost_usd), 0), coalesce(sum(e.audio_output_cost_usd), 0),
    coalesce(sum(e.tts_cost_usd), 0), coalesce(sum(e.stt_cost_usd), 0),
    coalesce(sum(e.call_cost_usd), 0), coalesce(sum(e.total_cost_usd), 0)
  from unnest(p_rows) e
  group by 1, 2, 3, 4, 5, 6, 7, 8, 9
  -- Every writer takes the rows in this order, so that two batches never wait for each other.
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
    total_cost_usd = d.total_cost_usd + excluded.total_cost_usd
$$;

-- What the ledger did not take of a well-formed batch: a reason, or null for a duplicate.
create function flow.unrecorded(p_events jsonb, p_fresh public.usage_events[])
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
  where not exists (
    select from unnest(p_fresh) f where f.id = e.id and f.workflow_thread_id = e.thread_id
  )
$$;

create function flow.keep_rejected(p_event jsonb, p_reason text) returns jsonb
language sql
set search_path = ''
as $$
  insert into public.rejected_usage_events (event, event_sha256, reason)
  values (p_event, sha256(convert_to(p_event::text, 'UTF8')), p_reason)
  on conflict (event_sha256) do nothing;
  select jsonb_build_object('id', p_event -> 'id', 'reason', p_reason)
$$;

create function flow.accounts(p_thread_ids uuid[]) returns json
language sql stable
set search_path = ''
as $$
  select coalesce(
    json_object_agg(
      t.id,
      json_build_object(
        'usage_stats', t.usage_stats,
        'status', t.status,
        'end_requested', t.end_requested_at is not null
      )
    ),
    '{}'
  )
  from public.workflow_threads t where t.id = any (p_thread_ids)
$$;

-- Returns json, not jsonb: the accounts of many threads go out as text without a detour.
create function flow.record_batch(p_events jsonb, p_rejected jsonb default '[]') returns json
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
  -- Event ids, then threads, then days, each in order: no two batches wait for each other. What
  -- others may wait for is taken as late as can be.
  v_fresh := flow.insert_usage(p_events);
  v_threads := array(select distinct f.workflow_thread_id from unnest(v_fresh) f);
  if cardinality(v_fresh) > 0 then
    perform flow.add_to_threads(v_fresh);
    perform flow.add_to_days(v_fresh);
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

-- Why the ledger cannot take one event, or null: it is inserted by itself and taken out again.
create function flow.event_problem(p_event jsonb) returns text
language plpgsql
set search_path = ''
as $$
begin
  begin
    if (p_event ->> 'id')::uuid is null or (p_event ->> 'workflow_thread_id')::uuid is null then
      return 'id and workflow_thread_id must be UUIDs';
    end if;
    perform flow.insert_usage(jsonb_build_array(p_event));
    raise exception using errcode = 'FLUND';
  exception
    when sqlstate 'FLUND' then return null;
    when data_exception or integrity_constraint_violation then return sqlerrm;
  end;
end
$$;

create function public.record_usage(p_events jsonb) returns json
language plpgsql
set search_path = ''
as $$
declare
  v_rejected jsonb;
  v_sound jsonb;
begin
  if p_events is null or jsonb_typeof(p_events) <> 'array' then
    raise exception 'p_events must be a JSON array of usage events.' using errcode = 'PT422';
  end if;
  begin
    return flow.record_batch(p_events);
  exception
    when data_exception or integrity_constraint_violation then null;
  end;
  -- At least one event is malformed: find which, keep those aside, record the others.
  with judged as materialized (
    select e.event, e.place, flow.event_problem(e.event) as problem
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
  return flow.record_batch(v_sound, v_rejected);
end
$$;

create function flow.settled_usage_stats(p_thread_id uuid) returns jsonb
language sql stable
set search_path = ''
as $$
  select coalesce(
    (
      select a.usage_stats
      from flow.stats_with(
        array(select e from public.usage_events e where e.workflow_thread_id = p_thread_id),
        flow.zero_usage_stats(p_thread_id)
      ) a
    ),
    flow.zero_usage_stats(p_thread_id)
  )
$$;

create function public.finish_thread(p_thread_id uuid, p_status text, p_error jsonb default null)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_thread public.workflow_threads;
  v_settled jsonb;
begin
  if not flow.is_final(p_status) then
    raise exception '% is not a final state.', p_status using errcode = 'PT422';
  end if;
  select * into v_thread from public.workflow_threads t where t.id = p_thread_id for no key update;
  if not found then
    perform flow.refuse_missing_thread(p_thread_id);
  end if;
  if v_thread.status <> p_status then
    v_settled := flow.settled_usage_stats(p_thread_id);
    if v_settled <> v_thread.usage_stats then
      raise warning 'usage_stats of thread % differed from its ledger.', p_thread_id;
    end if;
    update public.workflow_threads t
    set status = p_status, error = coalesce(p_error, t.error), usage_stats = v_settled
    where t.id = p_thread_id
    returning * into v_thread;
  end if;
  return flow.thread_json(v_thread, flow.transcript(p_thread_id));
end
$$;

select flow.restrict_to_service_role(array[]::text[], array['record_usage', 'finish_thread']);
