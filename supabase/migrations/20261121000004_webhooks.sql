-- What customers are told of their calls and budgets, and how it gets to them.

create table public.webhook_events (
  id uuid primary key default gen_random_uuid(),
  type text not null check (
    type in ('thread.completed', 'thread.failed', 'budget.warn', 'budget.exceeded')
  ),
  api_key_id uuid not null references public.api_keys (id) on delete cascade,
  team_id text collate "C" not null,
  workflow_thread_id uuid references public.workflow_threads (id) on delete cascade,
  period date check ((period is null) <> (type like 'budget.%')),
  scope text check (scope in ('key', 'team')),
  data jsonb not null,
  created_at timestamptz not null default now()
);
comment on table public.webhook_events is 'What customers are to be told, each once.';
comment on column public.webhook_events.scope is 'Whose budget an event of one is about.';
create unique index webhook_events_once_a_period
  on public.webhook_events (api_key_id, type, period, scope) where period is not null;
create unique index webhook_events_once_a_thread
  on public.webhook_events (workflow_thread_id) where period is null;
create index webhook_events_thread
  on public.webhook_events (workflow_thread_id) where workflow_thread_id is not null;

create table public.webhook_deliveries (
  event_id uuid primary key references public.webhook_events (id) on delete cascade,
  api_key_id uuid not null,
  url text not null,
  created_at timestamptz not null default now(),
  attempts integer not null default 0 check (attempts >= 0),
  next_attempt_at timestamptz not null default now(),
  claim uuid,
  delivered_at timestamptz,
  dead_at timestamptz,
  last_status integer,
  last_error text,
  check (delivered_at is null or dead_at is null)
) with (fillfactor = 70);
comment on table public.webhook_deliveries is
  'An event on its way to a customer, until it is delivered or given up.';
comment on column public.webhook_deliveries.claim is
  'Who is sending it now; theirs until next_attempt_at, when another may try.';
create index webhook_deliveries_open on public.webhook_deliveries (api_key_id, next_attempt_at)
  where delivered_at is null and dead_at is null;
create index webhook_deliveries_dead on public.webhook_deliveries (created_at)
  where dead_at is not null;
create index webhook_deliveries_created on public.webhook_deliveries (created_at, api_key_id);

-- Events -----------------------------------------------------------------------------------------

create function flow.utc_text(p_at timestamptz) returns text
language sql stable
return to_char(p_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');

create function flow.usd_text(p_amount jsonb) returns text
language sql immutable
return trim_scale((p_amount #>> '{}')::numeric)::text;

create function flow.with_cost_as_text(p_stats jsonb) returns jsonb
language sql stable
return p_stats || jsonb_build_object('cost_usd', flow.usd_text(p_stats -> 'cost_usd'));

-- The account with its money as strings, so that no parser on its way makes floats of it. What has a
-- cost of its own is a section, as tts and stt are.
create function flow.told_usage(p_stats jsonb) returns jsonb
language sql stable
set search_path = ''
as $$
  select p_stats
    || (
      select coalesce(jsonb_object_agg(s.key, flow.with_cost_as_text(s.value)), '{}')
      from jsonb_each(p_stats) s
      where s.key <> 'models_used' and jsonb_typeof(s.value) = 'object' and s.value ? 'cost_usd'
    )
    || jsonb_build_object(
      'total_cost_usd', flow.usd_text(p_stats -> 'total_cost_usd'),
      'billable_cost_usd', flow.usd_text(p_stats -> 'billable_cost_usd'),
      'cost_breakdown_usd', (
        select coalesce(jsonb_object_agg(c.key, flow.usd_text(c.value)), '{}')
        from jsonb_each(p_stats -> 'cost_breakdown_usd') c
      ),
      'models_used', (
        select coalesce(jsonb_object_agg(m.key, flow.with_cost_as_text(m.value)), '{}')
        from jsonb_each(p_stats -> 'models_used') m
      )
    )
$$;

-- As GET /api/threads shows a thread, under the same names.
create function flow.told_thread(p_thread public.workflow_threads) returns jsonb
language sql stable
return jsonb_build_object(
  'workflow_thread_id', (p_thread).id,
  'status', (p_thread).status,
  'product', (p_thread).product,
  'agent', nullif((p_thread)."join" -> 'agent', 'null'),
  'billable', (p_thread).billable,
  'created_at', flow.utc_text((p_thread).created_at),
  'connected_at', flow.utc_text((p_thread).connected_at),
  'ended_at', flow.utc_text((p_thread).ended_at),
  'completed_at', flow.utc_text((p_thread).completed_at),
  'end_reason', (p_thread).end_reason,
  'end_requested', (p_thread).end_requested_at is not null,
  'error', (p_thread).error,
  'insights', (p_thread).insights,
  'usage_stats', flow.told_usage((p_thread).usage_stats),
  'metadata', (p_thread).metadata,
  'posthog_trace_id', (p_thread).id
);

create function flow.note_thread_over() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  insert into public.webhook_events (type, api_key_id, team_id, workflow_thread_id, data)
  select 'thread.' || t.status, t.api_key_id, t.team_id, t.id, flow.told_thread(t)
  from public.workflow_threads t
  where t.id = new.id and t.status in ('completed', 'failed')
  on conflict (workflow_thread_id) where period is null do nothing;
  return null;
end
$$;

-- At the end of the transaction that finishes a thread, whichever function does it: the event
-- tells what was committed, including what was written after the move.
create constraint trigger workflow_threads_over after update of status on public.workflow_threads
  deferrable initially deferred
  for each row when (
    new.status is distinct from old.status and new.status in ('completed', 'failed')
    and new."join" ->> 'webhook_url' is not null
  )
  execute function flow.note_thread_over();

create function flow.address_webhook() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  insert into public.webhook_deliveries (event_id, api_key_id, url)
  select new.id, new.api_key_id, a.url
  from (
    select coalesce(
      case when new.type like 'budget.%' then (
        select k.webhook_url from public.api_keys k where k.id = new.api_key_id
      ) end,
      (
        select t."join" ->> 'webhook_url' from public.workflow_threads t
        where t.id = new.workflow_thread_id
      )
    ) as url
  ) a
  where a.url is not null;
  return null;
end
$$;
comment on function flow.address_webhook is
  'A budget event goes to its key''s URL or else to that of the thread that crossed the threshold; '
  'a thread''s event to the thread''s. Without any URL nobody is told.';

create trigger webhook_events_address after insert on public.webhook_events
  for each row execute function flow.address_webhook();

-- Deliveries: who sends what now, and what came of it --------------------------------------------

create function flow.webhook_secrets(p_key public.api_keys, p_now timestamptz) returns jsonb
language sql immutable
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
set enable_seqscan = off
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
set enable_seqscan = off
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

-- What an operator sees and sets -----------------------------------------------------------------

create function flow.delivery_json(
  p_delivery public.webhook_deliveries, p_event public.webhook_events, p_now timestamptz
) returns jsonb
language sql stable
return jsonb_build_object(
  'event_id', (p_event).id,
  'type', (p_event).type,
  'api_key_id', (p_event).api_key_id,
  'team_id', (p_event).team_id,
  'workflow_thread_id', (p_event).workflow_thread_id,
  'created_at', (p_delivery).created_at,
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
  p_api_key_id uuid default null,
  p_dead boolean default false,
  p_limit integer default 100,
  p_before_created_at timestamptz default null,
  p_before_id uuid default null
) returns jsonb
language sql stable
set search_path = ''
as $$
  with found as (
    select d as delivery from public.webhook_deliveries d
    where (p_api_key_id is null or d.api_key_id = p_api_key_id)
      and (not p_dead or d.dead_at is not null)
      and (d.created_at, d.event_id) < (
        coalesce(p_before_created_at, 'infinity'),
        coalesce(p_before_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
      )
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
set enable_seqscan = off
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
return jsonb_build_object(
  'current', (p_key).webhook_secret,
  'previous', case
    when (p_key).webhook_secret_previous_until > now() then (p_key).webhook_secret_previous
  end,
  'previous_until', case
    when (p_key).webhook_secret_previous_until > now() then (p_key).webhook_secret_previous_until
  end
);

-- The key's secrets. p_made becomes its secret if it has none; of several at once the first wins.
create function public.get_webhook_secrets(p_api_key_id uuid, p_made text) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
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
set enable_seqscan = off
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

select flow.restrict_to_service_role(array['webhook_events', 'webhook_deliveries'], array[
  'claim_webhook_deliveries', 'note_webhook_delivered', 'note_webhook_failed',
  'list_webhook_deliveries', 'get_webhook_delivery', 'replay_webhook_delivery',
  'replay_dead_webhook_deliveries', 'get_webhook_secrets', 'rotate_webhook_secret',
  'get_webhook_url', 'set_webhook_url'
]);
