-- What an operator sets and sees.

create function flow.key_account(p_key public.api_keys, p_now timestamptz) returns jsonb
language sql stable
set search_path = ''
as $$
  select jsonb_build_object(
    'id', (p_key).id,
    'unkey_key_id', (p_key).unkey_key_id,
    'team_id', (p_key).team_id,
    'name', (p_key).name,
    'created_at', (p_key).created_at,
    'revoked_at', (p_key).revoked_at,
    'save_mode', (p_key).save_mode,
    'override_until', case when (p_key).budget_override_until > p_now
      then (p_key).budget_override_until end,
    'budget', flow.budget_json(s, coalesce((p_key).budget_override_until > p_now, false)),
    'running_calls', (
      select count(*) from public.workflow_threads t
      where t.api_key_id = (p_key).id and t.lease_until > p_now
        and t.status in ('created', 'connecting', 'in_call')
    )
  )
  from flow.key_limits(p_key, '{}', p_now) s
$$;

create function public.list_api_keys(p_team_id text default null) returns jsonb
language sql stable
set search_path = ''
as $$
  select coalesce(
    jsonb_agg(flow.key_account(k, now()) order by k.team_id, k.created_at, k.id), '[]'
  )
  from public.api_keys k where p_team_id is null or k.team_id = p_team_id
$$;

create function public.get_api_key(p_reference text) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_keys public.api_keys[] := array(
    select k from public.api_keys k
    where k.unkey_key_id = p_reference or k.id::text = lower(p_reference)
  );
begin
  if cardinality(v_keys) = 0 then
    v_keys := array(select k from public.api_keys k where k.name = p_reference);
  end if;
  if cardinality(v_keys) = 0 then
    raise exception 'There is no API key %.', p_reference using errcode = 'PT404';
  end if;
  if cardinality(v_keys) > 1 then
    raise exception '% keys are named %: give the id of one of them.', cardinality(v_keys), p_reference
      using errcode = 'PT409', detail = 'ambiguous';
  end if;
  return flow.key_account(v_keys[1], now());
end
$$;

-- The account of a key that an update has just returned; null where it found none.
create function flow.changed_key(p_key public.api_keys, p_api_key_id uuid) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
  if p_key.id is null then
    raise exception 'There is no API key %.', p_api_key_id using errcode = 'PT404';
  end if;
  return flow.key_account(p_key, now());
end
$$;

create function public.set_budget(p_api_key_id uuid, p_cap_usd numeric) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_key public.api_keys;
begin
  -- Waits for usage that is being recorded: it may reach the new cap.
  perform from public.api_keys k where k.id = p_api_key_id for update;
  update public.api_keys k set budget_usd = p_cap_usd, updated_at = now()
  where k.id = p_api_key_id returning * into v_key;
  perform flow.note_budget(v_key, flow.month_of(now()), null);
  return flow.changed_key(v_key, p_api_key_id);
end
$$;

create function public.set_budget_override(p_api_key_id uuid, p_until timestamptz) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_key public.api_keys;
begin
  update public.api_keys k set budget_override_until = p_until, updated_at = now()
  where k.id = p_api_key_id returning * into v_key;
  return flow.changed_key(v_key, p_api_key_id);
end
$$;

create function public.set_save_mode(p_api_key_id uuid, p_save_mode text) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_key public.api_keys;
begin
  update public.api_keys k set save_mode = p_save_mode, updated_at = now()
  where k.id = p_api_key_id returning * into v_key;
  return flow.changed_key(v_key, p_api_key_id);
end
$$;

create function public.revoke_api_key(p_api_key_id uuid) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_key public.api_keys;
begin
  update public.api_keys k
  set revoked_at = coalesce(k.revoked_at, now()), updated_at = now()
  where k.id = p_api_key_id returning * into v_key;
  return flow.changed_key(v_key, p_api_key_id);
end
$$;

create function public.set_team_quota(p_team_id text, p_resource text, p_quota numeric) returns jsonb
language plpgsql
set search_path = ''
as $$
begin
  if p_quota is null then
    delete from public.team_quotas q where q.team_id = p_team_id and q.resource = p_resource;
  else
    insert into public.team_quotas (team_id, resource, quota)
    values (p_team_id, p_resource, p_quota)
    on conflict (team_id, resource) do update set quota = excluded.quota, updated_at = now();
  end if;
  return jsonb_build_object('team_id', p_team_id, 'resource', p_resource, 'limit', p_quota::text);
end
$$;

-- p_buckets as in team_limits: what counts against which credits.
create function public.list_team_quotas(p_team_id text default null, p_buckets jsonb default '{}')
returns jsonb
language sql stable
set search_path = ''
as $$
  select coalesce(
    jsonb_agg(
      flow.limit_json(s) || jsonb_build_object('team_id', t.team_id)
      order by t.team_id, s.resource
    ),
    '[]'
  )
  from (
    select distinct q.team_id from public.team_quotas q where p_team_id is null or q.team_id = p_team_id
  ) t
  cross join lateral flow.team_limits(
    t.team_id, jsonb_build_object('buckets', p_buckets), now()
  ) s
  where s.quota is not null
$$;

drop function public.get_usage_stats_by_api_key_id(uuid, date, date, jsonb);

create function flow.usage_report(
  p_keys uuid[], p_team_id text, p_from date, p_to date, p_group_by jsonb
) returns jsonb
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_known constant jsonb := '["day", "model", "provider", "product", "kind", "source", "key", "team"]';
  v_left_out text[];
begin
  if p_from > p_to then
    raise exception 'from (%) is after to (%).', p_from, p_to using errcode = 'PT422';
  end if;
  v_left_out := array(
    select unnest(case k when 'key' then array['api_key_id', 'key_name'] when 'team' then
      array['team_id'] else array[k] end)
    from jsonb_array_elements_text(v_known) k where not p_group_by ? k
  );
  return (
    select coalesce(
      jsonb_agg(
        (
          to_jsonb(r)
          || jsonb_build_object(
            'key_name', (select k.name from public.api_keys k where k.id = r.api_key_id)
          )
        ) - v_left_out
        order by r.team_id, r.api_key_id, r.day, r.product, r.kind, r.source, r.provider, r.model
      ),
      '[]'
    )
    from (
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
      where d.api_key_id = any (p_keys) and d.day between p_from and p_to
        and (p_team_id is null or d.team_id = p_team_id)
      group by 1, 2, 3, 4, 5, 6, 7, 8
    ) r
  );
end
$$;

create function public.get_usage_stats_by_api_key_id(
  p_api_key_id uuid, p_from date, p_to date, p_group_by jsonb default '[]'
) returns jsonb
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
) returns jsonb
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

select flow.restrict_to_service_role(array[]::text[], array[
  'list_api_keys', 'get_api_key', 'set_budget', 'set_budget_override', 'set_save_mode',
  'revoke_api_key', 'set_team_quota', 'list_team_quotas', 'get_usage_report',
  'get_usage_stats_by_api_key_id'
]);
