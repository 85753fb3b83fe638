-- What an operator sees of webhooks, and sets.

create function flow.delivery_json(
  p_delivery public.webhook_deliveries, p_event public.webhook_events, p_now timestamptz
) returns jsonb
language sql stable
set search_path = ''
return jsonb_build_object(
  'event_id', (p_event).id,
  'type', (p_event).type,
  'api_key_id', (p_event).api_key_id,
  'team_id', (p_event).team_id,
  'workflow_thread_id', (p_event).workflow_thread_id,
  'created_at', (p_event).created_at,
  'url', (p_delivery).url,
  'state', case
    when (p_delivery).delivered_at is not null then 'delivered'
    when (p_delivery).dead_at is not null then 'dead'
    when (p_delivery).claim is not null and (p_delivery).next_attempt_at > p_now then 'sending'
    else 'waiting'
  end,
  'attempts', (p_delivery).attempts,
  'next_attempt_at', case
    when (p_delivery).delivered_at is null and (p_delivery).dead_at is null
    then (p_delivery).next_attempt_at
  end,
  'delivered_at', (p_delivery).delivered_at,
  'dead_at', (p_delivery).dead_at,
  'last_status', (p_delivery).last_status,
  'last_error', (p_delivery).last_error
);

create function public.list_webhook_deliveries(
  p_api_key_id uuid default null, p_dead boolean default false, p_limit integer default 100
) returns jsonb
language sql stable
set search_path = ''
as $$
  with found as (
    select d as delivery from public.webhook_deliveries d
    where (p_api_key_id is null or d.api_key_id = p_api_key_id)
      and (not p_dead or d.dead_at is not null)
    order by d.created_at desc, d.event_id desc
    limit p_limit
  )
  select coalesce(
    jsonb_agg(
      flow.delivery_json(f.delivery, e, now())
      order by (f.delivery).created_at desc, (f.delivery).event_id desc
    ),
    '[]'
  )
  from found f join public.webhook_events e on e.id = (f.delivery).event_id
$$;

create function flow.refuse_missing_delivery(p_event_id uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception 'There is no webhook %.', p_event_id using errcode = 'PT404';
end
$$;

create function public.get_webhook_delivery(p_event_id uuid) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_found jsonb;
begin
  select flow.delivery_json(d, e, now()) || jsonb_build_object('payload', flow.webhook_payload(e))
  into v_found
  from public.webhook_deliveries d join public.webhook_events e on e.id = d.event_id
  where d.event_id = p_event_id;
  if not found then
    perform flow.refuse_missing_delivery(p_event_id);
  end if;
  return v_found;
end
$$;

create function public.replay_webhook_delivery(p_event_id uuid, p_now timestamptz default null)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_delivery public.webhook_deliveries;
begin
  select * into v_delivery from public.webhook_deliveries d where d.event_id = p_event_id for update;
  if not found then
    perform flow.refuse_missing_delivery(p_event_id);
  end if;
  if v_delivery.delivered_at is not null or v_delivery.dead_at is not null then
    update public.webhook_deliveries d set
      attempts = 0, next_attempt_at = coalesce(p_now, now()), claim = null,
      delivered_at = null, dead_at = null
    where d.event_id = p_event_id;
  elsif v_delivery.attempts > 0 then
    raise exception 'The webhook % is still being delivered; the next attempt is at %.',
      p_event_id, flow.utc_text(v_delivery.next_attempt_at)
      using errcode = 'PT409', detail = 'still_being_delivered';
  end if;
  return public.get_webhook_delivery(p_event_id);
end
$$;

create function public.replay_dead_webhook_deliveries(
  p_api_key_id uuid default null, p_now timestamptz default null
) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_replayed integer;
begin
  update public.webhook_deliveries d set
    attempts = 0, next_attempt_at = coalesce(p_now, now()), claim = null, dead_at = null
  where d.dead_at is not null and (p_api_key_id is null or d.api_key_id = p_api_key_id);
  get diagnostics v_replayed = row_count;
  return to_jsonb(v_replayed);
end
$$;

create function flow.webhook_secrets_json(p_key public.api_keys) returns jsonb
language sql stable
set search_path = ''
return jsonb_build_object(
  'current', (p_key).webhook_secret,
  'previous', case
    when (p_key).webhook_secret_previous_until > now() then (p_key).webhook_secret_previous
  end,
  'previous_until', case
    when (p_key).webhook_secret_previous_until > now() then (p_key).webhook_secret_previous_until
  end
);

create function flow.refuse_missing_key(p_api_key_id uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception 'There is no API key %.', p_api_key_id using errcode = 'PT404';
end
$$;

-- The key's secrets. p_made becomes its secret if it has none; of several at once the first wins.
create function public.get_webhook_secrets(p_api_key_id uuid, p_made text) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_key public.api_keys;
begin
  select * into v_key from public.api_keys k where k.id = p_api_key_id;
  if found and v_key.webhook_secret is null then
    update public.api_keys k set webhook_secret = coalesce(k.webhook_secret, p_made)
    where k.id = p_api_key_id returning * into v_key;
  end if;
  if not found then
    perform flow.refuse_missing_key(p_api_key_id);
  end if;
  return flow.webhook_secrets_json(v_key);
end
$$;

-- Repeating it with the same p_made changes nothing.
create function public.rotate_webhook_secret(p_api_key_id uuid, p_made text, p_keep_secs double precision)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_key public.api_keys;
begin
  select * into v_key from public.api_keys k where k.id = p_api_key_id for no key update;
  if not found then
    perform flow.refuse_missing_key(p_api_key_id);
  end if;
  if v_key.webhook_secret is distinct from p_made then
    update public.api_keys k set
      webhook_secret = p_made,
      webhook_secret_previous = k.webhook_secret,
      webhook_secret_previous_until = now() + make_interval(secs => p_keep_secs)
    where k.id = p_api_key_id returning * into v_key;
  end if;
  return flow.webhook_secrets_json(v_key);
end
$$;

create function public.get_webhook_url(p_api_key_id uuid) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_url text;
begin
  select k.webhook_url into v_url from public.api_keys k where k.id = p_api_key_id;
  if not found then
    perform flow.refuse_missing_key(p_api_key_id);
  end if;
  return jsonb_build_object('webhook_url', v_url);
end
$$;

create function public.set_webhook_url(p_api_key_id uuid, p_url text) returns jsonb
language plpgsql
set search_path = ''
as $$
begin
  update public.api_keys k set webhook_url = p_url, updated_at = now() where k.id = p_api_key_id;
  if not found then
    perform flow.refuse_missing_key(p_api_key_id);
  end if;
  return jsonb_build_object('webhook_url', p_url);
end
$$;

select flow.restrict_to_service_role(array[]::text[], array[
  'list_webhook_deliveries', 'get_webhook_delivery', 'replay_webhook_delivery',
  'replay_dead_webhook_deliveries', 'get_webhook_secrets', 'rotate_webhook_secret',
  'get_webhook_url', 'set_webhook_url'
]);
