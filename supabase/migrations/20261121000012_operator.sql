-- What an operator sets and sees: keys, teams, all threads, hosts, and what the ledger lacks.

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
    'requests_per_minute', (p_key).requests_per_minute,
    'tokens_per_minute', (p_key).tokens_per_minute,
    'concurrent_requests', (p_key).concurrent_requests,
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

create function public.list_api_keys(
  p_team_id text default null,
  p_search text default null,
  p_tier text default null,
  p_revoked boolean default null,
  p_limit integer default null,
  p_before_created_at timestamptz default null,
  p_before_id uuid default null
) returns jsonb
language sql stable
set search_path = ''
as $$
  with page as (
    select k as key from public.api_keys k
    where (p_team_id is null or k.team_id = p_team_id)
      and (p_revoked is null or (k.revoked_at is not null) = p_revoked)
      and (
        p_search is null
        or position(lower(p_search) in lower(k.name)) > 0
        or k.unkey_key_id = p_search or k.id::text = lower(p_search)
      )
      and (p_tier is null or p_tier = flow.budget_tier(
        flow.month_spent(k.id, flow.month_of(now())),
        k.budget_usd,
        coalesce(k.budget_override_until > now(), false)
      ))
      and (k.created_at, k.id) < (
        coalesce(p_before_created_at, 'infinity'),
        coalesce(p_before_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
      )
    order by k.created_at desc, k.id desc
    limit p_limit
  )
  select coalesce(
    jsonb_agg(
      flow.key_account(p.key, now()) order by (p.key).created_at desc, (p.key).id desc
    ),
    '[]'
  )
  from page p
$$;
comment on function public.list_api_keys is
  'Keys, the newest first: of a team, by a part of the name or by an id, of a tier of the budget.';

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
    -- Whoever gives a key's secret in place of its name must not find it in a terminal's or a
    -- service's log. Ids here have no part as long; Unkey's are not shown either.
    if p_reference ~ '[[:alnum:]]{16,}' then
      raise exception 'There is no API key of that name or id. It is not repeated here, since it may '
        'be a secret: give the name or an id of a key.' using errcode = 'PT404';
    end if;
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
set enable_seqscan = off
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
set enable_seqscan = off
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
set enable_seqscan = off
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
set enable_seqscan = off
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
  -- Waits for usage that is being recorded: it may reach the new budget.
  perform from public.team_quotas q
  where q.team_id = p_team_id and q.resource = p_resource for update;
  if p_quota is null then
    delete from public.team_quotas q where q.team_id = p_team_id and q.resource = p_resource;
  else
    insert into public.team_quotas (team_id, resource, quota)
    values (p_team_id, p_resource, p_quota)
    on conflict (team_id, resource) do update set quota = excluded.quota, updated_at = now();
  end if;
  if p_resource = 'budget_usd' then
    perform flow.note_team_budget(p_team_id, flow.month_of(now()));
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

create function public.get_team_limits(p_team_id text, p_terms jsonb default '{}') returns jsonb
language sql stable
set search_path = ''
as $$
  select jsonb_agg(flow.limit_json(s)) from flow.team_limits(p_team_id, p_terms, now()) s
$$;

create function public.list_teams(
  p_terms jsonb default '{}',
  p_team_id text default null,
  p_search text default null,
  p_limit integer default null,
  p_after text default null
) returns jsonb
language sql stable
set search_path = ''
as $$
  with known as (
    select k.team_id, count(*) filter (where k.revoked_at is null) as keys
    from public.api_keys k
    group by k.team_id
  ), page as (
    select t.team_id, coalesce(n.keys, 0) as keys
    from (select team_id from known union select q.team_id from public.team_quotas q) t
    left join known n on n.team_id = t.team_id
    where (p_team_id is null or t.team_id = p_team_id)
      and (p_search is null or position(lower(p_search) in lower(t.team_id)) > 0)
      and (p_after is null or t.team_id > p_after)
    order by t.team_id
    limit p_limit
  )
  select coalesce(
    jsonb_agg(
      jsonb_build_object(
        'team_id', p.team_id,
        'keys', p.keys,
        'spent_usd', trim_scale(coalesce(m.spent, 0))::text,
        'billable_usd', trim_scale(coalesce(m.billable, 0))::text,
        'resets_at', flow.month_end(now()),
        'limits', public.get_team_limits(p.team_id, p_terms)
      )
      order by p.team_id
    ),
    '[]'
  )
  from page p
  cross join lateral (
    select sum(u.total_cost_usd) as spent, sum(u.billable_cost_usd) as billable
    from public.usage_monthly u
    where u.team_id = p.team_id and u.month = flow.month_of(now())
  ) m
$$;
comment on function public.list_teams is
  'Teams that have a key or a quota, by name, with what they spent this month (UTC) and every limit.';

-- Threads of all keys ----------------------------------------------------------------------------

-- A claim is the name of a process and, after the last slash, of what it runs.
create function flow.host_of(p_claimed_by text) returns text
language sql immutable
return regexp_replace(p_claimed_by, '/[^/]*$', '');

-- Without what was said and asked for: an operator sees accounts.
create function flow.thread_overview(p_thread public.workflow_threads, p_key_name text) returns jsonb
language sql stable
return jsonb_build_object(
  'id', (p_thread).id,
  'api_key_id', (p_thread).api_key_id,
  'key_name', p_key_name,
  'team_id', (p_thread).team_id,
  'product', (p_thread).product,
  'billable', (p_thread).billable,
  'status', (p_thread).status,
  'transport', (p_thread)."join" #>> '{transport,type}',
  'host', flow.host_of((p_thread).claimed_by),
  'heartbeat_at', (p_thread).heartbeat_at,
  'created_at', (p_thread).created_at,
  'connected_at', (p_thread).connected_at,
  'ended_at', (p_thread).ended_at,
  'completed_at', (p_thread).completed_at,
  'end_reason', (p_thread).end_reason,
  'end_requested', (p_thread).end_requested_at is not null,
  'error', (p_thread).error,
  'usage_stats', (p_thread).usage_stats
);

-- Planned for just the filters that are given, each with the index that serves it.
create function public.list_threads(
  p_limit integer,
  p_before_created_at timestamptz default null,
  p_before_id uuid default null,
  p_api_key_id uuid default null,
  p_team_id text default null,
  p_product text default null,
  p_status text default null,
  p_running boolean default false,
  p_host text default null,
  p_from date default null,
  p_to date default null
) returns jsonb
language plpgsql stable
set search_path = ''
set jit = off
as $$
declare
  v_conditions text := concat_ws(
    ' and ',
    $sql$t.created_at > '-infinity'$sql$,
    case when p_before_id is not null then '(t.created_at, t.id) < ($2, $3)' end,
    case when p_api_key_id is not null then 't.api_key_id = $4' end,
    case when p_team_id is not null then 't.team_id = $5' end,
    case when p_product is not null then 't.product = $6' end,
    case when p_status is not null then format('t.status = %L', p_status) end,
    case when p_running or p_host is not null
      then $sql$t.status in ('connecting', 'in_call')$sql$ end,
    case when p_host is not null then 'flow.host_of(t.claimed_by) = $7' end,
    case when p_from is not null then $sql$t.created_at >= $8::timestamp at time zone 'UTC'$sql$ end,
    case when p_to is not null
      then $sql$t.created_at < ($9 + 1)::timestamp at time zone 'UTC'$sql$ end
  );
  v_found jsonb;
begin
  execute format(
    $sql$
      with page as (
        select t as thread from public.workflow_threads t
        where %s
        order by t.created_at desc, t.id desc
        limit $1
      )
      select coalesce(
        jsonb_agg(
          flow.thread_overview(p.thread, k.name)
          order by (p.thread).created_at desc, (p.thread).id desc
        ),
        '[]'
      )
      from page p join public.api_keys k on k.id = (p.thread).api_key_id
    $sql$,
    v_conditions
  )
  into v_found
  using p_limit, p_before_created_at, p_before_id, p_api_key_id, p_team_id, p_product, p_host,
    p_from, p_to;
  return v_found;
end
$$;
comment on function public.list_threads is
  'Threads of all keys, the newest first, without their content. Running are those that a process '
  'holds, or is being connected to. Days are of UTC, the last one included.';

create function public.get_thread_overview(p_thread_id uuid) returns jsonb
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_found jsonb;
begin
  select flow.thread_overview(t, k.name) into v_found
  from public.workflow_threads t join public.api_keys k on k.id = t.api_key_id
  where t.id = p_thread_id;
  if not found then
    raise exception 'There is no thread %.', p_thread_id using errcode = 'PT404';
  end if;
  return v_found;
end
$$;

-- Hosts ------------------------------------------------------------------------------------------

create function public.list_hosts() returns jsonb
language sql stable
set search_path = ''
as $$
  with held as (
    select flow.host_of(t.claimed_by) as host, count(*) as calls from public.workflow_threads t
    where t.status in ('connecting', 'in_call') and t.claimed_by is not null
    group by 1
  )
  select coalesce(
    jsonb_agg(
      jsonb_build_object(
        'name', e.id,
        'is_stopped', e.instance is null,
        'started_at', e.started_at,
        'heartbeat_at', e.heartbeat_at,
        'silent_secs', extract(epoch from now() - e.heartbeat_at)::double precision,
        'report', e.report,
        'held_calls', coalesce(h.calls, 0)
      )
      order by e.id
    ),
    '[]'
  )
  from public.workflow_executors e left join held h on h.host = e.id
$$;
comment on function public.list_hosts is
  'The processes that run calls or workflows, each with what it last said of itself and how many '
  'threads it holds.';

-- What the ledger has no price for, and what it could not take -------------------------------------

create function public.list_unpriced(
  p_from date, p_to date, p_api_key_id uuid default null, p_team_id text default null
) returns jsonb
language sql stable
set search_path = ''
as $$
  select coalesce(
    jsonb_agg(to_jsonb(f) order by f.unpriced_events desc, f.provider, f.model, f.kind), '[]'
  )
  from (
    select
      d.provider, d.model, d.kind,
      sum(d.unpriced_events) as unpriced_events,
      sum(d.unmetered_events) as unmetered_events,
      count(distinct d.api_key_id) as keys,
      min(d.day) as first_day,
      max(d.day) as last_day
    from public.usage_daily d
    where d.unpriced_events > 0 and d.day between p_from and p_to
      and (p_api_key_id is null or d.api_key_id = p_api_key_id)
      and (p_team_id is null or d.team_id = p_team_id)
    group by d.provider, d.model, d.kind
  ) f
$$;
comment on function public.list_unpriced is
  'Models with usage that has no price, by provider, model and kind; unmetered events are some of the '
  'unpriced ones.';

create function public.list_rejected_usage(p_limit integer, p_before_id bigint default null)
returns jsonb
language sql stable
set search_path = ''
as $$
  select coalesce(jsonb_agg(to_jsonb(f) order by f.id desc), '[]')
  from (
    select r.id, r.rejected_at, r.reason, r.event from public.rejected_usage_events r
    where p_before_id is null or r.id < p_before_id
    order by r.id desc
    limit p_limit
  ) f
$$;

select flow.restrict_to_service_role(array[]::text[], array[
  'list_api_keys', 'get_api_key', 'set_budget', 'set_budget_override', 'set_save_mode',
  'revoke_api_key', 'set_team_quota', 'list_team_quotas', 'get_team_limits', 'list_teams',
  'list_threads', 'get_thread_overview', 'list_hosts', 'list_unpriced', 'list_rejected_usage'
]);
