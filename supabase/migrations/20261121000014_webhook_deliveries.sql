-- Sending webhooks: who sends what now, and what came of it.

create function flow.webhook_secrets(p_key public.api_keys, p_now timestamptz) returns jsonb
language sql immutable
set search_path = ''
return jsonb_path_query_array(
  jsonb_build_array(
    (p_key).webhook_secret,
    case when (p_key).webhook_secret_previous_until > p_now then (p_key).webhook_secret_previous end
  ),
  '$[*] ? (@ != null)'
);

-- What is sent, the same text at every attempt.
create function flow.webhook_payload(p_event public.webhook_events) returns text
language sql stable
set search_path = ''
return json_build_object(
  'type', (p_event).type,
  'timestamp', flow.utc_text((p_event).created_at),
  'data', (p_event).data
)::text;

create function flow.claimed_json(p_delivery public.webhook_deliveries, p_now timestamptz)
returns jsonb
language sql stable
set search_path = ''
as $$
  select jsonb_build_object(
    'event_id', e.id,
    'type', e.type,
    'api_key_id', e.api_key_id,
    'workflow_thread_id', e.workflow_thread_id,
    'url', (p_delivery).url,
    'attempt', (p_delivery).attempts,
    'payload', flow.webhook_payload(e),
    'secrets', flow.webhook_secrets(k, p_now)
  )
  from public.webhook_events e join public.api_keys k on k.id = e.api_key_id
  where e.id = (p_delivery).event_id
$$;

-- Gives out what is due, the longest due first, to one who will say within p_lease_secs what came
-- of it. One key, however slow its receiver, has at most p_per_key deliveries under way.
create function public.claim_webhook_deliveries(
  p_claim uuid,
  p_limit integer,
  p_per_key integer,
  p_lease_secs double precision,
  p_now timestamptz default null
) returns jsonb
language plpgsql
set search_path = ''
-- A plan made while the table was small must do when it is large.
set enable_seqscan = off
as $$
declare
  v_now constant timestamptz := coalesce(p_now, now());
  v_claimed jsonb;
begin
  with recursive keys (id) as (
    -- One step in the index for each key that anything is open for, however much that is.
    (
      select d.api_key_id from public.webhook_deliveries d
      where d.delivered_at is null and d.dead_at is null
      order by d.api_key_id limit 1
    )
    union all
    select (
      select d.api_key_id from public.webhook_deliveries d
      where d.delivered_at is null and d.dead_at is null and d.api_key_id > k.id
      order by d.api_key_id limit 1
    )
    from keys k where k.id is not null
  ), due as (
    select f.event_id
    from keys k
    cross join lateral (
      select d.event_id, d.next_attempt_at from public.webhook_deliveries d
      where d.api_key_id = k.id and d.delivered_at is null and d.dead_at is null
        and d.next_attempt_at <= v_now
      order by d.next_attempt_at
      limit greatest(0, p_per_key - (
        select count(*) from public.webhook_deliveries u
        where u.api_key_id = k.id and u.delivered_at is null and u.dead_at is null
          and u.claim is not null and u.next_attempt_at > v_now
      ))
    ) f
    order by f.next_attempt_at
    limit p_limit
  ), free as (
    select f.event_id
    from due u
    cross join lateral (
      select d.event_id from public.webhook_deliveries d
      where d.event_id = u.event_id and d.next_attempt_at <= v_now
        -- Said so that only the primary key fits, even before the table is analyzed.
        and coalesce(d.delivered_at, d.dead_at) is null
      for update skip locked
    ) f
  ), claimed as (
    update public.webhook_deliveries d set
      claim = p_claim,
      attempts = d.attempts + 1,
      next_attempt_at = v_now + make_interval(secs => p_lease_secs),
      -- A budget event goes where its key's events go now.
      url = coalesce(
        (
          select k.webhook_url
          from public.api_keys k join public.webhook_events e on e.api_key_id = k.id
          where e.id = d.event_id and e.type like 'budget.%'
        ),
        d.url
      )
    from free f where d.event_id = f.event_id
    returning d as delivery
  )
  select coalesce(
    jsonb_agg(
      flow.claimed_json(c.delivery, v_now) order by (c.delivery).created_at, (c.delivery).event_id
    ),
    '[]'
  )
  into v_claimed
  from claimed c;
  return v_claimed;
end
$$;

-- A success counts whoever reports it, even one whose claim has gone to another meanwhile.
create function public.note_webhook_delivered(
  p_event_id uuid, p_status integer, p_now timestamptz default null
) returns jsonb
language plpgsql
set search_path = ''
as $$
begin
  update public.webhook_deliveries d set
    delivered_at = coalesce(p_now, now()), dead_at = null, claim = null,
    last_status = p_status, last_error = null
  -- After a replay nothing has been attempted: a report from before it says nothing.
  where d.event_id = p_event_id and d.delivered_at is null and d.attempts > 0;
  return to_jsonb(found);
end
$$;

-- A failure counts if the claim still holds. Without p_retry_secs the event is given up.
create function public.note_webhook_failed(
  p_event_id uuid,
  p_claim uuid,
  p_status integer,
  p_error text,
  p_retry_secs double precision,
  p_now timestamptz default null
) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_now constant timestamptz := coalesce(p_now, now());
begin
  update public.webhook_deliveries d set
    claim = null,
    last_status = p_status,
    last_error = p_error,
    next_attempt_at = v_now + make_interval(secs => coalesce(p_retry_secs, 0)),
    dead_at = case when p_retry_secs is null then v_now end
  where d.event_id = p_event_id and d.claim = p_claim
    and d.delivered_at is null and d.dead_at is null;
  return to_jsonb(found);
end
$$;

select flow.restrict_to_service_role(array[]::text[], array[
  'claim_webhook_deliveries', 'note_webhook_delivered', 'note_webhook_failed'
]);
