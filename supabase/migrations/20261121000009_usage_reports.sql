-- Usage by day, model, key and what else there is to group by. Reports are written as text at once, and
-- by a plan that is kept: making jsonb of their rows would take most of the time.

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
    with days as materialized (
      -- What is not grouped by is null, and left out of the rows.
      select
        g.*, dense_rank() over (
          order by g.team_id, g.api_key_id, g.day, g.product, g.kind, g.source, g.provider, g.model
        ) as place
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
          d.id, d.kind as work, d.billable, d.events, d.total_tokens, d.estimated_events,
          d.unpriced_events, d.unmetered_events, d.interrupted_events, d.failed_events,
          d.total_cost_usd
        from public.usage_daily d
        where d.api_key_id = any (p_keys) and d.day between p_from and p_to
          and (p_team_id is null or d.team_id = p_team_id)
      ) g
    ), units as materialized (
      select
        s.place,
        string_agg(
          format(
            '{"kind":"%s","unit":"%s","component":"%s","part_of":%s,"quantity":"%s","cost_usd":%s}',
            s.work, s.unit, s.component, coalesce('"' || s.part_of || '"', 'null'),
            trim_scale(s.quantity), coalesce('"' || trim_scale(s.cost_usd) || '"', 'null')
          ),
          ',' order by s.work, s.unit
        ) as lines
      from (
        select
          d.place, d.work, l.unit, max(l.component) as component, max(l.part_of) as part_of,
          sum(l.quantity) as quantity, sum(l.cost_usd) as cost_usd
        from days d join public.usage_daily_lines l on l.usage_daily_id = d.id
        group by d.place, d.work, l.unit
      ) s
      group by s.place
    )
    select '[' || coalesce(
      string_agg(
        format(
          '{%s%s"events":%s,"llm_calls":%s,"total_tokens":%s,"estimated_events":%s,'
          '"unpriced_events":%s,"unmetered_events":%s,"interrupted_events":%s,"failed_events":%s,'
          '"total_cost_usd":%s,"billable_cost_usd":%s,"lines":[%s]}',
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
          r.events, r.llm_calls, r.total_tokens, r.estimated_events, r.unpriced_events,
          r.unmetered_events, r.interrupted_events, r.failed_events,
          case when r.unpriced_events < r.events
            then '"' || trim_scale(r.total_cost_usd) || '"' else 'null' end,
          case when r.unpriced_events < r.events
            then '"' || trim_scale(r.billable_cost_usd) || '"' else 'null' end,
          u.lines
        ),
        ',' order by r.place
      ),
      ''
    ) || ']'
    from (
      select
        d.place, d.team_id, d.api_key_id, d.day, d.product, d.kind, d.source, d.provider, d.model,
        sum(d.events) as events,
        coalesce(sum(d.events) filter (where d.work = 'llm'), 0) as llm_calls,
        sum(d.total_tokens) as total_tokens,
        sum(d.estimated_events) as estimated_events,
        sum(d.unpriced_events) as unpriced_events,
        sum(d.unmetered_events) as unmetered_events,
        sum(d.interrupted_events) as interrupted_events,
        sum(d.failed_events) as failed_events,
        sum(d.total_cost_usd) as total_cost_usd,
        coalesce(sum(d.total_cost_usd) filter (where d.billable), 0) as billable_cost_usd
      from days d
      group by
        d.place, d.team_id, d.api_key_id, d.day, d.product, d.kind, d.source, d.provider, d.model
    ) r
    left join units u on u.place = r.place
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

select flow.restrict_to_service_role(
  array[]::text[], array['get_usage_stats_by_api_key_id', 'get_usage_report']
);
