-- What an operator sets and sees of keys and teams.

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

select flow.restrict_to_service_role(array[]::text[], array[
  'list_api_keys', 'get_api_key', 'set_budget', 'set_budget_override', 'set_save_mode',
  'revoke_api_key', 'set_team_quota', 'list_team_quotas'
]);
