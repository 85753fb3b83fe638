-- Reports and joins, quicker. A report's time went into making jsonb of its rows: they are written as
-- text at once, and by a plan that is kept.

drop function public.get_usage_report(date, date, jsonb, uuid, text);
drop function public.get_usage_stats_by_api_key_id(uuid, date, date, jsonb);
drop function flow.usage_report(uuid[], text, date, date, jsonb);

create function flow.key_label(p_api_key_id uuid) returns text
language sql stable
set search_path = ''
as $$
  select format(
    '"api_key_id":"%s","key_name":%s,', k.id, coalesce(to_json(k.name), 'null')
  )
  from public.api_keys k where k.id = p_api_key_id
$$;

create function flow.usage_report(
  p_keys uuid[], p_team_id text, p_from date, p_to date, p_group_by jsonb
) returns json
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
as $$
begin
  if p_from > p_to then
    raise exception 'from (%) is after to (%).', p_from, p_to using errcode = 'PT422';
  end if;
  return (
    select '[' || coalesce(
      string_agg(
        format(
          '{%s%s"events":%s,"llm_calls":%s,"total_tokens":%s,"input_tokens":%s,'
          '"cache_read_tokens":%s,"cache_write_tokens":%s,"output_tokens":%s,"reasoning_tokens":%s,'
          '"input_audio_tokens":%s,"output_audio_tokens":%s,"cache_read_audio_tokens":%s,'
          '"characters":%s,"tts_audio_seconds":"%s","stt_audio_seconds":"%s","call_seconds":"%s",'
          '"estimated_events":%s,"unpriced_events":%s,"interrupted_events":%s,"failed_events":%s,'
          '"input_cost_usd":"%s","cache_read_cost_usd":"%s","cache_write_cost_usd":"%s",'
          '"output_cost_usd":"%s","audio_input_cost_usd":"%s","audio_output_cost_usd":"%s",'
          '"tts_cost_usd":"%s","stt_cost_usd":"%s","call_cost_usd":"%s",'
          '"total_cost_usd":%s,"billable_cost_usd":%s}',
          case when r.api_key_id is not null then flow.key_label(r.api_key_id) end,
          concat(
            '"team_id":' || to_json(r.team_id) || ',',
            '"day":"' || r.day || '",',
            '"product":' || to_json(r.product) || ',',
            '"kind":' || to_json(r.kind) || ',',
            '"source":' || to_json(r.source) || ',',
            '"provider":' || to_json(r.provider) || ',',
            '"model":' || to_json(r.model) || ','
          ),
          r.events, r.llm_calls, r.total_tokens, r.input_tokens,
          r.cache_read_tokens, r.cache_write_tokens, r.output_tokens, r.reasoning_tokens,
          r.input_audio_tokens, r.output_audio_tokens, r.cache_read_audio_tokens,
          r.characters, trim_scale(r.tts_seconds), trim_scale(r.stt_seconds),
          trim_scale(r.call_seconds),
          r.estimated_events, r.unpriced_events, r.interrupted_events, r.failed_events,
          trim_scale(r.input_cost_usd), trim_scale(r.cache_read_cost_usd),
          trim_scale(r.cache_write_cost_usd), trim_scale(r.output_cost_usd),
          trim_scale(r.audio_input_cost_usd), trim_scale(r.audio_output_cost_usd),
          trim_scale(r.tts_cost_usd), trim_scale(r.stt_cost_usd), trim_scale(r.call_cost_usd),
          case when r.unpriced_events < r.events
            then '"' || trim_scale(r.total_cost_usd) || '"' else 'null' end,
          case when r.unpriced_events < r.events
            then '"' || trim_scale(r.billable_cost_usd) || '"' else 'null' end
        ),
        ',' order by r.team_id, r.api_key_id, r.day, r.product, r.kind, r.source, r.provider, r.model
      ),
      ''
    ) || ']'
    from (
      -- What is not grouped by is null, and left out of the rows.
      select
        case when p_group_by ? 'team' then d.team_id end as team_id,
        case when p_group_by ? 'key' then d.api_key_id end as api_key_id,
        case when p_group_by ? 'day' then d.day end as day,
        case when p_group_by ? 'product' then d.product end as product,
        case when p_group_by ? 'kind' then d.kind end as kind,
        case when p_group_by ? 'source' then d.source end as source,
        case when p_group_by ? 'provider' then d.provider end as provider,
        case when p_group_by ? 'model' then d.model end as model,
        sum(d.events) as events,
        coalesce(sum(d.events) filter (where d.kind = 'llm'), 0) as llm_calls,
        sum(
          d.input_tokens + d.cache_read_tokens + d.cache_write_tokens + d.output_tokens
        ) as total_tokens,
        sum(d.input_tokens) as input_tokens,
        sum(d.cache_read_tokens) as cache_read_tokens,
        sum(d.cache_write_tokens) as cache_write_tokens,
        sum(d.output_tokens) as output_tokens,
        sum(d.reasoning_tokens) as reasoning_tokens,
        sum(d.input_audio_tokens) as input_audio_tokens,
        sum(d.output_audio_tokens) as output_audio_tokens,
        sum(d.cache_read_audio_tokens) as cache_read_audio_tokens,
        sum(d.characters) as characters,
        coalesce(sum(d.audio_seconds) filter (where d.kind = 'tts'), 0) as tts_seconds,
        coalesce(sum(d.audio_seconds) filter (where d.kind = 'stt'), 0) as stt_seconds,
        coalesce(sum(d.audio_seconds) filter (where d.kind = 'call'), 0) as call_seconds,
        sum(d.estimated_events) as estimated_events,
        sum(d.unpriced_events) as unpriced_events,
        sum(d.interrupted_events) as interrupted_events,
        sum(d.failed_events) as failed_events,
        sum(d.input_cost_usd) as input_cost_usd,
        sum(d.cache_read_cost_usd) as cache_read_cost_usd,
        sum(d.cache_write_cost_usd) as cache_write_cost_usd,
        sum(d.output_cost_usd) as output_cost_usd,
        sum(d.audio_input_cost_usd) as audio_input_cost_usd,
        sum(d.audio_output_cost_usd) as audio_output_cost_usd,
        sum(d.tts_cost_usd) as tts_cost_usd,
        sum(d.stt_cost_usd) as stt_cost_usd,
        sum(d.call_cost_usd) as call_cost_usd,
        sum(d.total_cost_usd) as total_cost_usd,
        coalesce(sum(d.total_cost_usd) filter (where d.billable), 0) as billable_cost_usd
      from public.usage_daily d
      where d.api_key_id = any (p_keys) and d.day between p_from and p_to
        and (p_team_id is null or d.team_id = p_team_id)
      group by 1, 2, 3, 4, 5, 6, 7, 8
    ) r
  )::json;
end
$$;

create function public.get_usage_stats_by_api_key_id(
  p_api_key_id uuid, p_from date, p_to date, p_group_by jsonb default '[]'
) returns json
language plpgsql stable
set search_path = ''
as $$
begin
  if jsonb_typeof(p_group_by) <> 'array'
    or not p_group_by <@ '["day", "model", "provider", "product", "kind", "source"]' then
    raise exception 'group_by may name day, model, provider, product, kind and source, not %.',
      p_group_by using errcode = 'PT422';
  end if;
  return flow.usage_report(array[p_api_key_id], null, p_from, p_to, p_group_by);
end
$$;

create function public.get_usage_report(
  p_from date,
  p_to date,
  p_group_by jsonb default '[]',
  p_api_key_id uuid default null,
  p_team_id text default null
) returns json
language plpgsql stable
set search_path = ''
as $$
begin
  if jsonb_typeof(p_group_by) <> 'array' or not p_group_by
    <@ '["day", "model", "provider", "product", "kind", "source", "key", "team"]' then
    raise exception 'group_by may name key, team, day, model, provider, product, kind and source, not %.',
      p_group_by using errcode = 'PT422';
  end if;
  return flow.usage_report(
    array(select k.id from public.api_keys k where p_api_key_id is null or k.id = p_api_key_id),
    p_team_id, p_from, p_to, p_group_by
  );
end
$$;

-- What nearly every function of threads returns. Without settings of their own the planner writes the
-- next two into whoever calls them; their bodies are bound when they are made.
create or replace function flow.zero_usage_stats(p_thread_id uuid) returns jsonb
language sql immutable
return '{
  "total_tokens": 0, "total_cost_usd": 0, "llm_calls": 0, "models_used": {},
  "tts": {"characters": 0, "audio_seconds": 0, "cost_usd": 0},
  "stt": {"audio_seconds": 0, "cost_usd": 0},
  "call_seconds": 0,
  "cost_breakdown_usd": {
    "llm_input": 0, "llm_cache_read": 0, "llm_cache_write": 0, "llm_output": 0, "llm_audio": 0,
    "tts": 0, "stt": 0, "call": 0
  },
  "estimated_events": 0, "unpriced_events": 0,
  "interrupted_generations": 0, "failed_generations": 0,
  "billable_cost_usd": 0
}'::jsonb || jsonb_build_object('posthog_trace_id', p_thread_id);

create or replace function flow.thread_json(
  p_thread public.workflow_threads, p_transcript jsonb default '[]'
) returns jsonb
language sql stable
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

create or replace function flow.transcript(p_thread_id uuid) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
  return (
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
  );
end
$$;

select flow.restrict_to_service_role(
  array[]::text[], array['get_usage_report', 'get_usage_stats_by_api_key_id']
);
