-- What processes hold of limits for requests to the gateway. A process leases slices of a key's and its
-- team's limits, lets requests in from them by itself, and settles them afterwards.
--
-- A slice counts as held, in full, until its process gives it back or is silent for a minute: what was
-- spent from it meanwhile is in the ledger as well, so limits err on the side of too little. A process
-- keeps of its slice no more than was granted less what the ledger has, so the sum of what is spent, what
-- calls hold and all slices is never more than the budget, but for one thing: where nothing at all is held,
-- one request may have what is left, however much it may cost.

create table public.gateway_leases (
  process_id uuid not null,
  api_key_id uuid not null references public.api_keys (id) on delete cascade,
  product text collate "C" not null,
  team_id text collate "C" not null,
  billable boolean not null,
  held_usd numeric not null default 0 check (held_usd >= 0 and held_usd < 1e12),
  held_requests bigint not null default 0 check (held_requests >= 0),
  held_tokens bigint not null default 0 check (held_tokens >= 0),
  held_concurrency bigint not null default 0 check (held_concurrency >= running),
  running bigint not null default 0 check (running >= 0),
  heartbeat_at timestamptz not null,
  primary key (process_id, api_key_id, product)
) with (fillfactor = 50);
comment on table public.gateway_leases is
  'What a process holds for requests with a key for a product: those under way, those not yet settled, '
  'and those that it may let in. It counts for flow.gateway_lease() after heartbeat_at.';
create index gateway_leases_key on public.gateway_leases (api_key_id);
create index gateway_leases_team on public.gateway_leases (team_id);

create table public.gateway_counts (
  api_key_id uuid not null references public.api_keys (id) on delete cascade,
  product text collate "C" not null,
  second timestamptz not null,
  requests bigint not null,
  tokens bigint not null,
  primary key (api_key_id, product, second)
) with (fillfactor = 50);
comment on table public.gateway_counts is
  'Requests to the gateway and their tokens of the last minute, by the second in which a process told '
  'of them.';

create function flow.gateway_lease() returns interval
language sql immutable
return interval '60 seconds';

-- A minute, and the second that the first count of it may be older than it says.
create function flow.rate_window() returns interval
language sql immutable
return interval '61 seconds';

-- Of the product's limits, {"rates": {"gateway": {"requests_per_minute": 60}}} in p_terms, and the key's
-- own, which are about all products.
create function flow.rate_limits(p_key public.api_keys, p_terms jsonb, p_now timestamptz)
returns setof flow.limit_state
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_rates constant jsonb := coalesce(p_terms -> 'rates', '{}');
begin
  if v_rates = '{}' and num_nonnulls(
    p_key.requests_per_minute, p_key.tokens_per_minute, p_key.concurrent_requests
  ) = 0 then
    return;
  end if;
  return query
  with rates as materialized (
    select r.product, l.resource, l.quota::numeric
    from jsonb_each(v_rates) as r (product, limits)
    cross join lateral jsonb_each_text(r.limits) as l (resource, quota)
    union all
    select null, l.resource, l.quota
    from (values
      ('requests_per_minute', p_key.requests_per_minute::numeric),
      ('tokens_per_minute', p_key.tokens_per_minute),
      ('concurrent_requests', p_key.concurrent_requests)
    ) as l (resource, quota)
    where l.quota is not null
  ), leased as materialized (
    select l.product, l.held_requests, l.held_tokens, l.held_concurrency, l.running
    from public.gateway_leases l
    where l.api_key_id = p_key.id and l.heartbeat_at > p_now - flow.gateway_lease()
  ), counted as materialized (
    select c.product, c.second, c.requests, c.tokens from public.gateway_counts c
    where c.api_key_id = p_key.id and c.second > p_now - flow.rate_window()
  )
  select
    r.resource,
    'key',
    r.product,
    case r.resource
      when 'concurrent_requests' then coalesce((
        select sum(l.running) from leased l where l.product = coalesce(r.product, l.product)
      ), 0)
      else coalesce((
        select sum(case r.resource when 'tokens_per_minute' then c.tokens else c.requests end)
        from counted c where c.product = coalesce(r.product, c.product)
      ), 0)
    end,
    coalesce((
      select sum(case r.resource
        when 'concurrent_requests' then l.held_concurrency - l.running
        when 'tokens_per_minute' then l.held_tokens
        else l.held_requests
      end)
      from leased l where l.product = coalesce(r.product, l.product)
    ), 0),
    r.quota,
    case when r.resource <> 'concurrent_requests' then (
      select max(c.second) + flow.rate_window() from counted c
      where c.product = coalesce(r.product, c.product)
        and case r.resource when 'tokens_per_minute' then c.tokens else c.requests end > 0
    ) end
  from rates r;
end
$$;

-- The seconds until so much of a rate has left the minute that p_need fits.
create function flow.rate_retry_secs(
  p_api_key_id uuid, p_state flow.limit_state, p_need numeric, p_now timestamptz
) returns integer
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_until timestamptz;
begin
  -- What others hold is given back or used at any moment: it is not waited for.
  select min(s.second) into v_until
  from (
    select
      c.second,
      sum(case (p_state).resource when 'tokens_per_minute' then c.tokens else c.requests end)
        over (order by c.second) as freed
    from public.gateway_counts c
    where c.api_key_id = p_api_key_id and c.second > p_now - flow.rate_window()
      and c.product = coalesce((p_state).product, c.product)
  ) s
  where s.freed >= (p_state).used + least(p_need, (p_state).quota) - (p_state).quota;
  if v_until is null or (p_state).used + least(p_need, (p_state).quota) <= (p_state).quota then
    return 1;
  end if;
  return greatest(ceil(extract(epoch from v_until + flow.rate_window() - p_now)), 1);
end
$$;

-- Which slice of a lease a limit is about.
create function flow.slice_of(p_resource text) returns text
language sql immutable
return case p_resource
  when 'requests_per_minute' then 'requests'
  when 'tokens_per_minute' then 'tokens'
  when 'concurrent_requests' then 'concurrency'
  else 'usd'
end;

-- Renews a process's lease. p_slices says for usd, requests, tokens and concurrency: {"kept": what it keeps
-- of the slice that it has, "needed": what the request needs that waits for it, "wanted": what it would
-- like besides}. p_done is what it has let in since the last time: {"requests": 3, "tokens": 512}, and
-- {"running": 2}. In p_terms are buckets, as for joins, and rates.
--
-- Grants for each slice what is needed, or a tenth of what is left if it wants more. If something that is
-- needed does not fit, nothing is granted and "refused" says of which limit there is too little. What has
-- no limit is granted as null.
create function public.lease_gateway(
  p_process_id uuid,
  p_api_key_id uuid,
  p_product text,
  p_billable boolean,
  p_slices jsonb default '{}',
  p_done jsonb default '{}',
  p_terms jsonb default '{}',
  p_now timestamptz default null
) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_key public.api_keys;
  v_now timestamptz;
  v_with_key boolean;
  v_with_team boolean;
  v_overridden boolean;
  v_kept constant jsonb := jsonb_build_object(
    'usd', coalesce((p_slices #>> '{usd,kept}')::numeric, 0),
    'requests', coalesce((p_slices #>> '{requests,kept}')::bigint, 0),
    'tokens', coalesce((p_slices #>> '{tokens,kept}')::bigint, 0),
    'concurrency', coalesce((p_slices #>> '{concurrency,kept}')::bigint, 0)
  );
  v_running constant bigint := coalesce((p_done ->> 'running')::bigint, 0);
  v_states flow.limit_state[];
  v_state flow.limit_state;
  v_slice text;
  v_unit numeric;
  v_need numeric;
  v_room numeric;
  v_granted jsonb := '{"usd": null, "requests": null, "tokens": null, "concurrency": null}';
  v_grant numeric;
  v_rates jsonb := '[]';
  v_refused jsonb;
  v_used_up boolean := false;
begin
  select * into v_key from public.api_keys k where k.id = p_api_key_id;
  if not found then
    raise exception 'There is no API key %.', p_api_key_id using errcode = 'PT404';
  end if;
  if v_key.revoked_at is not null then
    raise exception 'This API key was revoked.' using errcode = 'PT403', detail = 'disabled_api_key';
  end if;
  v_with_team := exists (
    select from public.team_quotas q where q.team_id = v_key.team_id
  );
  v_with_key := coalesce(v_key.budget_usd > 0, false)
    or num_nonnulls(v_key.requests_per_minute, v_key.tokens_per_minute, v_key.concurrent_requests) > 0
    or coalesce(p_terms -> 'rates', '{}') <> '{}';

  if v_with_key or v_with_team then
    -- As joins do, and in the same order.
    if v_with_team then
      perform from public.team_quotas q where q.team_id = v_key.team_id
      order by q.resource for no key update;
    end if;
    perform from public.api_keys k where k.id = p_api_key_id for no key update;
    select * into v_key from public.api_keys k where k.id = p_api_key_id;
  end if;
  v_now := coalesce(p_now, clock_timestamp());
  v_overridden := coalesce(v_key.budget_override_until > v_now, false);

  if v_with_key or v_with_team then
    delete from public.gateway_leases l
    where l.api_key_id = p_api_key_id and l.heartbeat_at <= v_now - flow.gateway_lease();
    perform flow.count_requests(p_api_key_id, p_product, p_done, v_now);
    perform flow.save_lease(
      p_process_id, v_key, p_product, p_billable, v_kept, v_running, v_now
    );
    v_states := array(select s from flow.limit_states(v_key, p_terms, v_with_team, v_now) s);
    foreach v_state in array v_states loop
      v_slice := flow.slice_of(v_state.resource);
      continue when v_state.quota is null
        or v_state.resource in ('call_seconds', 'concurrent_calls')
        or (v_state.resource = 'budget_usd' and v_state.scope = 'key' and v_overridden)
        or (v_slice <> 'usd' and coalesce(v_state.product, p_product) <> p_product)
        or (
          v_slice = 'usd' and v_state.resource <> 'budget_usd' and not (
            p_billable and coalesce(p_terms -> 'buckets' -> v_state.resource, '[]') ? p_product
          )
        );
      v_unit := case when v_slice = 'usd' and v_state.resource <> 'budget_usd' then 100 else 1 end;
      v_need := coalesce((p_slices #>> array[v_slice, 'needed'])::numeric, 0) * v_unit;
      if v_slice = 'usd' then
        v_used_up := v_used_up or v_state.used >= v_state.quota;
      else
        v_rates := v_rates || flow.limit_json(v_state);
      end if;
      if v_need > 0 and not flow.fits(v_state, v_need) then
        v_refused := coalesce(v_refused, flow.gateway_refusal(p_api_key_id, v_state, v_need, v_now));
        v_granted := v_granted || jsonb_build_object(v_slice, 0);
        continue;
      end if;
      v_room := flow.room(v_state);
      v_grant := least(
        v_room,
        greatest(
          v_need,
          least(
            coalesce((p_slices #>> array[v_slice, 'wanted'])::numeric, 0) * v_unit, v_room * 0.1
          )
        )
      ) / v_unit;
      if v_slice <> 'usd' then
        v_grant := floor(v_grant);
      end if;
      v_granted := v_granted || jsonb_build_object(
        v_slice, least(v_grant, (v_granted ->> v_slice)::numeric)
      );
    end loop;
    if v_refused is not null then
      select jsonb_object_agg(g.key, case when g.value <> 'null' then to_jsonb(0) end) into v_granted
      from jsonb_each(v_granted) g;
    end if;
    perform flow.save_lease(
      p_process_id, v_key, p_product, p_billable,
      (
        select jsonb_object_agg(k.key, k.value::numeric + coalesce((v_granted ->> k.key)::numeric, 0))
        from jsonb_each(v_kept) k
      ),
      v_running, v_now
    );
  end if;
  return jsonb_build_object(
    'refused', v_refused,
    'used_up', v_used_up,
    -- What calls hold stays held for longer than any request can wait.
    'may_be_freed', v_refused is not null and exists (
      select from public.gateway_leases l
      where (l.api_key_id = p_api_key_id or l.team_id = v_key.team_id)
        and (l.held_usd > 0 or flow.slice_of(v_refused ->> 'resource') <> 'usd')
    ),
    'granted', (select jsonb_object_agg(g.key, g.value #>> '{}') from jsonb_each(v_granted) g),
    'rates', v_rates,
    'budget', flow.ruling_budget(v_states, v_overridden),
    'save_mode', v_key.save_mode
  );
end
$$;

create function flow.count_requests(
  p_api_key_id uuid, p_product text, p_done jsonb, p_now timestamptz
) returns void
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
begin
  delete from public.gateway_counts c
  where c.api_key_id = p_api_key_id and c.second <= p_now - flow.rate_window();
  if coalesce((p_done ->> 'requests')::bigint, 0) > 0 or coalesce((p_done ->> 'tokens')::bigint, 0) > 0
  then
    insert into public.gateway_counts as c (api_key_id, product, second, requests, tokens)
    values (
      p_api_key_id, p_product, date_trunc('second', p_now),
      coalesce((p_done ->> 'requests')::bigint, 0), coalesce((p_done ->> 'tokens')::bigint, 0)
    )
    on conflict (api_key_id, product, second) do update set
      requests = c.requests + excluded.requests, tokens = c.tokens + excluded.tokens;
  end if;
end
$$;

-- A lease of nothing is none.
create function flow.save_lease(
  p_process_id uuid, p_key public.api_keys, p_product text, p_billable boolean, p_held jsonb,
  p_running bigint, p_now timestamptz
) returns void
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
begin
  if p_running = 0 and not exists (
    select from jsonb_each(p_held) h where h.value::numeric > 0
  ) then
    delete from public.gateway_leases l
    where l.process_id = p_process_id and l.api_key_id = p_key.id and l.product = p_product;
    return;
  end if;
  insert into public.gateway_leases as l (
    process_id, api_key_id, product, team_id, billable, held_usd, held_requests, held_tokens,
    held_concurrency, running, heartbeat_at
  )
  values (
    p_process_id, p_key.id, p_product, p_key.team_id, p_billable,
    (p_held ->> 'usd')::numeric, (p_held ->> 'requests')::numeric, (p_held ->> 'tokens')::numeric,
    greatest((p_held ->> 'concurrency')::numeric, p_running), p_running, p_now
  )
  on conflict (process_id, api_key_id, product) do update set
    team_id = excluded.team_id, billable = excluded.billable, held_usd = excluded.held_usd,
    held_requests = excluded.held_requests, held_tokens = excluded.held_tokens,
    held_concurrency = excluded.held_concurrency, running = excluded.running,
    heartbeat_at = excluded.heartbeat_at;
end
$$;

create function flow.gateway_refusal(
  p_api_key_id uuid, p_state flow.limit_state, p_need numeric, p_now timestamptz
) returns jsonb
language sql stable
set search_path = ''
as $$
  select case
    when flow.slice_of((p_state).resource) = 'usd' then flow.refusal_json(p_state, p_now)
    else flow.limit_json(p_state) || jsonb_build_object(
      'code', case (p_state).resource
        when 'concurrent_requests' then 'concurrency_exceeded' else 'rate_limited'
      end,
      'retry_after_secs', case
        when (p_state).resource = 'concurrent_requests' then 1
        else flow.rate_retry_secs(p_api_key_id, p_state, p_need, p_now)
      end
    )
  end
$$;

-- What nobody has asked about since: lease_gateway removes what is over of its own key alone.
create function public.forget_gateway_leases() returns jsonb
language plpgsql
set search_path = ''
as $$
begin
  delete from public.gateway_leases l where l.heartbeat_at <= now() - interval '10 minutes';
  delete from public.gateway_counts c where c.second <= now() - interval '10 minutes';
  return jsonb_build_object('ok', true);
end
$$;

create function public.set_key_rates(
  p_api_key_id uuid, p_requests_per_minute integer, p_tokens_per_minute bigint,
  p_concurrent_requests integer
) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_key public.api_keys;
begin
  update public.api_keys k
  set requests_per_minute = p_requests_per_minute, tokens_per_minute = p_tokens_per_minute,
    concurrent_requests = p_concurrent_requests, updated_at = now()
  where k.id = p_api_key_id returning * into v_key;
  return flow.changed_key(v_key, p_api_key_id);
end
$$;

select flow.restrict_to_service_role(
  array['gateway_leases', 'gateway_counts'], array['lease_gateway', 'forget_gateway_leases', 'set_key_rates']
);
