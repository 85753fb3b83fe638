-- What is summed from the ledger: each thread's account, its key's days and months. What a batch adds
-- is summed once, into parts, and threads, days and months are moved by those.

create type flow.usage_line as (
  unit text,
  component text,
  part_of text,
  quantity numeric,
  cost_usd numeric
);

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
  total_tokens bigint,
  call_seconds numeric,
  estimated_events bigint,
  unpriced_events bigint,
  unmetered_events bigint,
  interrupted_events bigint,
  failed_events bigint,
  total_cost_usd numeric,
  last_paid_at timestamptz,
  lines flow.usage_line[]
);
comment on type flow.usage_part is
  'Ledger rows of one thread, or of none, that are alike in all that anything is summed by, with the '
  'sums of their lines. The cost is null where all of them are unpriced; last_paid_at is when the '
  'latest that cost something occurred.';

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
      s.workflow_thread_id, s.api_key_id, s.day, s.team_id, s.product, s.billable, s.kind, s.source,
      s.provider, s.model, sum(s.events),
      coalesce(
        sum(s.quantity) filter (where right(s.unit, 7) = '_tokens' and s.part_of is null), 0
      ),
      sum(s.quantity) filter (where s.kind = 'call' and s.unit = 'call_seconds'),
      sum(s.estimated), sum(s.unpriced), sum(s.unmetered), sum(s.interrupted), sum(s.failed),
      sum(s.total_cost_usd), max(s.last_paid_at),
      array_agg(
        row(s.unit, s.component, s.part_of, s.quantity, s.cost_usd)::flow.usage_line
      ) filter (where s.unit is not null)
    )::flow.usage_part
    from (
      -- A row a unit; what is of an event as a whole is counted on its first line.
      select
        e.workflow_thread_id, e.api_key_id, (e.occurred_at at time zone 'UTC')::date as day,
        e.team_id, e.product, e.billable, e.kind, e.source, e.provider, e.model,
        l.unit, l.component, l.part_of,
        sum(l.quantity) as quantity,
        sum(l.cost_usd) as cost_usd,
        count(*) filter (where f.is_first) as events,
        count(*) filter (where f.is_first and e.provenance = 'estimated') as estimated,
        count(*) filter (where f.is_first and e.total_cost_usd is null) as unpriced,
        count(*) filter (where f.is_first and e.provenance = 'unmetered') as unmetered,
        count(*) filter (where f.is_first and e.outcome = 'interrupted') as interrupted,
        count(*) filter (where f.is_first and e.outcome = 'error') as failed,
        sum(e.total_cost_usd) filter (where f.is_first) as total_cost_usd,
        max(e.occurred_at) filter (where e.total_cost_usd > 0) as last_paid_at
      from public.usage_events e
      left join lateral rows from (
        jsonb_to_recordset(e.lines) as (
          unit text, quantity numeric, cost_usd numeric, component text, part_of text
        )
      ) with ordinality as l (unit, quantity, cost_usd, component, part_of, place) on true
      cross join lateral (select coalesce(l.place = 1, true) as is_first) f
      where e.id = any (p_ids)
      group by
        e.workflow_thread_id, e.api_key_id, (e.occurred_at at time zone 'UTC')::date, e.team_id,
        e.product, e.billable, e.kind, e.source, e.provider, e.model, l.unit, l.component, l.part_of
    ) s
    group by
      s.workflow_thread_id, s.api_key_id, s.day, s.team_id, s.product, s.billable, s.kind, s.source,
      s.provider, s.model
  );
end
$$;

-- The account of a thread ------------------------------------------------------------------------

-- What an account always has; whatever else is used is added to it.
create function flow.zero_usage_stats(p_thread_id uuid) returns jsonb
language sql stable
return '{
  "total_tokens": 0, "total_cost_usd": 0, "llm_calls": 0, "models_used": {},
  "tts": {"characters": 0, "audio_seconds": 0, "cost_usd": 0},
  "stt": {"audio_seconds": 0, "cost_usd": 0},
  "call_seconds": 0,
  "cost_breakdown_usd": {
    "llm_input": 0, "llm_cache_read": 0, "llm_cache_write": 0, "llm_output": 0, "llm_audio": 0,
    "tts": 0, "stt": 0, "call": 0
  },
  "estimated_events": 0, "unpriced_events": 0, "unmetered": [],
  "interrupted_generations": 0, "failed_generations": 0,
  "billable_cost_usd": 0
}'::jsonb || jsonb_build_object('posthog_trace_id', p_thread_id);

create function flow.zero_model() returns jsonb
language sql immutable
return '{
  "llm_calls": 0, "input_tokens": 0, "cache_read_tokens": 0, "cache_write_tokens": 0,
  "output_tokens": 0, "reasoning_tokens": 0, "cost_usd": 0
}'::jsonb;

create function flow.plus(p_stats jsonb, p_name text, p_more numeric) returns numeric
language sql immutable
return trim_scale(coalesce((p_stats -> p_name)::numeric, 0) + coalesce(p_more, 0));

create function flow.stats_with(p_parts flow.usage_part[], p_base jsonb default null)
returns table (thread_id uuid, usage_stats jsonb)
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
-- Everything is put together by hashing, whoever calls this.
set enable_hashjoin = on
set enable_nestloop = off
set enable_mergejoin = off
set enable_sort = off
as $$
begin
  return query
  with parts as materialized (
    select
      p.*,
      case when p.kind = 'llm' then 'models_used' else p.kind end as section,
      case when p.kind = 'llm' then p.provider || '/' || p.model end as model_name
    from unnest(p_parts) p
    where p.workflow_thread_id is not null
  ), sums as materialized (
    select
      p.workflow_thread_id as id,
      sum(p.total_tokens) as total_tokens,
      sum(p.total_cost_usd) as total_cost_usd,
      sum(p.total_cost_usd) filter (where p.billable) as billable_cost_usd,
      sum(p.call_seconds) as call_seconds,
      sum(p.events) filter (where p.kind = 'llm') as llm_calls,
      sum(p.estimated_events) as estimated,
      sum(p.unpriced_events) as unpriced,
      sum(p.interrupted_events) filter (where p.kind = 'llm') as interrupted,
      sum(p.failed_events) filter (where p.kind = 'llm') as failed,
      jsonb_agg(p.kind || ' ' || p.provider || '/' || p.model)
        filter (where p.unmetered_events > 0) as unmetered
    from parts p
    group by p.workflow_thread_id
  ), threads as materialized (
    select s.*, coalesce(p_base, t.usage_stats) as old
    from sums s
    join public.workflow_threads t on t.id = s.id
      and t.id = any (array(select m.id from sums m))
  ), amounts as materialized (
    -- What there is besides the sums: a section of the account, which may be of a model, a name in it
    -- and how much is to be added.
    select p.workflow_thread_id as id, a.section, a.model_name, a.name, sum(a.amount) as amount
    from parts p
    cross join lateral (
      select p.section, p.model_name, l.unit, l.quantity from unnest(p.lines) l
      union all
      select 'cost_breakdown_usd', null, l.component, l.cost_usd from unnest(p.lines) l
      union all
      select p.section, p.model_name, 'cost_usd', p.total_cost_usd
      union all
      select p.section, p.model_name, 'llm_calls', p.events where p.kind = 'llm'
    ) a (section, model_name, name, amount)
    where a.section <> 'call'
    group by p.workflow_thread_id, a.section, a.model_name, a.name
  ), sections as materialized (
    select
      a.id,
      a.section,
      a.model_name,
      (array_agg(a.old))[1] || (
        '{' || string_agg('"' || a.name || '":' || flow.plus(a.old, a.name, a.amount), ',') || '}'
      )::jsonb as new
    from (
      select
        m.*,
        case
          when m.model_name is null then coalesce(t.old -> m.section, '{}')
          else coalesce(t.old -> m.section -> m.model_name, flow.zero_model())
        end as old
      from amounts m join threads t on t.id = m.id
      offset 0  -- so that what is old is looked up once
    ) a
    group by a.id, a.section, a.model_name
  ), added as materialized (
    select
      s.id,
      jsonb_object_agg(s.model_name, s.new) filter (where s.model_name is not null) as models,
      jsonb_object_agg(s.section, s.new) filter (where s.model_name is null) as others
    from sections s
    group by s.id
  )
  select
    t.id,
    t.old || (coalesce(a.others, '{}') || jsonb_build_object(
      'total_tokens', flow.plus(t.old, 'total_tokens', t.total_tokens),
      'total_cost_usd', flow.plus(t.old, 'total_cost_usd', t.total_cost_usd),
      'llm_calls', flow.plus(t.old, 'llm_calls', t.llm_calls),
      'models_used', (t.old -> 'models_used') || coalesce(a.models, '{}'),
      'call_seconds', flow.plus(t.old, 'call_seconds', t.call_seconds),
      'estimated_events', flow.plus(t.old, 'estimated_events', t.estimated),
      'unpriced_events', flow.plus(t.old, 'unpriced_events', t.unpriced),
      'unmetered', case
        when t.unmetered is null then t.old -> 'unmetered'
        else (
          select jsonb_agg(distinct u.service order by u.service)
          from (
            select jsonb_array_elements_text((t.old -> 'unmetered') || t.unmetered) collate "C"
          ) u (service)
        )
      end,
      'interrupted_generations', flow.plus(t.old, 'interrupted_generations', t.interrupted),
      'failed_generations', flow.plus(t.old, 'failed_generations', t.failed),
      'billable_cost_usd', flow.plus(t.old, 'billable_cost_usd', t.billable_cost_usd)
    ))
  from threads t
  left join added a on a.id = t.id;
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

create function flow.settled_usage_stats(p_thread_id uuid) returns jsonb
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

create function public.finish_thread(p_thread_id uuid, p_status text, p_error jsonb default null)
returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
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
  return flow.whole_thread_json(v_thread);
end
$$;

create function public.end_thread(p_thread_id uuid, p_api_key_id uuid default null) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_thread public.workflow_threads;
begin
  -- Whoever connects waits for this or was before it: a thread is never both.
  select * into v_thread from public.workflow_threads t
  where t.id = p_thread_id and (p_api_key_id is null or t.api_key_id = p_api_key_id)
  for no key update;
  if not found then
    perform flow.refuse_missing_thread(p_thread_id);
  end if;
  if v_thread.status = 'created' then
    return public.finish_thread(p_thread_id, 'cancelled');
  end if;
  if v_thread.status in ('connecting', 'in_call') then
    update public.workflow_threads t set end_requested_at = coalesce(t.end_requested_at, now())
    where t.id = p_thread_id
    returning * into v_thread;
  end if;
  return flow.whole_thread_json(v_thread);
end
$$;
comment on function public.end_thread is
  'Cancels a thread that nobody has connected to, else asks whoever runs it to end it. What is over '
  'stays as it is. Gives the thread.';

create view public.workflow_thread_usage with (security_invoker = true) as
select
  t.id as workflow_thread_id,
  t.api_key_id,
  t.team_id,
  t.product,
  t.billable,
  t.status,
  (t.usage_stats ->> 'total_tokens')::bigint as total_tokens,
  (t.usage_stats ->> 'total_cost_usd')::numeric as total_cost_usd,
  (t.usage_stats ->> 'llm_calls')::bigint as llm_calls,
  t.created_at
from public.workflow_threads t;
comment on view public.workflow_thread_usage is 'The head of each usage_stats as columns.';

-- Days and months --------------------------------------------------------------------------------

create table public.usage_daily (
  id bigint generated always as identity primary key,
  api_key_id uuid not null references public.api_keys (id) on delete cascade,
  day date not null,
  team_id text collate "C" not null,
  product text collate "C" not null,
  billable boolean not null,
  kind text collate "C" not null,
  source text collate "C" not null,
  provider text collate "C" not null,
  model text collate "C" not null,
  events bigint not null,
  total_tokens bigint not null,
  estimated_events bigint not null,
  unpriced_events bigint not null,
  unmetered_events bigint not null,
  interrupted_events bigint not null,
  failed_events bigint not null,
  total_cost_usd numeric not null,
  unique (api_key_id, day, team_id, product, billable, kind, source, provider, model)
) with (fillfactor = 70);
comment on table public.usage_daily is
  'The ledger summed by key and UTC day of occurred_at. Unpriced events, of which unmetered ones are '
  'some, add nothing to the cost.';

create index usage_daily_unpriced on public.usage_daily (day) where unpriced_events > 0;

create table public.usage_daily_lines (
  usage_daily_id bigint not null references public.usage_daily (id) on delete cascade,
  unit text collate "C" not null,
  component text collate "C" not null,
  part_of text collate "C",
  quantity numeric not null,
  cost_usd numeric,
  primary key (usage_daily_id, unit)
) with (fillfactor = 70);
comment on table public.usage_daily_lines is
  'The lines of a row of usage_daily, summed by unit. The cost is null where nothing was charged by it.';

create table public.usage_monthly (
  api_key_id uuid not null references public.api_keys (id) on delete cascade,
  month date not null,
  team_id text collate "C" not null,
  product text collate "C" not null,
  total_cost_usd numeric not null,
  billable_cost_usd numeric not null,
  call_seconds numeric not null,
  primary key (api_key_id, month, team_id, product)
) with (fillfactor = 70);
comment on table public.usage_monthly is
  'The ledger summed by key and UTC month of occurred_at, for budgets and quotas.';
create index usage_monthly_team on public.usage_monthly (team_id, month);

create function flow.add_to_days(p_parts flow.usage_part[]) returns void
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan
set jit = off
-- The lines find their rows by many columns.
set enable_nestloop = off
set enable_mergejoin = off
as $$
begin
  with days as (
    insert into public.usage_daily as d (
      api_key_id, day, team_id, product, billable, kind, source, provider, model,
      events, total_tokens, estimated_events, unpriced_events, unmetered_events,
      interrupted_events, failed_events, total_cost_usd
    )
    select
      p.api_key_id, p.day, p.team_id, p.product, p.billable, p.kind, p.source, p.provider, p.model,
      sum(p.events), sum(p.total_tokens), sum(p.estimated_events), sum(p.unpriced_events),
      sum(p.unmetered_events), sum(p.interrupted_events), sum(p.failed_events),
      coalesce(sum(p.total_cost_usd), 0)
    from unnest(p_parts) p
    group by 1, 2, 3, 4, 5, 6, 7, 8, 9
    -- Whoever has a row has its lines.
    order by 1, 2, 3, 4, 5, 6, 7, 8, 9
    on conflict (api_key_id, day, team_id, product, billable, kind, source, provider, model)
    do update set
      events = d.events + excluded.events,
      total_tokens = d.total_tokens + excluded.total_tokens,
      estimated_events = d.estimated_events + excluded.estimated_events,
      unpriced_events = d.unpriced_events + excluded.unpriced_events,
      unmetered_events = d.unmetered_events + excluded.unmetered_events,
      interrupted_events = d.interrupted_events + excluded.interrupted_events,
      failed_events = d.failed_events + excluded.failed_events,
      total_cost_usd = d.total_cost_usd + excluded.total_cost_usd
    returning
      d.id, d.api_key_id, d.day, d.team_id, d.product, d.billable, d.kind, d.source, d.provider,
      d.model
  )
  insert into public.usage_daily_lines as s (
    usage_daily_id, unit, component, part_of, quantity, cost_usd
  )
  select d.id, l.unit, max(l.component), max(l.part_of), sum(l.quantity), sum(l.cost_usd)
  from unnest(p_parts) p
  join days d on d.api_key_id = p.api_key_id and d.day = p.day and d.team_id = p.team_id
    and d.product = p.product and d.billable = p.billable and d.kind = p.kind
    and d.source = p.source and d.provider = p.provider and d.model = p.model
  cross join lateral unnest(p.lines) l
  group by d.id, l.unit
  on conflict (usage_daily_id, unit) do update set
    component = excluded.component,
    part_of = excluded.part_of,
    quantity = s.quantity + excluded.quantity,
    cost_usd = coalesce(s.cost_usd + excluded.cost_usd, s.cost_usd, excluded.cost_usd);
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
    coalesce(sum(p.call_seconds), 0)
  from unnest(p_parts) p
  group by 1, 2, 3, 4
  order by 1, 2, 3, 4
  on conflict (api_key_id, month, team_id, product) do update set
    total_cost_usd = m.total_cost_usd + excluded.total_cost_usd,
    billable_cost_usd = m.billable_cost_usd + excluded.billable_cost_usd,
    call_seconds = m.call_seconds + excluded.call_seconds;
end
$$;

select flow.restrict_to_service_role(
  array['usage_daily', 'usage_daily_lines', 'usage_monthly', 'workflow_thread_usage'],
  array['finish_thread', 'end_thread']
);
