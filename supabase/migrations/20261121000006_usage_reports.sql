-- Reading the ledger. Money and seconds leave as strings: JSON parsers make floats of numbers.

create function flow.cost_json(p_event public.usage_events) returns jsonb
language sql stable
set search_path = ''
return case when (p_event).total_cost_usd is not null then jsonb_build_object(
  'input', trim_scale((p_event).input_cost_usd)::text,
  'cache_read', trim_scale((p_event).cache_read_cost_usd)::text,
  'cache_write', trim_scale((p_event).cache_write_cost_usd)::text,
  'output', trim_scale((p_event).output_cost_usd)::text,
  'audio_input', trim_scale((p_event).audio_input_cost_usd)::text,
  'audio_output', trim_scale((p_event).audio_output_cost_usd)::text,
  'tts', trim_scale((p_event).tts_cost_usd)::text,
  'stt', trim_scale((p_event).stt_cost_usd)::text,
  'call', trim_scale((p_event).call_cost_usd)::text
) end;

create function flow.event_json(p_event public.usage_events) returns jsonb
language sql stable
set search_path = ''
return (
  to_jsonb(p_event) - array[
    'input_cost_usd', 'cache_read_cost_usd', 'cache_write_cost_usd', 'output_cost_usd',
    'audio_input_cost_usd', 'audio_output_cost_usd', 'tts_cost_usd', 'stt_cost_usd',
    'call_cost_usd', 'failure_type', 'failure_message', 'failure_http_status'
  ]
) || jsonb_build_object(
  'audio_seconds', trim_scale((p_event).audio_seconds)::text,
  'cost', flow.cost_json(p_event),
  'total_cost_usd', trim_scale((p_event).total_cost_usd)::text,
  'failure', case when (p_event).failure_type is not null then jsonb_build_object(
    'type', (p_event).failure_type,
    'message', (p_event).failure_message,
    'http_status', (p_event).failure_http_status
  ) end
);

create function public.get_thread_usage(p_thread_id uuid, p_api_key_id uuid default null)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
  if not exists (
    select from public.workflow_threads t
    where t.id = p_thread_id and (p_api_key_id is null or t.api_key_id = p_api_key_id)
  ) then
    perform flow.refuse_missing_thread(p_thread_id);
  end if;
  return (
    select coalesce(jsonb_agg(flow.event_json(e) order by e.occurred_at, e.id), '[]')
    from public.usage_events e where e.workflow_thread_id = p_thread_id
  );
end
$$;

create function public.get_usage_stats_by_api_key_id(
  p_api_key_id uuid, p_from date, p_to date, p_group_by jsonb default '[]'
) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_known constant jsonb := '["day", "model", "provider", "product", "kind", "source"]';
  v_left_out text[];
begin
  if jsonb_typeof(p_group_by) <> 'array' or not p_group_by <@ v_known then
    raise exception 'group_by may name day, model, provider, product, kind and source, not %.',
      p_group_by using errcode = 'PT422';
  end if;
  if p_from > p_to then
    raise exception 'from (%) is after to (%).', p_from, p_to using errcode = 'PT422';
  end if;
  v_left_out := array(
    select k from jsonb_array_elements_text(v_known) k where not p_group_by ? k
  );
  return (
    select coalesce(
      jsonb_agg(
        to_jsonb(r) - v_left_out
        order by r.day, r.product, r.kind, r.source, r.provider, r.model
      ),
      '[]'
    )
    from (
      select
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
        trim_scale(coalesce(sum(d.audio_seconds) filter (where d.kind = 'tts'), 0))::text
          as tts_audio_seconds,
        trim_scale(coalesce(sum(d.audio_seconds) filter (where d.kind = 'stt'), 0))::text
          as stt_audio_seconds,
        trim_scale(coalesce(sum(d.audio_seconds) filter (where d.kind = 'call'), 0))::text
          as call_seconds,
        sum(d.estimated_events) as estimated_events,
        sum(d.unpriced_events) as unpriced_events,
        sum(d.interrupted_events) as interrupted_events,
        sum(d.failed_events) as failed_events,
        trim_scale(sum(d.input_cost_usd))::text as input_cost_usd,
        trim_scale(sum(d.cache_read_cost_usd))::text as cache_read_cost_usd,
        trim_scale(sum(d.cache_write_cost_usd))::text as cache_write_cost_usd,
        trim_scale(sum(d.output_cost_usd))::text as output_cost_usd,
        trim_scale(sum(d.audio_input_cost_usd))::text as audio_input_cost_usd,
        trim_scale(sum(d.audio_output_cost_usd))::text as audio_output_cost_usd,
        trim_scale(sum(d.tts_cost_usd))::text as tts_cost_usd,
        trim_scale(sum(d.stt_cost_usd))::text as stt_cost_usd,
        trim_scale(sum(d.call_cost_usd))::text as call_cost_usd,
        case when sum(d.unpriced_events) < sum(d.events)
          then trim_scale(sum(d.total_cost_usd))::text
        end as total_cost_usd,
        case when sum(d.unpriced_events) < sum(d.events)
          then trim_scale(coalesce(sum(d.total_cost_usd) filter (where d.billable), 0))::text
        end as billable_cost_usd
      from public.usage_daily d
      where d.api_key_id = p_api_key_id and d.day between p_from and p_to
      group by 1, 2, 3, 4, 5, 6
    ) r
  );
end
$$;

select flow.restrict_to_service_role(
  array[]::text[], array['get_thread_usage', 'get_usage_stats_by_api_key_id']
);
