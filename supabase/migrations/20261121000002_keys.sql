-- API keys: who uses Flow, on whose budget.

create table public.api_keys (
  id uuid primary key default gen_random_uuid(),
  unkey_key_id text not null unique check (octet_length(unkey_key_id) between 1 and 255),
  team_id text collate "C" not null check (octet_length(team_id) between 1 and 255),
  name text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  -- NaN is above every bound. Null, zero and less mean that there is no budget.
  budget_usd numeric check (budget_usd < 1e12),
  budget_override_until timestamptz,
  requests_per_minute integer check (requests_per_minute > 0),
  tokens_per_minute bigint check (tokens_per_minute > 0 and tokens_per_minute < 1e12),
  concurrent_requests integer check (concurrent_requests > 0),
  save_mode text check (save_mode in ('off', 'auto', 'on')),
  revoked_at timestamptz,
  webhook_url text check (char_length(webhook_url) between 1 and 2048),
  webhook_secret text check (webhook_secret ~ '^whsec_[A-Za-z0-9+/]{32,}={0,2}$'),
  webhook_secret_previous text,
  webhook_secret_previous_until timestamptz
);
comment on table public.api_keys is
  'One row per Unkey key seen. The secret is never stored; unkey_key_id names it.';
comment on column public.api_keys.budget_usd is 'USD a month (UTC); none if null, zero or less.';
comment on column public.api_keys.budget_override_until is 'Until then the budget refuses nothing.';
comment on column public.api_keys.requests_per_minute is
  'Of requests to the gateway, as tokens_per_minute and concurrent_requests are; null: no limit.';
comment on column public.api_keys.revoked_at is 'When an operator revoked it; the ledger stays.';
comment on column public.api_keys.webhook_url is 'Where the key''s budget events go.';
comment on column public.api_keys.webhook_secret is
  'Signs every webhook of the key. No function tells it but those that claim deliveries or ask for it.';
comment on column public.api_keys.webhook_secret_previous is
  'Signs beside the current one until webhook_secret_previous_until.';

create function public.flow_ping() returns jsonb
language sql stable
set search_path = ''
return jsonb_build_object('ok', true);

create function public.resolve_api_key(p_unkey_key_id text, p_team_id text, p_name text default null)
returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_key public.api_keys;
begin
  select * into v_key from public.api_keys k where k.unkey_key_id = p_unkey_key_id;
  if not found or v_key.team_id <> p_team_id or v_key.name is distinct from p_name then
    insert into public.api_keys (unkey_key_id, team_id, name)
    values (p_unkey_key_id, p_team_id, p_name)
    on conflict (unkey_key_id) do update
      set team_id = excluded.team_id, name = excluded.name, updated_at = now()
    returning * into v_key;
  end if;
  return jsonb_build_object(
    'id', v_key.id, 'unkey_key_id', v_key.unkey_key_id,
    'team_id', v_key.team_id, 'name', v_key.name
  );
end
$$;

create function flow.refuse_missing_key(p_api_key_id uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception 'There is no API key %.', p_api_key_id using errcode = 'PT404';
end
$$;

select flow.restrict_to_service_role(array['api_keys'], array['flow_ping', 'resolve_api_key']);
