-- What keys and teams may use, what running calls hold of it, and whether a call may start.

create table public.team_quotas (
  team_id text collate "C" not null check (octet_length(team_id) between 1 and 255),
  resource text collate "C" not null check (resource ~ '^[a-z][a-z0-9_]{0,63}$'),
  quota numeric not null check (quota >= 0 and quota < 1e12),
  updated_at timestamptz not null default now(),
  primary key (team_id, resource)
);
comment on table public.team_quotas is
  'What a team may use in a month (UTC): budget_usd of any cost, call_seconds, or credits (1 is a cent '
  'of billable cost) of the bucket that a product names, ai_credits as a rule; and concurrent_calls at '
  'any one time. A budget of 0 is none.';

create function flow.month_of(p_at timestamptz) returns date
language sql immutable
return date_trunc('month', p_at at time zone 'UTC')::date;

create function flow.month_end(p_at timestamptz) returns timestamptz
language sql immutable
return (date_trunc('month', p_at at time zone 'UTC') + interval '1 month') at time zone 'UTC';

create function flow.month_spent(p_api_key_id uuid, p_month date) returns numeric
language sql stable
return coalesce((
  select sum(m.total_cost_usd) from public.usage_monthly m
  where m.api_key_id = p_api_key_id and m.month = p_month
), 0);

-- Budgets ----------------------------------------------------------------------------------------

create function flow.budget_tier(p_spent numeric, p_cap numeric, p_overridden boolean) returns text
language sql immutable
return case
  when p_cap is null or p_cap <= 0 then null
  when p_overridden then 'override'
  when p_spent >= p_cap then 'exceeded'
  when p_spent >= p_cap * 0.95 then 'engage'
  when p_spent >= p_cap * 0.85 then 'warn'
  else 'ok'
end;

-- Which of two tiers rules. A budget that is lifted refuses nothing, whatever is left of it.
create function flow.tier_rank(p_tier text) returns integer
language sql immutable
return array_position(array['ok', 'override', 'warn', 'engage', 'exceeded'], p_tier);

create function flow.higher_tier(p_one text, p_other text) returns text
language sql immutable
return case
  when coalesce(flow.tier_rank(p_other), 0) > coalesce(flow.tier_rank(p_one), 0) then p_other
  else p_one
end;

create function flow.budget_event_data(
  p_api_key_id uuid, p_team_id text, p_scope text, p_month date, p_cap numeric, p_spent numeric
) returns jsonb
language sql stable
return jsonb_build_object(
  'api_key_id', p_api_key_id,
  'team_id', p_team_id,
  'scope', p_scope,
  'period', to_char(p_month, 'YYYY-MM'),
  'tier', flow.budget_tier(p_spent, p_cap, false),
  'cap_usd', trim_scale(p_cap)::text,
  'spent_usd', trim_scale(p_spent)::text,
  'resets_at', flow.month_end(p_month::timestamp at time zone 'UTC')
);

-- One event for each threshold that the month's spending has reached, however it was reached.
create function flow.note_budget(p_key public.api_keys, p_month date, p_thread_id uuid) returns void
language sql
set search_path = ''
as $$
  insert into public.webhook_events (
    type, api_key_id, team_id, workflow_thread_id, period, scope, data
  )
  select
    n.type, (p_key).id, (p_key).team_id, p_thread_id, p_month, 'key',
    flow.budget_event_data(
      (p_key).id, (p_key).team_id, 'key', p_month, (p_key).budget_usd, s.spent
    )
  from (select flow.month_spent((p_key).id, p_month) as spent) s
  cross join (values ('budget.warn', 0.85), ('budget.exceeded', 1)) as n (type, share)
  where (p_key).budget_usd > 0 and s.spent >= (p_key).budget_usd * n.share
  order by n.share
  on conflict (api_key_id, type, period, scope) where period is not null do nothing
$$;

create function flow.team_month_spent(p_team_id text, p_month date) returns numeric
language sql stable
return coalesce((
  select sum(m.total_cost_usd) from public.usage_monthly m
  where m.team_id = p_team_id and m.month = p_month
), 0);

-- The same for a team's budget. Every key of the team that has a URL of its own is told.
create function flow.note_team_budget(p_team_id text, p_month date) returns void
language sql
set search_path = ''
as $$
  insert into public.webhook_events (type, api_key_id, team_id, period, scope, data)
  select
    n.type, k.id, k.team_id, p_month, 'team',
    flow.budget_event_data(k.id, k.team_id, 'team', p_month, q.quota, s.spent)
  from public.team_quotas q
  cross join (select flow.team_month_spent(p_team_id, p_month) as spent) s
  cross join (values ('budget.warn', 0.85), ('budget.exceeded', 1)) as n (type, share)
  join public.api_keys k on k.team_id = p_team_id and k.webhook_url is not null
  where q.team_id = p_team_id and q.resource = 'budget_usd' and q.quota > 0
    and s.spent >= q.quota * n.share
  order by n.share, k.id
  on conflict (api_key_id, type, period, scope) where period is not null do nothing
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
  -- Teams are locked before keys, as joins do.
  perform from public.team_quotas q
  where q.resource = 'budget_usd' and q.team_id = any (array(
    select distinct p.team_id from unnest(p_parts) p where p.total_cost_usd > 0
  ))
  order by q.team_id
  for key share;
  if found then
    perform flow.note_team_budget(s.team_id, s.month)
    from (
      select distinct p.team_id, date_trunc('month', p.day::timestamp)::date as month
      from unnest(p_parts) p where p.total_cost_usd > 0
      order by 1, 2
    ) s;
  end if;

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
        -- The latest thread: a request without one has no URL that anybody could be told by.
        (
          array_agg(p.workflow_thread_id order by p.last_paid_at desc)
            filter (where p.workflow_thread_id is not null)
        )[1] as thread_id
      from unnest(p_parts) p
      where p.api_key_id = v_key.id and p.total_cost_usd > 0
      group by 1
      order by 1
    ) s;
  end loop;
end
$$;

-- How far a team is with its budget and quotas: the tier of the budget, or exceeded where a quota of
-- credits or seconds of calls is used up. Null where it has none of them.
create function flow.team_tier(p_team_id text, p_buckets jsonb, p_now timestamptz) returns text
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
begin
  if not exists (select from public.team_quotas q where q.team_id = p_team_id) then
    return null;
  end if;
  return (
    select t.tier
    from flow.team_limits(p_team_id, jsonb_build_object('buckets', p_buckets), p_now) s
    cross join lateral (
      select case
        when s.resource = 'concurrent_calls' then null
        when s.resource = 'budget_usd' then flow.budget_tier(s.used, s.quota, false)
        when s.used >= s.quota then 'exceeded'
      end as tier
    ) t
    order by flow.tier_rank(t.tier) desc nulls last
    limit 1
  );
end
$$;

create function flow.standing_json(
  p_thread public.workflow_threads, p_key public.api_keys, p_spent numeric, p_team_tier text
)
returns jsonb
language sql stable
return jsonb_build_object(
  'budget_tier', flow.higher_tier(
    flow.budget_tier(
      p_spent,
      (p_key).budget_usd,
      (p_thread).budget_override or coalesce((p_key).budget_override_until > now(), false)
    ),
    p_team_tier
  ),
  'save_mode', (p_key).save_mode
);

create function public.get_thread_standing(p_thread_id uuid) returns jsonb
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_standing jsonb;
begin
  select flow.standing_json(
    t, k, flow.month_spent(k.id, flow.month_of(now())), flow.team_tier(t.team_id, t.buckets, now())
  ) into v_standing
  from public.workflow_threads t join public.api_keys k on k.id = t.api_key_id
  where t.id = p_thread_id;
  if not found then
    perform flow.refuse_missing_thread(p_thread_id);
  end if;
  return v_standing;
end
$$;

-- Limits -----------------------------------------------------------------------------------------

create type flow.limit_state as (
  resource text,
  scope text,
  product text,
  used numeric,
  reserved numeric,
  quota numeric,
  resets_at timestamptz
);

-- p_terms is what the operator's products say: {"buckets": {"ai_credits": ["voice_bot"]},
-- "concurrency": {"voice_bot": 10}}. The functions are in plpgsql, which keeps plans: planning them
-- takes longer than running them. A plan made while tables were small must do when they are large.
create function flow.key_limits(p_key public.api_keys, p_terms jsonb, p_now timestamptz)
returns setof flow.limit_state
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
begin
  return query
  select
    'budget_usd', 'key', null,
    coalesce((
      select sum(m.total_cost_usd) from public.usage_monthly m
      where m.api_key_id = p_key.id and m.month = flow.month_of(p_now)
    ), 0),
    coalesce((
      select sum(greatest(t.reserved_usd - t.recorded_usd, 0)) from public.workflow_threads t
      where t.api_key_id = p_key.id and t.lease_until > p_now
        and t.status in ('created', 'connecting', 'in_call', 'ended', 'extracting')
    ), 0) + coalesce((
      select sum(l.held_usd) from public.gateway_leases l
      where l.api_key_id = p_key.id and l.heartbeat_at > p_now - flow.gateway_lease()
    ), 0),
    case when p_key.budget_usd > 0 then p_key.budget_usd end,
    flow.month_end(p_now)
  union all
  select
    'concurrent_calls', 'key', c.product,
    (
      select count(*) from public.workflow_threads t
      where t.api_key_id = p_key.id and t.lease_until > p_now
        and t.status in ('created', 'connecting', 'in_call') and t.product = c.product
    ),
    0,
    c.most::numeric,
    null
  from jsonb_each_text(coalesce(p_terms -> 'concurrency', '{}')) as c (product, most);
end
$$;

create function flow.team_limits(p_team_id text, p_terms jsonb, p_now timestamptz)
returns setof flow.limit_state
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
begin
  return query
  with quotas as materialized (
    select q.resource, q.quota from public.team_quotas q where q.team_id = p_team_id
  ), spent as materialized (
    select m.product, m.total_cost_usd, m.billable_cost_usd, m.call_seconds
    from public.usage_monthly m
    where m.team_id = p_team_id and m.month = flow.month_of(p_now)
  ), leased as materialized (
    select l.product, l.billable, l.held_usd from public.gateway_leases l
    where l.team_id = p_team_id and l.heartbeat_at > p_now - flow.gateway_lease()
  ), live as materialized (
    select
      t.product,
      t.billable,
      t.status in ('created', 'connecting', 'in_call') as is_running,
      greatest(t.reserved_usd - t.recorded_usd, 0) as held_usd,
      t.reserved_secs,
      -- The seconds of a call are recorded at its end; until then they are told from the clock.
      case
        when t.connected_at is null or t.recorded_call_secs > 0 then 0
        else greatest(extract(epoch from coalesce(t.ended_at, p_now) - t.connected_at), 0)
      end as elapsed
    from public.workflow_threads t
    where t.team_id = p_team_id and t.lease_until > p_now
      -- As the index says it, which serves this alone.
      and t.status not in ('completed', 'failed', 'expired', 'cancelled')
  )
  select
    'budget_usd', 'team', null,
    coalesce((select sum(s.total_cost_usd) from spent s), 0),
    coalesce((select sum(l.held_usd) from live l), 0)
    + coalesce((select sum(l.held_usd) from leased l), 0),
    q.quota,
    flow.month_end(p_now)
  from quotas q where q.resource = 'budget_usd' and q.quota > 0
  union all
  select
    b.name, 'team', null,
    coalesce((
      select sum(s.billable_cost_usd) * 100 from spent s where b.products ? s.product
    ), 0),
    coalesce((
      select sum(l.held_usd) * 100 from live l where l.billable and b.products ? l.product
    ), 0) + coalesce((
      select sum(l.held_usd) * 100 from leased l where l.billable and b.products ? l.product
    ), 0),
    (select q.quota from quotas q where q.resource = b.name),
    flow.month_end(p_now)
  from jsonb_each(coalesce(p_terms -> 'buckets', '{}')) as b (name, products)
  union all
  select
    'call_seconds', 'team', null,
    coalesce((select sum(s.call_seconds) from spent s), 0)
    + coalesce((select sum(l.elapsed) from live l), 0),
    coalesce((
      select sum(greatest(l.reserved_secs - l.elapsed, 0)) from live l where l.is_running
    ), 0),
    (select q.quota from quotas q where q.resource = 'call_seconds'),
    flow.month_end(p_now)
  union all
  select
    'concurrent_calls', 'team', null,
    (select count(*) from live l where l.is_running),
    0,
    (select q.quota from quotas q where q.resource = 'concurrent_calls'),
    null;
end
$$;

-- A team's budget alone, for answers that show it; no row without one.
create function flow.team_budget(p_team_id text, p_now timestamptz)
returns setof flow.limit_state
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
begin
  if exists (
    select from public.team_quotas q
    where q.team_id = p_team_id and q.resource = 'budget_usd' and q.quota > 0
  ) then
    return query select * from flow.team_limits(p_team_id, '{}', p_now) l
    where l.resource = 'budget_usd';
  end if;
end
$$;

create function flow.limit_states(
  p_key public.api_keys, p_terms jsonb, p_with_team boolean, p_now timestamptz
)
returns setof flow.limit_state
language plpgsql stable
set search_path = ''
as $$
begin
  return query select * from flow.key_limits(p_key, p_terms, p_now);
  return query select * from flow.rate_limits(p_key, p_terms, p_now);
  if p_with_team then
    return query select * from flow.team_limits(p_key.team_id, p_terms, p_now);
  end if;
end
$$;
comment on function flow.limit_states is
  'Every limit of a key and its team: what is used, what running calls hold besides, how much there is '
  '(null: no limit) and when it starts anew (null: when a call ends). The budget is the first row.';

create function flow.limit_json(p_state flow.limit_state) returns jsonb
language sql stable
return jsonb_build_object(
  'resource', (p_state).resource,
  'scope', (p_state).scope,
  'product', (p_state).product,
  'used', trim_scale((p_state).used)::text,
  'reserved', trim_scale((p_state).reserved)::text,
  'limit', trim_scale((p_state).quota)::text,
  'resets_at', (p_state).resets_at
);

create function flow.budget_json(p_state flow.limit_state, p_overridden boolean) returns jsonb
language sql stable
return jsonb_build_object(
  'tier', flow.budget_tier((p_state).used, (p_state).quota, p_overridden),
  'cap_usd', trim_scale((p_state).quota)::text,
  'spent_usd', trim_scale((p_state).used)::text,
  'reserved_usd', trim_scale((p_state).reserved)::text,
  'remaining_usd', case when (p_state).quota is not null
    then trim_scale(greatest((p_state).quota - (p_state).used, 0))::text end,
  'resets_at', (p_state).resets_at,
  'scope', (p_state).scope
);

-- Of a key's and its team's budget the one that rules: the one in the higher tier, or else the one with
-- less left. p_more is held besides; p_overridden is about the key's. Null where there is none.
create function flow.ruling_budget(
  p_states flow.limit_state[], p_overridden boolean, p_more numeric default 0
) returns jsonb
language sql stable
set search_path = ''
as $$
  select flow.budget_json(
    row(s.resource, s.scope, s.product, s.used, s.reserved + p_more, s.quota, s.resets_at),
    b.is_lifted
  )
  from unnest(p_states) s
  cross join lateral (select s.scope = 'key' and p_overridden as is_lifted) b
  where s.resource = 'budget_usd' and s.quota > 0
  order by flow.tier_rank(flow.budget_tier(s.used, s.quota, b.is_lifted)) desc, s.quota - s.used
  limit 1
$$;

-- The budget that rules a key, and how far it has got; null without one.
create function flow.budget_of(p_key public.api_keys, p_override boolean, p_now timestamptz)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_states flow.limit_state[] := array(
    select s from flow.team_budget(p_key.team_id, p_now) s
  );
begin
  if coalesce(p_key.budget_usd, 0) <= 0 and cardinality(v_states) = 0 then
    return null;
  end if;
  return flow.ruling_budget(
    array(select s from flow.key_limits(p_key, '{}', p_now) s) || v_states,
    p_override or coalesce(p_key.budget_override_until > p_now, false)
  );
end
$$;

create function public.get_budget(p_api_key_id uuid, p_now timestamptz default null) returns jsonb
language sql stable
set search_path = ''
set enable_seqscan = off
as $$
  select flow.budget_of(k, false, coalesce(p_now, now())) from public.api_keys k
  where k.id = p_api_key_id
$$;

create function public.get_limits(
  p_api_key_id uuid, p_terms jsonb default '{}', p_now timestamptz default null
) returns jsonb
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_key public.api_keys;
  v_now timestamptz := coalesce(p_now, now());
  v_states flow.limit_state[];
begin
  select * into v_key from public.api_keys k where k.id = p_api_key_id;
  if not found then
    raise exception 'There is no API key %.', p_api_key_id using errcode = 'PT404';
  end if;
  v_states := array(select s from flow.limit_states(v_key, p_terms, true, v_now) s);
  return jsonb_build_object(
    'limits', (select jsonb_agg(flow.limit_json(s)) from unnest(v_states) s),
    'save_mode', v_key.save_mode,
    'budget', flow.ruling_budget(
      v_states, coalesce(v_key.budget_override_until > v_now, false)
    )
  );
end
$$;

-- Joins ------------------------------------------------------------------------------------------

-- Whether so much more fits. Where nothing is held, whatever is left may be used: a reservation larger
-- than the limit must not keep a key with room from calling. A call itself is never a part of one.
create function flow.fits(p_state flow.limit_state, p_need numeric) returns boolean
language sql immutable
return (p_state).quota is null or (
  (p_state).used + (p_state).reserved < (p_state).quota
  and (
    ((p_state).reserved = 0 and (p_state).resource <> 'concurrent_calls')
    or (p_state).used + (p_state).reserved + p_need <= (p_state).quota
  )
);

create function flow.room(p_state flow.limit_state) returns numeric
language sql immutable
return greatest((p_state).quota - (p_state).used - (p_state).reserved, 0);

-- What a join of a product needs of a limit: null if the limit is not about it.
create function flow.need(
  p_state flow.limit_state, p_terms jsonb, p_product text, p_billable boolean,
  p_reserve_usd numeric, p_reserve_secs numeric
) returns numeric
language sql immutable
return case
  when (p_state).quota is null then null
  when (p_state).resource = 'budget_usd' then p_reserve_usd
  when (p_state).resource = 'call_seconds' then p_reserve_secs
  when (p_state).resource = 'concurrent_calls' then
    case when coalesce((p_state).product, p_product) = p_product then 1 end
  when p_billable and p_terms -> 'buckets' -> (p_state).resource ? p_product then p_reserve_usd * 100
end;

create function flow.refusal_json(p_state flow.limit_state, p_now timestamptz) returns jsonb
language sql stable
return flow.limit_json(p_state) || jsonb_build_object(
  'code', case (p_state).resource
    when 'budget_usd' then 'budget_exceeded'
    when 'concurrent_calls' then 'concurrency_exceeded'
    else 'quota_exceeded'
  end,
  'retry_after_secs', case
    when (p_state).used >= (p_state).quota and (p_state).resets_at is not null
      then ceil(extract(epoch from (p_state).resets_at - p_now))::bigint
    else 5
  end
);

-- A join made before: under the same idempotency key, or the same call sent again.
create function flow.joined_before(p_api_key_id uuid, p_thread_id uuid, p_idempotency_key text)
returns public.workflow_threads
language plpgsql stable
set search_path = ''
as $$
declare
  v_thread public.workflow_threads;
begin
  if p_idempotency_key is not null then
    select * into v_thread from public.workflow_threads t
    where t.api_key_id = p_api_key_id and t.idempotency_key = p_idempotency_key;
  end if;
  if v_thread.id is null then
    select * into v_thread from public.workflow_threads t where t.id = p_thread_id;
  end if;
  return v_thread;
end
$$;

create function flow.replay(p_thread public.workflow_threads, p_api_key_id uuid, p_fingerprint text)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
  if (p_thread).api_key_id <> p_api_key_id then
    raise exception 'The thread id % is taken.', (p_thread).id using errcode = 'PT409';
  end if;
  if (p_thread).fingerprint <> p_fingerprint then
    raise exception 'This idempotency key was used for a different request.'
      using errcode = 'PT409', detail = 'idempotency_conflict';
  end if;
  return jsonb_build_object(
    'thread', flow.whole_thread_json(p_thread), 'replayed', true
  );
end
$$;

-- Whether a call may start. A key without limits takes no lock and makes nobody wait. Where there is
-- something to decide, teams are locked before keys, and what is used and held is read after that.
-- A new thread is what was asked for: p_whole = false says of it only what was not asked for.
-- p_unpriced names the models of the join without a known price: what they cost would not count, so no
-- budget that counts lets them in.
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
  p_whole boolean default true,
  p_unpriced text[] default null
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
  v_without_price boolean;
  v_states flow.limit_state[];
  v_state flow.limit_state;
  v_need numeric;
  v_usd numeric := p_reserve_usd;
  v_secs numeric := p_reserve_secs;
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

  v_without_price := coalesce(
    v_key.budget_usd > 0 and cardinality(p_unpriced) > 0 and not v_overridden, false
  );

  if (v_with_key or v_with_team) and not v_without_price then
    v_states := array(select s from flow.key_limits(v_key, p_terms, v_now) s);
    if v_with_team then
      v_states := v_states || array(select s from flow.team_limits(v_team_id, p_terms, v_now) s);
    end if;
    foreach v_state in array v_states loop
      v_need := flow.need(v_state, p_terms, v_product, p_billable, p_reserve_usd, p_reserve_secs);
      continue when v_need is null
        or (v_state.resource = 'budget_usd' and v_state.scope = 'key' and v_overridden);
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

  if v_refusal is null and not v_without_price then
    insert into public.workflow_threads (
      id, api_key_id, team_id, product, billable, "join", agent_id, agent_version, metadata,
      usage_stats, idempotency_key, fingerprint, reserved_usd, reserved_secs, budget_override, buckets, lease_until
    )
    values (
      p_thread_id, p_api_key_id, v_team_id, v_product, p_billable, p_join,
      (p_join #>> '{agent,id}')::uuid, (p_join #>> '{agent,version}')::integer,
      coalesce(p_join -> 'metadata', '{}'), flow.zero_usage_stats(p_thread_id),
      p_idempotency_key, p_fingerprint, v_usd, v_secs, p_override,
      coalesce(p_terms -> 'buckets', '{}'), v_now + make_interval(secs => p_waiting_secs)
    )
    on conflict do nothing
    returning created_at, usage_stats into v_created_at, v_usage_stats;
    if found then
      if p_whole then
        select * into v_thread from public.workflow_threads t where t.id = p_thread_id;
      end if;
      return jsonb_build_object(
        'thread', case when p_whole then flow.thread_json(v_thread) end,
        'team_id', v_team_id,
        'created_at', v_created_at,
        'usage_stats', v_usage_stats,
        'replayed', false,
        'budget', flow.ruling_budget(v_states, v_overridden, v_usd)
      );
    end if;
  end if;

  -- A join made before gets its thread, whatever the limits have become.
  v_thread := flow.joined_before(p_api_key_id, p_thread_id, p_idempotency_key);
  if v_thread.id is null then
    if v_without_price then
      raise exception
        'No price is known for %, so the budget of this API key cannot hold. Name a model that has a '
        'price, or have the operator add one to the price list or let the product use models without.',
        array_to_string(p_unpriced, ', ')
        using errcode = 'PT422', detail = 'model_unpriced';
    end if;
    return jsonb_build_object('refused', v_refusal);
  end if;
  return flow.replay(v_thread, p_api_key_id, p_fingerprint) || jsonb_build_object(
    'budget',
    (select flow.budget_of(k, p_override, v_now) from public.api_keys k where k.id = p_api_key_id)
  );
end
$$;

create function public.find_join(p_api_key_id uuid, p_idempotency_key text, p_fingerprint text)
returns jsonb
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_key public.api_keys;
  v_thread public.workflow_threads := flow.joined_before(p_api_key_id, null, p_idempotency_key);
begin
  if v_thread.id is null then
    return null;
  end if;
  select * into v_key from public.api_keys k where k.id = p_api_key_id;
  return flow.replay(v_thread, p_api_key_id, p_fingerprint)
    || jsonb_build_object('budget', flow.budget_of(v_key, v_thread.budget_override, now()));
end
$$;

select flow.restrict_to_service_role(array['team_quotas'], array[
  'get_thread_standing', 'get_budget', 'get_limits', 'join_thread', 'find_join'
]);
