-- Everything in the database, as the migrations leave it. Written by `make schema`; to change
-- something, add a migration.

-- Roles -------------------------------------------------------------------------------------------
-- Who may call what. Supabase brings the roles anon, authenticated and service_role; a plain
-- Postgres gets them here so that the same grants hold there. Where roles may not be made, the
-- connecting owner is the only one who can use the tables, which is as safe.
do $$
declare
  v_role text;
  v_options text;
begin
  for v_role, v_options in values
    ('anon', 'nologin noinherit'),
    ('authenticated', 'nologin noinherit'),
    ('service_role', 'nologin noinherit bypassrls')
  loop
    begin
      if not exists (select from pg_catalog.pg_roles where rolname = v_role) then
        execute format('create role %I %s', v_role, v_options);
      end if;
    exception
      when insufficient_privilege or duplicate_object or unique_violation then
        raise notice 'role % was not made: %', v_role, sqlerrm;
    end;
  end loop;
end
$$

create function flow.restrict_to_service_role(p_tables text[], p_functions text[]) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_object text;
  v_role text;
  v_roles text[] := array(
    select rolname from pg_catalog.pg_roles
    where rolname in ('anon', 'authenticated', 'service_role')
  );
begin
  foreach v_object in array p_tables loop
    if exists (
      select from pg_catalog.pg_class c
      where c.relnamespace = 'public'::pg_catalog.regnamespace
        and c.relname = v_object and c.relkind = 'r'
    ) then
      execute format('alter table public.%I enable row level security', v_object);
    end if;
    execute format('revoke all on public.%I from public', v_object);
    foreach v_role in array v_roles loop
      execute format('revoke all on public.%I from %I', v_object, v_role);
    end loop;
    if 'service_role' = any (v_roles) then
      execute format('grant select, insert, update, delete on public.%I to service_role', v_object);
    end if;
  end loop;

  -- The sequences of identity columns, which Postgres itself uses for whoever may insert.
  for v_object in
    select s.oid::pg_catalog.regclass::text
    from pg_catalog.pg_class s
    join pg_catalog.pg_depend d on d.objid = s.oid
      and d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
      and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.deptype in ('a', 'i')
    join pg_catalog.pg_class c on c.oid = d.refobjid
    where s.relkind = 'S' and c.relnamespace = 'public'::pg_catalog.regnamespace
      and c.relname = any (p_tables)
  loop
    execute format('revoke all on sequence %s from public', v_object);
    foreach v_role in array v_roles loop
      execute format('revoke all on sequence %s from %I', v_object, v_role);
    end loop;
  end loop;

  for v_object in
    select p.oid::pg_catalog.regprocedure::text
    from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    where n.nspname = 'flow' or (n.nspname = 'public' and p.proname = any (p_functions))
  loop
    execute format('revoke all on function %s from public', v_object);
    foreach v_role in array v_roles loop
      execute format('revoke all on function %s from %I', v_object, v_role);
    end loop;
    if 'service_role' = any (v_roles) then
      execute format('grant execute on function %s to service_role', v_object);
    end if;
  end loop;
end
$$;
-- Ends a migration: row-level security without a policy on the tables, and no use of tables, their
--   sequences, public functions named and functions of schema flow by anyone but service_role and
--   the owner.

-- Keys --------------------------------------------------------------------------------------------
-- API keys: who uses Flow, on whose budget.

create table public.api_keys (
  id uuid not null default gen_random_uuid(),
  unkey_key_id text not null,
  team_id text collate "C" not null,
  name text,
  created_at timestamp with time zone not null default now(),
  updated_at timestamp with time zone not null default now(),
  budget_usd numeric,
  budget_override_until timestamp with time zone,
  requests_per_minute integer,
  tokens_per_minute bigint,
  concurrent_requests integer,
  save_mode text,
  revoked_at timestamp with time zone,
  webhook_url text,
  webhook_secret text,
  webhook_secret_previous text,
  webhook_secret_previous_until timestamp with time zone,
  constraint api_keys_pkey PRIMARY KEY (id),
  constraint api_keys_unkey_key_id_key UNIQUE (unkey_key_id),
  constraint api_keys_budget_usd_check CHECK (budget_usd < '1000000000000'::numeric),
  constraint api_keys_concurrent_requests_check CHECK (concurrent_requests > 0),
  constraint api_keys_requests_per_minute_check CHECK (requests_per_minute > 0),
  constraint api_keys_save_mode_check CHECK (save_mode = ANY (ARRAY['off'::text, 'auto'::text, 'on'::text])),
  constraint api_keys_team_id_check CHECK (octet_length(team_id) >= 1 AND octet_length(team_id) <= 255),
  constraint api_keys_tokens_per_minute_check CHECK (tokens_per_minute > 0 AND tokens_per_minute::numeric < '1000000000000'::numeric),
  constraint api_keys_unkey_key_id_check CHECK (octet_length(unkey_key_id) >= 1 AND octet_length(unkey_key_id) <= 255),
  constraint api_keys_webhook_secret_check CHECK (webhook_secret ~ '^whsec_[A-Za-z0-9+/]{32,}={0,2}$'::text),
  constraint api_keys_webhook_url_check CHECK (char_length(webhook_url) >= 1 AND char_length(webhook_url) <= 2048)
);
-- One row per Unkey key seen. The secret is never stored; unkey_key_id names it.
-- budget_usd: USD a month (UTC); none if null, zero or less.
-- budget_override_until: Until then the budget refuses nothing.
-- requests_per_minute: Of requests to the gateway, as tokens_per_minute and concurrent_requests
--   are; null: no limit.
-- revoked_at: When an operator revoked it; the ledger stays.
-- webhook_url: Where the key's budget events go.
-- webhook_secret: Signs every webhook of the key. No function tells it but those that claim
--   deliveries or ask for it.
-- webhook_secret_previous: Signs beside the current one until webhook_secret_previous_until.

create function public.flow_ping() returns jsonb
language sql stable
set search_path = ''
return jsonb_build_object('ok', true);

create function public.resolve_api_key(
  p_unkey_key_id text,
  p_team_id text,
  p_name text default NULL::text
) returns jsonb
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

-- Threads -----------------------------------------------------------------------------------------
-- Threads: one call each, from its join to its settled account, and its transcript.

create table public.workflow_threads (
  id uuid not null,
  api_key_id uuid not null,
  team_id text collate "C" not null,
  product text collate "C" not null,
  billable boolean not null,
  status text not null default 'created'::text,
  "join" jsonb not null,
  agent_id uuid,
  agent_version integer,
  metadata jsonb not null default '{}'::jsonb,
  usage_stats jsonb not null,
  insights jsonb,
  error jsonb,
  end_reason text,
  idempotency_key text,
  fingerprint text not null,
  created_at timestamp with time zone not null default now(),
  connected_at timestamp with time zone,
  ended_at timestamp with time zone,
  completed_at timestamp with time zone,
  end_requested_at timestamp with time zone,
  heartbeat_at timestamp with time zone,
  claimed_by text,
  lease_until timestamp with time zone,
  reserved_usd numeric not null default 0,
  reserved_secs numeric not null default 0,
  recorded_usd numeric generated always as (((usage_stats ->> 'total_cost_usd'::text))::numeric) stored,
  recorded_call_secs numeric generated always as (((usage_stats ->> 'call_seconds'::text))::numeric) stored,
  budget_override boolean not null default false,
  buckets jsonb not null default '{}'::jsonb,
  constraint workflow_threads_pkey PRIMARY KEY (id),
  constraint workflow_threads_owner_key UNIQUE (id, api_key_id, team_id, product),
  constraint workflow_threads_agent_fkey FOREIGN KEY (agent_id, agent_version) REFERENCES agent_versions(agent_id, version),
  constraint workflow_threads_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys(id) ON DELETE CASCADE,
  constraint workflow_threads_idempotency_key_check CHECK (octet_length(idempotency_key) <= 1020),
  constraint workflow_threads_product_check CHECK (octet_length(product) >= 1 AND octet_length(product) <= 512),
  constraint workflow_threads_reserved_secs_check CHECK (reserved_secs >= 0::numeric AND reserved_secs < '1000000000'::numeric),
  constraint workflow_threads_reserved_usd_check CHECK (reserved_usd >= 0::numeric AND reserved_usd < '1000000000000'::numeric),
  constraint workflow_threads_status_check CHECK (status = ANY (ARRAY['created'::text, 'connecting'::text, 'in_call'::text, 'ended'::text, 'extracting'::text, 'completed'::text, 'failed'::text, 'expired'::text, 'cancelled'::text])),
  constraint workflow_threads_team_id_check CHECK (octet_length(team_id) >= 1 AND octet_length(team_id) <= 255)
) with (fillfactor=70, toast_tuple_target=4080);
-- One call, from its join to its settled account.
-- join: The accepted join request.
-- agent_id: The agent it was made with, whose version is agent_version; its join has all that came
--   of that.
-- usage_stats: The running account, for reading; usage_events is the truth.
-- completed_at: When it reached any final state.
-- claimed_by: The session that runs the call. Set once; the same session may claim again.
-- lease_until: Until then the thread counts as live without another sign of life.
-- reserved_usd: Held of the budget and of credits while the thread is live, less what it has
--   recorded.
-- buckets: The credits that its billable cost counts against, with all products that do:
--   {"ai_credits": ["voice_bot"]}.
CREATE INDEX idx_workflow_threads_api_key_id ON workflow_threads USING btree (api_key_id, created_at DESC, id DESC);
CREATE INDEX workflow_threads_agent ON workflow_threads USING btree (api_key_id, agent_id, created_at DESC, id DESC) WHERE agent_id IS NOT NULL;
CREATE INDEX workflow_threads_created ON workflow_threads USING btree (created_at DESC, id DESC) WHERE created_at > '-infinity'::timestamp with time zone;
CREATE UNIQUE INDEX workflow_threads_idempotency_key ON workflow_threads USING btree (api_key_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX workflow_threads_live ON workflow_threads USING btree (api_key_id) WHERE status = ANY (ARRAY['created'::text, 'connecting'::text, 'in_call'::text, 'ended'::text, 'extracting'::text]);
CREATE INDEX workflow_threads_team_created ON workflow_threads USING btree (team_id, created_at DESC, id DESC) WHERE created_at > '-infinity'::timestamp with time zone;
CREATE INDEX workflow_threads_team_live ON workflow_threads USING btree (team_id) WHERE (status <> ALL (ARRAY['completed'::text, 'failed'::text, 'expired'::text, 'cancelled'::text])) AND team_id IS NOT NULL;
CREATE INDEX workflow_threads_unsuccessful ON workflow_threads USING btree (api_key_id, created_at DESC, id DESC) WHERE status = ANY (ARRAY['failed'::text, 'expired'::text, 'cancelled'::text]);
CREATE INDEX workflow_threads_unsuccessful_created ON workflow_threads USING btree (status, created_at DESC, id DESC) WHERE status = ANY (ARRAY['failed'::text, 'expired'::text, 'cancelled'::text]);
CREATE TRIGGER workflow_threads_billable BEFORE UPDATE OF billable ON workflow_threads FOR EACH ROW WHEN (new.billable IS DISTINCT FROM old.billable) EXECUTE FUNCTION flow.refuse_change_of_billable();
CREATE TRIGGER workflow_threads_move BEFORE UPDATE OF status ON workflow_threads FOR EACH ROW WHEN (new.status IS DISTINCT FROM old.status) EXECUTE FUNCTION flow.check_move();
CREATE TRIGGER workflow_threads_start BEFORE INSERT ON workflow_threads FOR EACH ROW WHEN (new.status <> 'created'::text) EXECUTE FUNCTION flow.check_move();
CREATE CONSTRAINT TRIGGER workflow_threads_told AFTER UPDATE OF status ON workflow_threads DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (new.status IS DISTINCT FROM old.status AND (new.status = ANY (ARRAY['in_call'::text, 'completed'::text, 'failed'::text])) AND (new."join" ->> 'webhook_url'::text) IS NOT NULL) EXECUTE FUNCTION flow.note_thread_event();

create table public.workflow_thread_turns (
  workflow_thread_id uuid not null,
  seq integer not null,
  role text not null,
  content text not null,
  started_at timestamp with time zone not null,
  interrupted boolean not null default false,
  latency jsonb,
  constraint workflow_thread_turns_pkey PRIMARY KEY (workflow_thread_id, seq),
  constraint workflow_thread_turns_workflow_thread_id_fkey FOREIGN KEY (workflow_thread_id) REFERENCES workflow_threads(id) ON DELETE CASCADE,
  constraint workflow_thread_turns_seq_check CHECK (seq >= 0)
);
-- The transcript: one row per utterance.
-- latency: Of a reply: the seconds the caller waited for it, by what was waited for.

create table public.workflow_thread_tool_calls (
  workflow_thread_id uuid not null,
  id uuid not null,
  name text not null,
  arguments jsonb not null,
  started_at timestamp with time zone not null,
  outcome text not null,
  seconds numeric,
  status integer,
  result jsonb,
  transition_to text,
  place bigint not null generated always as identity,
  constraint workflow_thread_tool_calls_pkey PRIMARY KEY (workflow_thread_id, id),
  constraint workflow_thread_tool_calls_workflow_thread_id_fkey FOREIGN KEY (workflow_thread_id) REFERENCES workflow_threads(id) ON DELETE CASCADE,
  constraint workflow_thread_tool_calls_outcome_check CHECK (outcome = ANY (ARRAY['running'::text, 'ok'::text, 'failed'::text, 'timeout'::text, 'invalid_arguments'::text, 'refused'::text, 'cancelled'::text, 'unknown'::text])),
  constraint workflow_thread_tool_calls_seconds_check CHECK (seconds >= 0::numeric)
);
-- What bots did beside talking: one row per use of a tool, written when it starts and when it is
--   over.
-- result: What the model was told of it.
-- transition_to: The node of the bot's flow that the call went to with it.
-- place: Higher than all that the thread had when this was written, or written again.
CREATE TRIGGER workflow_thread_tool_calls_failed AFTER INSERT OR UPDATE OF outcome ON workflow_thread_tool_calls FOR EACH ROW WHEN (new.outcome = ANY (ARRAY['failed'::text, 'timeout'::text, 'unknown'::text])) EXECUTE FUNCTION flow.note_tool_failed();

create table public.workflow_thread_moves (
  from_status text not null,
  to_status text not null,
  constraint workflow_thread_moves_pkey PRIMARY KEY (from_status, to_status)
);
-- Every legal move of a thread; all others are refused.

create function flow.is_final(p_status text) returns boolean
language sql immutable
return p_status in ('completed', 'failed', 'expired', 'cancelled');

create function flow.check_move() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if tg_op = 'INSERT' then
    raise exception 'A thread starts as created, not as %.', new.status
      using errcode = 'PT409', detail = 'illegal_transition';
  end if;
  if not exists (
    select from public.workflow_thread_moves m
    where m.from_status = old.status and m.to_status = new.status
  ) then
    raise exception 'A thread cannot move from % to %.', old.status, new.status
      using errcode = 'PT409', detail = 'illegal_transition';
  end if;
  if new.status = 'in_call' then
    new.connected_at := coalesce(old.connected_at, now());
  end if;
  if flow.is_final(new.status) then
    new.completed_at := coalesce(old.completed_at, now());
  end if;
  if new.status = 'ended' or (flow.is_final(new.status) and old.connected_at is not null) then
    new.ended_at := coalesce(old.ended_at, now());
  end if;
  return new;
end
$$;

create function flow.refuse_change_of_billable() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  raise exception 'What a thread was joined as is not changed: billable stays %.', old.billable
    using errcode = 'PT409', detail = 'ledger_immutable';
end
$$;

-- How long a sign of life holds: some missed heartbeats, or the longest step after a call. A thread
-- that waits for its caller has what its join gave it.
create function flow.lease(p_status text) returns interval
language sql immutable
return case
  when p_status in ('connecting', 'in_call') then interval '45 seconds'
  when p_status in ('ended', 'extracting') then interval '5 minutes'
end;

create function flow.refuse_missing_thread(p_thread_id uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception 'There is no thread % for this key.', p_thread_id using errcode = 'PT404';
end
$$;

create function flow.transcript(p_thread_id uuid) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
  return (
    select coalesce(
      jsonb_agg(
        jsonb_build_object(
          'seq', u.seq, 'role', u.role, 'content', u.content,
          'started_at', u.started_at, 'interrupted', u.interrupted, 'latency', u.latency
        ) order by u.seq
      ),
      '[]'
    )
    from public.workflow_thread_turns u where u.workflow_thread_id = p_thread_id
  );
end
$$;

-- A use that is still running when the call is over was cut off with its process.
create function flow.tool_calls(p_thread workflow_threads) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_is_over boolean := p_thread.status not in ('created', 'connecting', 'in_call');
begin
  return (
    select coalesce(
      jsonb_agg(
        jsonb_build_object(
          'id', u.id, 'name', u.name, 'arguments', u.arguments, 'started_at', u.started_at,
          'outcome', case when u.outcome = 'running' and v_is_over then 'unknown' else u.outcome end,
          'seconds', u.seconds, 'status', u.status, 'result', u.result,
          'transition_to', u.transition_to
        ) order by u.started_at, u.id
      ),
      '[]'
    )
    from public.workflow_thread_tool_calls u where u.workflow_thread_id = p_thread.id
  );
end
$$;

create function flow.thread_json(
  p_thread workflow_threads,
  p_transcript jsonb default '[]'::jsonb,
  p_tool_calls jsonb default '[]'::jsonb
) returns jsonb
language sql stable
return jsonb_build_object(
  'id', (p_thread).id,
  'api_key_id', (p_thread).api_key_id,
  'team_id', (p_thread).team_id,
  'product', (p_thread).product,
  'billable', (p_thread).billable,
  'status', (p_thread).status,
  'join', (p_thread)."join",
  'transcript', p_transcript,
  'tool_calls', p_tool_calls,
  'insights', (p_thread).insights,
  'usage_stats', (p_thread).usage_stats,
  'metadata', (p_thread).metadata,
  'error', (p_thread).error,
  'end_reason', (p_thread).end_reason,
  'end_requested_at', (p_thread).end_requested_at,
  'heartbeat_at', (p_thread).heartbeat_at,
  'created_at', (p_thread).created_at,
  'connected_at', (p_thread).connected_at,
  'ended_at', (p_thread).ended_at,
  'completed_at', (p_thread).completed_at
);

create function flow.whole_thread_json(p_thread workflow_threads) returns jsonb
language sql stable
return flow.thread_json(p_thread, flow.transcript((p_thread).id), flow.tool_calls(p_thread));

create function public.get_workflow_thread_data(p_thread_id uuid, p_api_key_id uuid default NULL::uuid) returns jsonb
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_thread public.workflow_threads;
begin
  select * into v_thread from public.workflow_threads t
  where t.id = p_thread_id and (p_api_key_id is null or t.api_key_id = p_api_key_id);
  if not found then
    perform flow.refuse_missing_thread(p_thread_id);
  end if;
  return flow.whole_thread_json(v_thread);
end
$$;

-- Planned for just the filters that are given, each with the index that serves it.
create function public.list_workflow_threads(
  p_api_key_id uuid,
  p_limit integer,
  p_before_created_at timestamp with time zone default NULL::timestamp with time zone,
  p_before_id uuid default NULL::uuid,
  p_status text default NULL::text,
  p_product text default NULL::text,
  p_agent_id uuid default NULL::uuid,
  p_running boolean default false,
  p_from date default NULL::date,
  p_to date default NULL::date
) returns jsonb
language plpgsql stable
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_conditions text := concat_ws(
    ' and ',
    't.api_key_id = $2',
    case when p_before_id is not null then '(t.created_at, t.id) < ($3, $4)' end,
    case when p_status is not null then format('t.status = %L', p_status) end,
    case when p_product is not null then 't.product = $5' end,
    case when p_agent_id is not null then 't.agent_id = $8' end,
    case when p_running then $sql$t.status in ('connecting', 'in_call')$sql$ end,
    case when p_from is not null then $sql$t.created_at >= $6::timestamp at time zone 'UTC'$sql$ end,
    case when p_to is not null then $sql$t.created_at < ($7 + 1)::timestamp at time zone 'UTC'$sql$ end
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
          flow.thread_json(p.thread) order by (p.thread).created_at desc, (p.thread).id desc
        ),
        '[]'
      )
      from page p
    $sql$,
    v_conditions
  )
  into v_found
  using p_limit, p_api_key_id, p_before_created_at, p_before_id, p_product, p_from, p_to,
    p_agent_id;
  return v_found;
end
$$;

-- A sign of life, as every change of a running thread is: it renews the lease.
create function public.claim_thread(p_thread_id uuid, p_claim text) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_thread public.workflow_threads;
begin
  update public.workflow_threads t set
    status = 'connecting',
    claimed_by = p_claim,
    heartbeat_at = now(),
    lease_until = now() + flow.lease('connecting')
  where t.id = p_thread_id
    and (t.status = 'created' or (t.status = 'connecting' and t.claimed_by = p_claim))
  returning * into v_thread;
  if not found then
    select * into v_thread from public.workflow_threads t where t.id = p_thread_id;
    if not found then
      perform flow.refuse_missing_thread(p_thread_id);
    end if;
    raise exception 'The call cannot be connected to: it is %.', v_thread.status
      using errcode = 'PT409', detail = 'already_connected';
  end if;
  return flow.thread_json(v_thread);
end
$$;

create function public.save_workflow_thread_data(
  p_thread_id uuid,
  p_status text default NULL::text,
  p_turns jsonb default '[]'::jsonb,
  p_insights jsonb default NULL::jsonb,
  p_end_reason text default NULL::text,
  p_error jsonb default NULL::jsonb,
  p_end_requested boolean default false
) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_thread public.workflow_threads;
begin
  update public.workflow_threads t set
    status = coalesce(p_status, t.status),
    insights = coalesce(p_insights, t.insights),
    end_reason = coalesce(p_end_reason, t.end_reason),
    error = coalesce(p_error, t.error),
    end_requested_at = case
      when p_end_requested then coalesce(t.end_requested_at, now()) else t.end_requested_at
    end,
    heartbeat_at = now(),
    lease_until = coalesce(now() + flow.lease(coalesce(p_status, t.status)), t.lease_until)
  where t.id = p_thread_id
  returning * into v_thread;
  if not found then
    perform flow.refuse_missing_thread(p_thread_id);
  end if;

  insert into public.workflow_thread_turns (
    workflow_thread_id, seq, role, content, started_at, interrupted, latency
  )
  select p_thread_id, n.seq, n.role, n.content, n.started_at, n.interrupted, n.latency
  from jsonb_to_recordset(p_turns) as n (
    seq integer, role text, content text, started_at timestamptz, interrupted boolean, latency jsonb
  )
  order by n.seq
  on conflict (workflow_thread_id, seq) do update set
    role = excluded.role, content = excluded.content,
    started_at = excluded.started_at, interrupted = excluded.interrupted, latency = excluded.latency;
  return flow.whole_thread_json(v_thread);
end
$$;

-- What was extracted first stays.
create function public.save_insights(p_thread_id uuid, p_insights jsonb) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_thread public.workflow_threads;
begin
  update public.workflow_threads t set
    insights = coalesce(t.insights, p_insights),
    heartbeat_at = now(),
    lease_until = greatest(t.lease_until, now() + flow.lease(t.status))
  where t.id = p_thread_id
  returning * into v_thread;
  if not found then
    perform flow.refuse_missing_thread(p_thread_id);
  end if;
  return flow.whole_thread_json(v_thread);
end
$$;

-- The transcript by itself: what was said is stored whenever it comes, and says nothing of the call.
create function public.save_turns(p_turns jsonb) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_unknown jsonb;
begin
  -- Threads are held fast, since a key may be deleted meanwhile, and in one order for all.
  perform from public.workflow_threads t
  where t.id in (select (n.value ->> 'workflow_thread_id')::uuid from jsonb_array_elements(p_turns) n)
  order by t.id
  for key share;

  insert into public.workflow_thread_turns (
    workflow_thread_id, seq, role, content, started_at, interrupted, latency
  )
  select n.workflow_thread_id, n.seq, n.role, n.content, n.started_at, n.interrupted, n.latency
  from jsonb_to_recordset(p_turns) as n (
    workflow_thread_id uuid, seq integer, role text, content text, started_at timestamptz,
    interrupted boolean, latency jsonb
  )
  where exists (select from public.workflow_threads t where t.id = n.workflow_thread_id)
  order by n.workflow_thread_id, n.seq
  on conflict (workflow_thread_id, seq) do nothing;

  select coalesce(jsonb_agg(distinct n.value -> 'workflow_thread_id'), '[]') into v_unknown
  from jsonb_array_elements(p_turns) n
  where not exists (
    select from public.workflow_threads t where t.id = (n.value ->> 'workflow_thread_id')::uuid
  );
  return v_unknown;
end
$$;
-- Stores turns [{"workflow_thread_id", "seq", "role", "content", "started_at", "interrupted",
--   "latency"}] of any threads in any state, each once; gives the threads that do not exist. Unlike
--   save_workflow_thread_data it is no sign of life: a dead process's turns may come late.

create function public.save_tool_calls(p_calls jsonb) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_unknown jsonb;
begin
  -- As for turns: held fast, in one order for all; and one at a time for a thread, so that whoever
  -- sees a place sees all that are lower.
  perform from public.workflow_threads t
  where t.id in (select (n.value ->> 'workflow_thread_id')::uuid from jsonb_array_elements(p_calls) n)
  order by t.id
  for no key update;

  -- The start of a use and its outcome may come together, and only the outcome is of interest then.
  insert into public.workflow_thread_tool_calls as known (
    workflow_thread_id, id, name, arguments, started_at, outcome, seconds, status, result,
    transition_to
  )
  select
    u.workflow_thread_id, u.id, u.name, u.arguments, u.started_at, u.outcome, u.seconds, u.status,
    u.result, u.transition_to
  from (
    select distinct on (n.workflow_thread_id, n.id) n.*
    from jsonb_to_recordset(p_calls) as n (
      workflow_thread_id uuid, id uuid, name text, arguments jsonb, started_at timestamptz,
      outcome text, seconds numeric, status integer, result jsonb, transition_to text
    )
    where exists (select from public.workflow_threads t where t.id = n.workflow_thread_id)
    order by n.workflow_thread_id, n.id, n.outcome = 'running', n.outcome = 'unknown'
  ) u
  order by u.started_at, u.id
  on conflict (workflow_thread_id, id) do update set
    outcome = excluded.outcome,
    seconds = excluded.seconds,
    status = excluded.status,
    result = excluded.result,
    transition_to = excluded.transition_to,
    place = default
  where excluded.outcome <> 'running'
    and (known.outcome = 'running' or (known.outcome = 'unknown' and excluded.outcome <> 'unknown'));

  select coalesce(jsonb_agg(distinct n.value -> 'workflow_thread_id'), '[]') into v_unknown
  from jsonb_array_elements(p_calls) n
  where not exists (
    select from public.workflow_threads t where t.id = (n.value ->> 'workflow_thread_id')::uuid
  );
  return v_unknown;
end
$$;
-- Stores uses of tools [{"workflow_thread_id", "id", "name", "arguments", "started_at", "outcome",
--   "seconds", "status", "result", "transition_to"}] of any threads in any state; gives the threads
--   that do not exist. The first outcome of a use stands, but for "running", and for "unknown"
--   where more becomes known.

-- A sign of life by itself: a call gives one every few seconds, and needs no transcript for it.
create function public.touch_thread(p_thread_id uuid, p_status text default NULL::text) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_pulse jsonb;
begin
  update public.workflow_threads t set
    status = coalesce(p_status, t.status),
    heartbeat_at = now(),
    lease_until = coalesce(now() + flow.lease(coalesce(p_status, t.status)), t.lease_until)
  where t.id = p_thread_id
  returning jsonb_build_object('status', t.status, 'end_requested', t.end_requested_at is not null)
  into v_pulse;
  if not found then
    perform flow.refuse_missing_thread(p_thread_id);
  end if;
  return v_pulse;
end
$$;
-- A sign of life of a running call, which may move it; gives its status and whether it is to end.

create function public.expire_threads(p_created_before timestamp with time zone) returns jsonb
language sql
set search_path = ''
set enable_seqscan = off
as $$
  with waiting as (
    select t.id from public.workflow_threads t
    where t.status = 'created' and t.created_at < p_created_before
    order by t.id
    for no key update skip locked
  ), moved as (
    update public.workflow_threads t set status = 'expired'
    from waiting w where t.id = w.id
    returning t.id, t.created_at
  )
  select coalesce(jsonb_agg(m.id order by m.created_at, m.id), '[]') from moved m
$$;

-- Webhooks ----------------------------------------------------------------------------------------
-- What customers are told of their calls and budgets, and how it gets to them.

create table public.webhook_events (
  id uuid not null default gen_random_uuid(),
  type text not null,
  api_key_id uuid not null,
  team_id text collate "C" not null,
  workflow_thread_id uuid,
  period date,
  scope text,
  tool_call_id uuid,
  data jsonb not null,
  created_at timestamp with time zone not null default now(),
  constraint webhook_events_pkey PRIMARY KEY (id),
  constraint webhook_events_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys(id) ON DELETE CASCADE,
  constraint webhook_events_workflow_thread_id_fkey FOREIGN KEY (workflow_thread_id) REFERENCES workflow_threads(id) ON DELETE CASCADE,
  constraint webhook_events_check CHECK ((period IS NULL) <> (type ~~ 'budget.%'::text)),
  constraint webhook_events_check1 CHECK ((tool_call_id IS NULL) = (type <> 'tool.failed'::text)),
  constraint webhook_events_scope_check CHECK (scope = ANY (ARRAY['key'::text, 'team'::text])),
  constraint webhook_events_type_check CHECK (type = ANY (ARRAY['thread.started'::text, 'thread.completed'::text, 'thread.failed'::text, 'tool.failed'::text, 'budget.warn'::text, 'budget.exceeded'::text]))
);
-- What customers are to be told, each once.
-- scope: Whose budget an event of one is about.
CREATE UNIQUE INDEX webhook_events_once_a_period ON webhook_events USING btree (api_key_id, type, period, scope) WHERE period IS NOT NULL;
CREATE UNIQUE INDEX webhook_events_over ON webhook_events USING btree (workflow_thread_id) WHERE type = ANY (ARRAY['thread.completed'::text, 'thread.failed'::text]);
CREATE UNIQUE INDEX webhook_events_started ON webhook_events USING btree (workflow_thread_id) WHERE type = 'thread.started'::text;
CREATE INDEX webhook_events_thread ON webhook_events USING btree (workflow_thread_id) WHERE workflow_thread_id IS NOT NULL;
CREATE UNIQUE INDEX webhook_events_tool_call ON webhook_events USING btree (workflow_thread_id, tool_call_id) WHERE tool_call_id IS NOT NULL;
CREATE TRIGGER webhook_events_address AFTER INSERT ON webhook_events FOR EACH ROW EXECUTE FUNCTION flow.address_webhook();

create table public.webhook_deliveries (
  event_id uuid not null,
  api_key_id uuid not null,
  url text not null,
  created_at timestamp with time zone not null default now(),
  attempts integer not null default 0,
  next_attempt_at timestamp with time zone not null default now(),
  claim uuid,
  delivered_at timestamp with time zone,
  dead_at timestamp with time zone,
  last_status integer,
  last_error text,
  constraint webhook_deliveries_pkey PRIMARY KEY (event_id),
  constraint webhook_deliveries_event_id_fkey FOREIGN KEY (event_id) REFERENCES webhook_events(id) ON DELETE CASCADE,
  constraint webhook_deliveries_attempts_check CHECK (attempts >= 0),
  constraint webhook_deliveries_check CHECK (delivered_at IS NULL OR dead_at IS NULL)
) with (fillfactor=70);
-- An event on its way to a customer, until it is delivered or given up.
-- claim: Who is sending it now; theirs until next_attempt_at, when another may try.
CREATE INDEX webhook_deliveries_created ON webhook_deliveries USING btree (created_at, api_key_id);
CREATE INDEX webhook_deliveries_dead ON webhook_deliveries USING btree (created_at) WHERE dead_at IS NOT NULL;
CREATE INDEX webhook_deliveries_open ON webhook_deliveries USING btree (api_key_id, next_attempt_at) WHERE delivered_at IS NULL AND dead_at IS NULL;

create function flow.utc_text(p_at timestamp with time zone) returns text
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
create function flow.told_thread(p_thread workflow_threads) returns jsonb
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

-- How a thread was when it got to a state that customers are told of.
create function flow.note_thread_event() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  insert into public.webhook_events (type, api_key_id, team_id, workflow_thread_id, data)
  select
    case new.status when 'in_call' then 'thread.started' else 'thread.' || new.status end,
    t.api_key_id, t.team_id, t.id, flow.told_thread(t)
  from public.workflow_threads t
  where t.id = new.id
  on conflict do nothing;
  return null;
end
$$;

-- Of a tool that went wrong, neither arguments nor result: they are content, and are read by key.
create function flow.note_tool_failed() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  insert into public.webhook_events (
    type, api_key_id, team_id, workflow_thread_id, tool_call_id, data
  )
  select 'tool.failed', t.api_key_id, t.team_id, t.id, new.id, jsonb_build_object(
    'workflow_thread_id', t.id,
    'product', t.product,
    'metadata', t.metadata,
    'tool_call_id', new.id,
    'name', new.name,
    'outcome', new.outcome,
    'started_at', flow.utc_text(new.started_at),
    'seconds', new.seconds,
    'http_status', new.status
  )
  from public.workflow_threads t
  where t.id = new.workflow_thread_id and t."join" ->> 'webhook_url' is not null
  on conflict do nothing;
  return null;
end
$$;

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
-- A budget event goes to its key's URL or else to that of the thread that crossed the threshold; a
--   thread's event to the thread's. Without any URL nobody is told.

create function flow.webhook_secrets(p_key api_keys, p_now timestamp with time zone) returns jsonb
language sql immutable
return jsonb_path_query_array(
  jsonb_build_array(
    (p_key).webhook_secret,
    case when (p_key).webhook_secret_previous_until > p_now then (p_key).webhook_secret_previous end
  ),
  '$[*] ? (@ != null)'
);

-- What is sent, the same text at every attempt.
create function flow.webhook_payload(p_event webhook_events) returns text
language sql stable
return json_build_object(
  'type', (p_event).type,
  'timestamp', flow.utc_text((p_event).created_at),
  'data', (p_event).data
)::text;

create function flow.claimed_json(
  p_delivery webhook_deliveries,
  p_now timestamp with time zone
) returns jsonb
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
  p_now timestamp with time zone default NULL::timestamp with time zone
) returns jsonb
language plpgsql
set search_path = ''
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
  p_event_id uuid,
  p_status integer,
  p_now timestamp with time zone default NULL::timestamp with time zone
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
  p_now timestamp with time zone default NULL::timestamp with time zone
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

create function flow.delivery_json(
  p_delivery webhook_deliveries,
  p_event webhook_events,
  p_now timestamp with time zone
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
  p_api_key_id uuid default NULL::uuid,
  p_dead boolean default false,
  p_limit integer default 100,
  p_before_created_at timestamp with time zone default NULL::timestamp with time zone,
  p_before_id uuid default NULL::uuid
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

create function public.replay_webhook_delivery(
  p_event_id uuid,
  p_now timestamp with time zone default NULL::timestamp with time zone
) returns jsonb
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
  p_api_key_id uuid default NULL::uuid,
  p_now timestamp with time zone default NULL::timestamp with time zone
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

create function flow.webhook_secrets_json(p_key api_keys) returns jsonb
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
create function public.rotate_webhook_secret(p_api_key_id uuid, p_made text, p_keep_secs double precision) returns jsonb
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

-- Ledger ------------------------------------------------------------------------------------------
-- The ledger: one immutable row per piece of vendor work, and how rows come into it.
--
-- What was used is data: a row has a line for each unit, {"unit", "quantity", "cost_usd"?, "component",
-- "part_of"?} with exact numbers, and no function knows which units, components or kinds there are. A
-- unit with part_of counts some of another line again, so its quantity is never added up. Costs are
-- disjoint on all lines. A unit whose name ends in _tokens counts into total_tokens unless it is a part.

-- Counting in the expression itself ({0,62}) would take ten times as long.
create function flow.is_name(p_text text) returns boolean
language sql immutable
return coalesce(p_text ~ '^[a-z][a-z0-9_]*$' and octet_length(p_text) < 64, false);

create table public.usage_events (
  id uuid not null,
  workflow_thread_id uuid,
  api_key_id uuid not null,
  team_id text collate "C" not null,
  product text collate "C" not null,
  billable boolean not null,
  request_id text,
  trace_id text,
  session_id text,
  distinct_id text,
  kind text collate "C" not null,
  source text collate "C" not null,
  provider text collate "C" not null,
  model text collate "C" not null,
  requested_model text,
  sent_model text,
  service_tier text,
  lines jsonb not null,
  total_cost_usd numeric,
  provenance text not null,
  outcome text not null,
  price_version text,
  occurred_at timestamp with time zone not null,
  stated_at timestamp with time zone,
  latency_secs double precision,
  time_to_first_token_secs double precision,
  stream boolean not null,
  failure_type text,
  failure_message text,
  failure_http_status integer,
  note text,
  capture boolean not null,
  save_mode boolean not null default false,
  save_mode_reason text,
  budget_tier text,
  recorded_at timestamp with time zone not null default now(),
  threadless_api_key_id uuid generated always as (
CASE
    WHEN (workflow_thread_id IS NULL) THEN api_key_id
    ELSE NULL::uuid
END) stored,
  constraint usage_events_pkey PRIMARY KEY (id),
  constraint usage_events_thread_owner FOREIGN KEY (workflow_thread_id, api_key_id, team_id, product) REFERENCES workflow_threads(id, api_key_id, team_id, product) ON DELETE CASCADE,
  constraint usage_events_threadless_api_key_id_fkey FOREIGN KEY (threadless_api_key_id) REFERENCES api_keys(id) ON DELETE CASCADE,
  constraint unmetered_work_has_no_lines CHECK (provenance <> 'unmetered'::text OR lines = '[]'::jsonb AND total_cost_usd IS NULL),
  constraint usage_events_kind_check CHECK (flow.is_name(kind)),
  constraint usage_events_lines_check CHECK (jsonb_typeof(lines) = 'array'::text),
  constraint usage_events_model_check CHECK (octet_length(model) <= 512),
  constraint usage_events_occurred_at_check CHECK (isfinite(occurred_at)),
  constraint usage_events_outcome_check CHECK (outcome = ANY (ARRAY['ok'::text, 'interrupted'::text, 'error'::text])),
  constraint usage_events_product_check CHECK (octet_length(product) >= 1 AND octet_length(product) <= 512),
  constraint usage_events_provenance_check CHECK (flow.is_name(provenance)),
  constraint usage_events_provider_check CHECK (octet_length(provider) >= 1 AND octet_length(provider) <= 128),
  constraint usage_events_source_check CHECK (octet_length(source) >= 1 AND octet_length(source) <= 64),
  constraint usage_events_total_cost_usd_check CHECK (total_cost_usd >= 0::numeric AND total_cost_usd < '1000000000000'::numeric)
);
-- The ledger: one immutable row per piece of vendor work. Rows leave only with their key.
-- workflow_thread_id: The call, where there is one.
-- lines: A line for each unit used: [{"unit", "quantity", "cost_usd"?, "component", "part_of"?}].
-- total_cost_usd: The sum of the lines' costs; NULL when unpriced, which is not free.
-- occurred_at: When it happened, by the clock of this database: it decides the day and month that
--   the cost counts in.
-- stated_at: What the process said instead, where its clock differs; else NULL.
CREATE INDEX usage_events_thread ON usage_events USING btree (workflow_thread_id, occurred_at, id) WHERE workflow_thread_id IS NOT NULL;
CREATE INDEX usage_events_threadless ON usage_events USING btree (threadless_api_key_id, occurred_at, id) WHERE threadless_api_key_id IS NOT NULL;
CREATE TRIGGER usage_events_immutable BEFORE DELETE OR UPDATE ON usage_events FOR EACH ROW EXECUTE FUNCTION flow.refuse_ledger_change();
CREATE TRIGGER usage_events_never_truncated BEFORE TRUNCATE ON usage_events FOR EACH STATEMENT EXECUTE FUNCTION flow.refuse_ledger_change();

create function flow.refuse_ledger_change() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  -- A cascade from the key finds the key gone; then its rollup goes with it and sums still agree.
  if tg_op = 'DELETE' then
    if not exists (select from public.api_keys k where k.id = old.api_key_id) then
      return old;
    end if;
  end if;
  raise exception 'The ledger is immutable: % on usage_events is refused.', lower(tg_op)
    using errcode = 'PT409', detail = 'ledger_immutable';
end
$$;

create table public.rejected_usage_events (
  id bigint not null generated always as identity,
  event jsonb not null,
  event_sha256 bytea not null,
  reason text not null,
  rejected_at timestamp with time zone not null default now(),
  constraint rejected_usage_events_pkey PRIMARY KEY (id),
  constraint rejected_usage_events_event_sha256_key UNIQUE (event_sha256)
);
-- Events the ledger could not take, as they came, each once, for somebody to look at.

create function flow.is_whole_unit(p_unit text) returns boolean
language sql immutable
return right(p_unit, 7) = '_tokens' or right(p_unit, 10) = 'characters';

create function flow.quantity_in(p_lines jsonb, p_unit text) returns numeric
language sql stable
return (
  jsonb_path_query_first(
    p_lines, '$[*] ? (@.unit == $unit).quantity', jsonb_build_object('unit', p_unit)
  ) #>> '{}'
)::numeric;

-- What is wrong with one line of an event by itself, or null.
create function flow.line_problem(
  p_unit text,
  p_quantity numeric,
  p_cost_usd numeric,
  p_component text,
  p_part_of text,
  p_lines jsonb,
  p_total_cost_usd numeric
) returns text
language sql stable
return case
  when not flow.is_name(p_unit) then format('%L is no name of a unit', p_unit)
  when not flow.is_name(p_component) then
    format('%L is no component of cost for %s', p_component, p_unit)
  when (p_quantity > 0) is not true then format('%s is not above zero: %s', p_unit, p_quantity)
  when p_quantity >= 1e9 and not (flow.is_whole_unit(p_unit) and p_quantity < 2147483648)
    then format('%s is out of bounds: %s', p_unit, p_quantity)
  when scale(p_quantity) > 0
    and (scale(p_quantity) > 50 or flow.is_whole_unit(p_unit) and p_quantity <> trunc(p_quantity))
    then format('%s has a fraction it cannot have: %s', p_unit, p_quantity)
  when p_cost_usd is not null and (p_cost_usd >= 0 and p_cost_usd < 1e9 and scale(p_cost_usd) <= 50)
    is not true then format('the cost of %s is out of bounds: %s', p_unit, p_cost_usd)
  when p_cost_usd is not null and p_total_cost_usd is null then
    format('%s costs %s in an event without a total', p_unit, p_cost_usd)
  when p_part_of is null then null
  when p_part_of = p_unit then format('%s is part of itself', p_unit)
  when flow.quantity_in(p_lines, p_part_of) is null then
    format('%s is part of %s, which is not there', p_unit, p_part_of)
  when p_quantity > flow.quantity_in(p_lines, p_part_of) then format(
    '%s (%s) is larger than %s (%s) which contains it',
    p_unit, p_quantity, p_part_of, flow.quantity_in(p_lines, p_part_of)
  )
end;

create function flow.refuse_lines(p_problem text) returns jsonb
language plpgsql
set search_path = ''
as $$
begin
  raise exception '%', p_problem using errcode = 'check_violation';
end
$$;

-- In plpgsql, which keeps plans, and by generic ones: with arrays for arguments a plan made for just
-- this batch always looks cheaper, and planning takes longer than running.
create function flow.insert_usage(p_events jsonb, p_clock_behind interval) returns uuid[]
language plpgsql
set search_path = ''
set TimeZone = UTC
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_new uuid[];
begin
  with fresh as (
    insert into public.usage_events (
      id, workflow_thread_id, api_key_id, team_id, product, billable,
      request_id, trace_id, session_id, distinct_id, kind, source, provider, model, requested_model, sent_model, service_tier,
      lines, total_cost_usd, provenance, outcome,
      price_version, occurred_at, stated_at, latency_secs, time_to_first_token_secs, stream,
      failure_type, failure_message, failure_http_status, note, capture,
      save_mode, save_mode_reason, budget_tier
    )
    select
      e.id, e.workflow_thread_id, coalesce(t.api_key_id, k.id), coalesce(t.team_id, k.team_id),
      coalesce(t.product, e.product), coalesce(e.billable, t.billable),
      e.request_id, e.trace_id, e.session_id, e.distinct_id, e.kind, e.source, e.provider, e.model, e.requested_model, e.sent_model, e.service_tier,
      -- The lines with exact numbers, if nothing is wrong with them. Names need no escaping.
      (
        select case
          when s.problem is not null then flow.refuse_lines(s.problem)
          when s.units <> s.lines then flow.refuse_lines('a unit has two lines')
          when s.cost_usd <> e.total_cost_usd then flow.refuse_lines(
            format('the lines cost %s, which is not the total of %s', s.cost_usd, e.total_cost_usd)
          )
          else s.text::jsonb
        end
        from (
          select
            min(flow.line_problem(
              l.unit, l.quantity, l.cost_usd, l.component, l.part_of, e.lines, e.total_cost_usd
            )) as problem,
            count(*) as lines,
            count(distinct l.unit collate "C") as units,
            coalesce(sum(l.cost_usd), 0) as cost_usd,
            '[' || coalesce(string_agg(
              concat(
                '{"unit":"', l.unit, '","quantity":', l.quantity, ',"cost_usd":' || l.cost_usd,
                ',"component":"', l.component, '"', ',"part_of":"' || l.part_of || '"', '}'
              ),
              ',' order by l.unit collate "C"
            ), '') || ']' as text
          from jsonb_to_recordset(e.lines) as l (
            unit text, quantity numeric, cost_usd numeric, component text, part_of text
          )
        ) s
        where e.lines is not null
      ),
      e.total_cost_usd, e.provenance, e.outcome,
      e.price_version, d.occurred_at, nullif(e.occurred_at, d.occurred_at), e.latency_secs, e.time_to_first_token_secs, e.stream,
      e.failure ->> 'type', e.failure ->> 'message', (e.failure ->> 'http_status')::integer,
      e.note, e.capture, coalesce(e.save_mode, false), e.save_mode_reason, e.budget_tier
    from jsonb_to_recordset(p_events) as e (
      id uuid, workflow_thread_id uuid, api_key_id uuid, team_id text, product text,
      billable boolean, request_id text, trace_id text, session_id text, distinct_id text,
      kind text, source text, provider text, model text, requested_model text, sent_model text, service_tier text, lines jsonb,
      total_cost_usd numeric, provenance text, outcome text, price_version text,
      occurred_at timestamptz, latency_secs double precision,
      time_to_first_token_secs double precision, stream boolean, failure jsonb, note text,
      capture boolean, save_mode boolean, save_mode_reason text, budget_tier text
    )
    left join public.workflow_threads t on t.id = e.workflow_thread_id
    left join public.api_keys k
      on k.id = case when e.workflow_thread_id is null then e.api_key_id end
    -- No process may choose the month that its costs count in. What is no time at all is refused.
    -- A carrier's time is not by the clock that is off: corrected with the others, it is kept within
    -- its call.
    cross join lateral (
      select case
        when isfinite(e.occurred_at) then greatest(
          least(e.occurred_at + p_clock_behind, now()),
          case when p_clock_behind <> interval '0' then t.created_at end
        )
        else e.occurred_at
      end as occurred_at
    ) d
    where case
      when e.workflow_thread_id is null then k.team_id = coalesce(e.team_id, k.team_id)
      else t.api_key_id = coalesce(e.api_key_id, t.api_key_id)
        and t.team_id = coalesce(e.team_id, t.team_id)
        and t.product = coalesce(e.product, t.product)
        -- Insights may be free of charge where the call is not; nothing else differs from the thread.
        and (
          t.billable = coalesce(e.billable, t.billable) or (t.billable and e.source = 'insights')
        )
    end
    order by e.id
    on conflict (id) do nothing
    returning id
  )
  select coalesce(array_agg(f.id), '{}') into v_new from fresh f;
  return v_new;
end
$$;
-- Inserts what is not in the ledger yet; gives its ids. An event of a thread that is not there, or
--   of another owner than its thread's (without a thread: its key's), is left out; one whose lines
--   are wrong fails the batch. None is dated later than now, and each by p_clock_behind later than
--   it says.

-- How far a process's clock is behind this one, below zero where it is ahead. Up to a minute it may be
-- the batch that was on its way.
create function flow.clock_behind(p_sent_at timestamp with time zone) returns interval
language sql stable
return case
  when abs(extract(epoch from now() - p_sent_at)) > 60 then now() - p_sent_at else interval '0'
end;

create function flow.dated_otherwise(p_ids uuid[]) returns json
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
begin
  return (
    select coalesce(json_object_agg(e.id, e.occurred_at), '{}')
    from public.usage_events e where e.id = any (p_ids) and e.stated_at is not null
  );
end
$$;
-- Of these events those that the ledger dates otherwise than their process did: id to occurred_at.

-- What the ledger did not take of a well-formed batch: a reason, or null for a duplicate.
create function flow.unrecorded(p_events jsonb, p_new uuid[]) returns TABLE(id uuid, thread_id uuid, event jsonb, reason text)
language sql stable
set search_path = ''
as $$
  select
    e.id,
    e.thread_id,
    e.event,
    case
      when e.thread_id is not null and t.id is null then 'there is no thread ' || e.thread_id
      when e.thread_id is null and k.id is null then
        'there is no API key ' || coalesce(e.key_id::text, 'named, and no thread')
      when held.id is null and e.thread_id is null then
        'its owner contradicts the key: team_id differs'
      when held.id is null then
        'its owner contradicts the thread: api_key_id, team_id, product or billable differ'
      when held.workflow_thread_id is distinct from e.thread_id then
        'the id belongs to an event of '
        || coalesce('thread ' || held.workflow_thread_id, 'no thread')
      when held.workflow_thread_id is null and held.api_key_id <> e.key_id then
        'the id belongs to an event of another key'
    end
  from (
    select distinct on (id, thread_id, key_id)
      (j.event ->> 'id')::uuid as id,
      (j.event ->> 'workflow_thread_id')::uuid as thread_id,
      (j.event ->> 'api_key_id')::uuid as key_id,
      j.event
    from jsonb_array_elements(p_events) with ordinality as j (event, place)
    order by id, thread_id, key_id, j.place
  ) e
  left join public.workflow_threads t on t.id = e.thread_id
  left join public.api_keys k on k.id = e.key_id
  left join public.usage_events held on held.id = e.id
  where (
    held.id = any (p_new)
    and held.workflow_thread_id is not distinct from e.thread_id
    and (e.thread_id is not null or held.api_key_id = e.key_id)
  ) is not true
$$;

create function flow.keep_rejected(p_event jsonb, p_reason text) returns jsonb
language sql
set search_path = ''
as $$
  insert into public.rejected_usage_events (event, event_sha256, reason)
  values (p_event, sha256(convert_to(p_event::text, 'UTF8')), p_reason)
  on conflict (event_sha256) do nothing;
  select jsonb_build_object('id', p_event -> 'id', 'reason', p_reason)
$$;

-- Why the ledger cannot take one event, or null: it is inserted by itself and taken out again.
create function flow.event_problem(p_event jsonb, p_clock_behind interval) returns text
language plpgsql
set search_path = ''
as $$
begin
  begin
    if (p_event ->> 'id')::uuid is null then
      return 'id must be a UUID';
    end if;
    perform flow.insert_usage(jsonb_build_array(p_event), p_clock_behind);
    raise exception using errcode = 'FLUND';
  exception
    when sqlstate 'FLUND' then return null;
    when data_exception or integrity_constraint_violation then return sqlerrm;
  end;
end
$$;

-- Money and quantities leave as strings: JSON parsers make floats of numbers.
create function flow.event_json(p_event usage_events) returns jsonb
language sql stable
return (
  to_jsonb(p_event) - array[
    'failure_type', 'failure_message', 'failure_http_status', 'threadless_api_key_id', 'stated_at'
  ]
) || jsonb_build_object(
  'lines', (
    select coalesce(
      jsonb_agg(jsonb_build_object(
        'unit', l.unit,
        'quantity', trim_scale(l.quantity)::text,
        'cost_usd', trim_scale(l.cost_usd)::text,
        'component', l.component,
        'part_of', l.part_of
      )),
      '[]'
    )
    from jsonb_to_recordset((p_event).lines) as l (
      unit text, quantity numeric, cost_usd numeric, component text, part_of text
    )
  ),
  'total_cost_usd', trim_scale((p_event).total_cost_usd)::text,
  'failure', case when (p_event).failure_type is not null then jsonb_build_object(
    'type', (p_event).failure_type,
    'message', (p_event).failure_message,
    'http_status', (p_event).failure_http_status
  ) end
);

create function public.get_thread_usage(p_thread_id uuid, p_api_key_id uuid default NULL::uuid) returns jsonb
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
begin
  if not exists (
    select from public.workflow_threads t
    where t.id = p_thread_id and (p_api_key_id is null or t.api_key_id = p_api_key_id)
  ) then
    perform flow.refuse_missing_thread(p_thread_id);
  end if;
  return (
    select coalesce(jsonb_agg(flow.event_json(e) order by e.occurred_at, e.id), '[]')
    from public.usage_events e where e.workflow_thread_id = p_thread_id
  );
end
$$;

-- The key's requests without a thread, newest first.
create function public.list_requests(
  p_api_key_id uuid,
  p_limit integer,
  p_before_occurred_at timestamp with time zone default NULL::timestamp with time zone,
  p_before_id uuid default NULL::uuid,
  p_product text default NULL::text
) returns jsonb
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
begin
  return (
    with page as (
      select e as event, e.occurred_at, e.id
      from public.usage_events e
      where e.threadless_api_key_id = p_api_key_id
        and (e.occurred_at, e.id) < (
          coalesce(p_before_occurred_at, 'infinity'),
          coalesce(p_before_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
        )
        and (p_product is null or e.product = p_product)
      order by e.occurred_at desc, e.id desc
      limit p_limit
    )
    select coalesce(
      jsonb_agg(flow.event_json(p.event) order by p.occurred_at desc, p.id desc), '[]'
    )
    from page p
  );
end
$$;

-- Usage sums --------------------------------------------------------------------------------------
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
  last_paid_at timestamp with time zone,
  lines flow.usage_line[]
);

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

create function flow.stats_with(p_parts flow.usage_part[], p_base jsonb default NULL::jsonb) returns TABLE(thread_id uuid, usage_stats jsonb)
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
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
-- usage_stats of each thread with its parts added, to p_base if that is given.

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

create function public.finish_thread(
  p_thread_id uuid,
  p_status text,
  p_error jsonb default NULL::jsonb
) returns jsonb
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

create function public.end_thread(p_thread_id uuid, p_api_key_id uuid default NULL::uuid) returns jsonb
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
-- Cancels a thread that nobody has connected to, else asks whoever runs it to end it. What is over
--   stays as it is. Gives the thread.

create view public.workflow_thread_usage with (security_invoker=true) as
 SELECT id AS workflow_thread_id,
    api_key_id,
    team_id,
    product,
    billable,
    status,
    (usage_stats ->> 'total_tokens'::text)::bigint AS total_tokens,
    (usage_stats ->> 'total_cost_usd'::text)::numeric AS total_cost_usd,
    (usage_stats ->> 'llm_calls'::text)::bigint AS llm_calls,
    created_at
   FROM workflow_threads t;
-- The head of each usage_stats as columns.

create table public.usage_daily (
  id bigint not null generated always as identity,
  api_key_id uuid not null,
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
  constraint usage_daily_pkey PRIMARY KEY (id),
  constraint usage_daily_api_key_id_day_team_id_product_billable_kind_so_key UNIQUE (api_key_id, day, team_id, product, billable, kind, source, provider, model),
  constraint usage_daily_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys(id) ON DELETE CASCADE
) with (fillfactor=70);
-- The ledger summed by key and UTC day of occurred_at. Unpriced events, of which unmetered ones are
--   some, add nothing to the cost.
CREATE INDEX usage_daily_unpriced ON usage_daily USING btree (day) WHERE unpriced_events > 0;

create table public.usage_daily_lines (
  usage_daily_id bigint not null,
  unit text collate "C" not null,
  component text collate "C" not null,
  part_of text collate "C",
  quantity numeric not null,
  cost_usd numeric,
  constraint usage_daily_lines_pkey PRIMARY KEY (usage_daily_id, unit),
  constraint usage_daily_lines_usage_daily_id_fkey FOREIGN KEY (usage_daily_id) REFERENCES usage_daily(id) ON DELETE CASCADE
) with (fillfactor=70);
-- The lines of a row of usage_daily, summed by unit. The cost is null where nothing was charged by
--   it.

create table public.usage_monthly (
  api_key_id uuid not null,
  month date not null,
  team_id text collate "C" not null,
  product text collate "C" not null,
  total_cost_usd numeric not null,
  billable_cost_usd numeric not null,
  call_seconds numeric not null,
  constraint usage_monthly_pkey PRIMARY KEY (api_key_id, month, team_id, product),
  constraint usage_monthly_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys(id) ON DELETE CASCADE
) with (fillfactor=70);
-- The ledger summed by key and UTC month of occurred_at, for budgets and quotas.
CREATE INDEX usage_monthly_team ON usage_monthly USING btree (team_id, month);

create function flow.add_to_days(p_parts flow.usage_part[]) returns void
language plpgsql
set search_path = ''
set plan_cache_mode = force_generic_plan
set jit = off
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

-- Limits ------------------------------------------------------------------------------------------
-- What keys and teams may use, what running calls hold of it, and whether a call may start.

create table public.team_quotas (
  team_id text collate "C" not null,
  resource text collate "C" not null,
  quota numeric not null,
  updated_at timestamp with time zone not null default now(),
  constraint team_quotas_pkey PRIMARY KEY (team_id, resource),
  constraint team_quotas_quota_check CHECK (quota >= 0::numeric AND quota < '1000000000000'::numeric),
  constraint team_quotas_resource_check CHECK (resource ~ '^[a-z][a-z0-9_]{0,63}$'::text),
  constraint team_quotas_team_id_check CHECK (octet_length(team_id) >= 1 AND octet_length(team_id) <= 255)
);
-- What a team may use in a month (UTC): budget_usd of any cost, call_seconds, or credits (1 is a
--   cent of billable cost) of the bucket that a product names, ai_credits as a rule; and
--   concurrent_calls at any one time. A budget of 0 is none.

create function flow.month_of(p_at timestamp with time zone) returns date
language sql immutable
return date_trunc('month', p_at at time zone 'UTC')::date;

create function flow.month_end(p_at timestamp with time zone) returns timestamp with time zone
language sql immutable
return (date_trunc('month', p_at at time zone 'UTC') + interval '1 month') at time zone 'UTC';

create function flow.month_spent(p_api_key_id uuid, p_month date) returns numeric
language sql stable
return coalesce((
  select sum(m.total_cost_usd) from public.usage_monthly m
  where m.api_key_id = p_api_key_id and m.month = p_month
), 0);

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
  p_api_key_id uuid,
  p_team_id text,
  p_scope text,
  p_month date,
  p_cap numeric,
  p_spent numeric
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
create function flow.note_budget(p_key api_keys, p_month date, p_thread_id uuid) returns void
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
create function flow.team_tier(
  p_team_id text,
  p_buckets jsonb,
  p_now timestamp with time zone
) returns text
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
  p_thread workflow_threads,
  p_key api_keys,
  p_spent numeric,
  p_team_tier text
) returns jsonb
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

create type flow.limit_state as (
  resource text,
  scope text,
  product text,
  used numeric,
  reserved numeric,
  quota numeric,
  resets_at timestamp with time zone
);

-- p_terms is what the operator's products say: {"buckets": {"ai_credits": ["voice_bot"]},
-- "concurrency": {"voice_bot": 10}}. The functions are in plpgsql, which keeps plans: planning them
-- takes longer than running them. A plan made while tables were small must do when they are large.
create function flow.key_limits(
  p_key api_keys,
  p_terms jsonb,
  p_now timestamp with time zone
) returns SETOF flow.limit_state
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

create function flow.team_limits(
  p_team_id text,
  p_terms jsonb,
  p_now timestamp with time zone
) returns SETOF flow.limit_state
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
create function flow.team_budget(p_team_id text, p_now timestamp with time zone) returns SETOF flow.limit_state
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
  p_key api_keys,
  p_terms jsonb,
  p_with_team boolean,
  p_now timestamp with time zone
) returns SETOF flow.limit_state
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
-- Every limit of a key and its team: what is used, what running calls hold besides, how much there
--   is (null: no limit) and when it starts anew (null: when a call ends). The budget is the first
--   row.

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
  p_states flow.limit_state[],
  p_overridden boolean,
  p_more numeric default 0
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
create function flow.budget_of(
  p_key api_keys,
  p_override boolean,
  p_now timestamp with time zone
) returns jsonb
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

create function public.get_budget(
  p_api_key_id uuid,
  p_now timestamp with time zone default NULL::timestamp with time zone
) returns jsonb
language sql stable
set search_path = ''
set enable_seqscan = off
as $$
  select flow.budget_of(k, false, coalesce(p_now, now())) from public.api_keys k
  where k.id = p_api_key_id
$$;

create function public.get_limits(
  p_api_key_id uuid,
  p_terms jsonb default '{}'::jsonb,
  p_now timestamp with time zone default NULL::timestamp with time zone
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
  p_state flow.limit_state,
  p_terms jsonb,
  p_product text,
  p_billable boolean,
  p_reserve_usd numeric,
  p_reserve_secs numeric
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

create function flow.refusal_json(p_state flow.limit_state, p_now timestamp with time zone) returns jsonb
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
create function flow.joined_before(p_api_key_id uuid, p_thread_id uuid, p_idempotency_key text) returns workflow_threads
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

create function flow.replay(
  p_thread workflow_threads,
  p_api_key_id uuid,
  p_fingerprint text
) returns jsonb
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
  p_terms jsonb default '{}'::jsonb,
  p_override boolean default false,
  p_now timestamp with time zone default NULL::timestamp with time zone,
  p_whole boolean default true,
  p_unpriced text[] default NULL::text[]
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

create function public.find_join(
  p_api_key_id uuid,
  p_idempotency_key text,
  p_fingerprint text
) returns jsonb
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

-- Record usage ------------------------------------------------------------------------------------
-- The way into the ledger: one call, one transaction, each event once.

create function flow.accounts(p_thread_ids uuid[]) returns json
language plpgsql stable
set search_path = ''
set plan_cache_mode = force_generic_plan
set jit = off
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
  return (
    with threads as materialized (
      select
        t.id, t.usage_stats, t.status, t.end_requested_at, t.budget_override, t.api_key_id,
        t.team_id, t.buckets
      from public.workflow_threads t where t.id = any (p_thread_ids)
    ), keys as materialized (
      select
        k.id, k.budget_usd, k.save_mode,
        coalesce(k.budget_override_until > now(), false) as is_overridden,
        case when k.budget_usd > 0 then flow.month_spent(k.id, flow.month_of(now())) end as spent
      from public.api_keys k
      where k.id = any (array(select t.api_key_id from threads t))
    ), teams as materialized (
      select s.team_id, s.buckets, flow.team_tier(s.team_id, s.buckets, now()) as tier
      from (select distinct t.team_id, t.buckets from threads t) s
    )
    select coalesce(
      json_object_agg(
        t.id,
        json_build_object(
          'usage_stats', t.usage_stats,
          'status', t.status,
          'end_requested', t.end_requested_at is not null,
          'standing', json_build_object(
            'budget_tier',
            flow.higher_tier(
              flow.budget_tier(k.spent, k.budget_usd, t.budget_override or k.is_overridden), s.tier
            ),
            'save_mode', k.save_mode
          )
        )
      ),
      '{}'
    )
    from threads t
    join keys k on k.id = t.api_key_id
    join teams s on s.team_id = t.team_id and s.buckets = t.buckets
  );
end
$$;

-- Returns json, not jsonb: the accounts of many threads go out as text without a detour.
create function flow.record_batch(
  p_events jsonb,
  p_clock_behind interval,
  p_rejected jsonb default '[]'::jsonb
) returns json
language plpgsql
set search_path = ''
as $$
declare
  v_new uuid[] := flow.insert_usage(p_events, p_clock_behind);
  v_parts flow.usage_part[] := flow.usage_parts(v_new);
  v_threads uuid[];
  v_duplicates jsonb := '[]';
  v_rejected jsonb := '[]';
begin
  -- Event ids, then threads, days and months, each in order: no two batches wait for each other. What
  -- others may wait for is taken as late as can be.
  if cardinality(v_new) > 0 then
    perform flow.add_to_threads(v_parts);
    perform flow.add_to_days(v_parts);
    perform flow.add_to_months(v_parts);
    perform flow.note_budgets(v_parts);
  end if;
  v_threads := array(
    select distinct p.workflow_thread_id from unnest(v_parts) p
    where p.workflow_thread_id is not null
  );
  if cardinality(v_new) < jsonb_array_length(p_events) then
    select
      v_threads
        || coalesce(array_agg(u.thread_id) filter (where u.thread_id is not null), '{}'),
      coalesce(jsonb_agg(u.id) filter (where u.reason is null), '[]'),
      coalesce(
        jsonb_agg(flow.keep_rejected(u.event, u.reason)) filter (where u.reason is not null), '[]'
      )
    into v_threads, v_duplicates, v_rejected
    from flow.unrecorded(p_events, v_new) u;
  end if;
  return json_build_object(
    'new', to_json(v_new),
    'duplicates', v_duplicates,
    'rejected', p_rejected || v_rejected,
    'dated', flow.dated_otherwise(
      v_new || array(select d::uuid from jsonb_array_elements_text(v_duplicates) d)
    ),
    'threads', flow.accounts(v_threads)
  );
end
$$;

-- p_sent_at is what the sender's clock says now: the events are as far off as it is.
create function public.record_usage(
  p_events jsonb,
  p_sent_at timestamp with time zone default NULL::timestamp with time zone
) returns json
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_behind constant interval := coalesce(flow.clock_behind(p_sent_at), interval '0');
  v_rejected jsonb;
  v_sound jsonb;
begin
  if p_events is null or jsonb_typeof(p_events) <> 'array' then
    raise exception 'p_events must be a JSON array of usage events.' using errcode = 'PT422';
  end if;
  begin
    return flow.record_batch(p_events, v_behind);
  exception
    when data_exception or integrity_constraint_violation then null;
  end;
  -- At least one event is malformed: find which, keep those aside, record the others.
  with judged as materialized (
    select e.event, e.place, flow.event_problem(e.event, v_behind) as problem
    from jsonb_array_elements(p_events) with ordinality as e (event, place)
  )
  select
    coalesce(jsonb_agg(j.event order by j.place) filter (where j.problem is null), '[]'),
    coalesce(
      jsonb_agg(flow.keep_rejected(j.event, j.problem) order by j.place)
        filter (where j.problem is not null),
      '[]'
    )
  into v_sound, v_rejected
  from judged j;
  return flow.record_batch(v_sound, v_behind, v_rejected);
end
$$;

-- Usage reports -----------------------------------------------------------------------------------
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
  p_keys uuid[],
  p_team_id text,
  p_from date,
  p_to date,
  p_group_by jsonb
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
  p_api_key_id uuid,
  p_from date,
  p_to date,
  p_group_by jsonb default '[]'::jsonb
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
  p_group_by jsonb default '[]'::jsonb,
  p_api_key_id uuid default NULL::uuid,
  p_team_id text default NULL::text
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

-- Room calls --------------------------------------------------------------------------------------
-- Calls in rooms, which any process may take up: at first, and again when the one that had it is gone.

create table public.room_calls (
  workflow_thread_id uuid not null,
  room jsonb not null,
  caller_until timestamp with time zone not null,
  rejoin_secs integer not null,
  attempt integer not null default 0,
  taken_at timestamp with time zone,
  heard_at timestamp with time zone,
  constraint room_calls_pkey PRIMARY KEY (workflow_thread_id),
  constraint room_calls_workflow_thread_id_fkey FOREIGN KEY (workflow_thread_id) REFERENCES workflow_threads(id) ON DELETE CASCADE,
  constraint room_calls_rejoin_secs_check CHECK (rejoin_secs >= 0)
);
-- The rooms that Flow's bots are in or on their way to; a row goes when its room is closed.
-- heard_at: The last sign of life of a bot in the call, whoever else has written to the thread.

-- Whether somebody may still take the call up with the conversation so far.
create function flow.may_be_rejoined(p_thread workflow_threads) returns boolean
language sql stable
set search_path = ''
as $$
  select (p_thread).status in ('connecting', 'in_call') and exists (
    select from public.room_calls r
    where r.workflow_thread_id = (p_thread).id
      and r.heard_at + make_interval(secs => r.rejoin_secs) > now()
  )
$$;

create function flow.refuse_taken_call(p_thread_id uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception 'The call % is somebody else''s by now, or over.', p_thread_id
    using errcode = 'PT409', detail = 'call_taken_over';
end
$$;

create function public.queue_room_call(
  p_thread_id uuid,
  p_room jsonb,
  p_caller_until timestamp with time zone,
  p_rejoin_secs integer
) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_status text;
begin
  select t.status into v_status from public.workflow_threads t
  where t.id = p_thread_id for no key update;
  if not found then
    perform flow.refuse_missing_thread(p_thread_id);
  end if;
  if v_status <> 'created' then
    raise exception 'The call cannot be connected to: it is %.', v_status
      using errcode = 'PT409', detail = 'already_connected';
  end if;
  insert into public.room_calls (workflow_thread_id, room, caller_until, rejoin_secs)
  values (p_thread_id, p_room, p_caller_until, p_rejoin_secs)
  on conflict do nothing;
  return to_jsonb(true);
end
$$;
-- Keeps what another process needs to enter the room of a thread that nobody has begun.

create function public.take_room_call(p_thread_id uuid, p_attempt integer, p_claim text) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_thread public.workflow_threads;
  v_call public.room_calls;
begin
  select * into v_thread from public.workflow_threads t where t.id = p_thread_id for no key update;
  select * into v_call from public.room_calls r
  where r.workflow_thread_id = p_thread_id and r.attempt = p_attempt;
  if not found
    or v_thread.claimed_by is not null and v_thread.claimed_by <> p_claim
    or not (case
      when v_thread.status = 'created' then v_call.caller_until > now()
      else flow.may_be_rejoined(v_thread)
    end)
  then
    perform flow.refuse_taken_call(p_thread_id);
  end if;
  update public.workflow_threads t set
    status = case when t.status = 'created' then 'connecting' else t.status end,
    claimed_by = p_claim,
    heartbeat_at = now(),
    lease_until = greatest(t.lease_until, now() + flow.lease('connecting'))
  where t.id = p_thread_id
  returning * into v_thread;
  update public.room_calls r set taken_at = now(), heard_at = coalesce(r.heard_at, now())
  where r.workflow_thread_id = p_thread_id;
  return jsonb_build_object(
    'thread', flow.whole_thread_json(v_thread),
    'room', v_call.room,
    -- By the clock of the database: the host that had the call may have had another.
    'wait_secs', extract(epoch from case
      when v_thread.connected_at is null then v_call.caller_until
      else v_call.heard_at + make_interval(secs => v_call.rejoin_secs)
    end - now())::float8,
    'elapsed_secs', extract(epoch from now() - v_thread.connected_at)::float8
  );
end
$$;
-- Makes a call in a room ours, with what is needed to go on with it; one of all who try gets it.

-- A call that nobody has, waiting to be taken up: its reservation holds for as long as it may.
create function flow.free_room_call(p_thread_id uuid) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_call public.room_calls;
  v_key uuid;
begin
  update public.room_calls r set attempt = r.attempt + 1, taken_at = null
  where r.workflow_thread_id = p_thread_id
  returning * into v_call;
  update public.workflow_threads t set
    claimed_by = null,
    lease_until = greatest(
      t.lease_until, v_call.heard_at + make_interval(secs => v_call.rejoin_secs)
    )
  where t.id = p_thread_id
  returning t.api_key_id into v_key;
  return jsonb_build_object(
    'thread_id', p_thread_id, 'api_key_id', v_key, 'attempt', v_call.attempt
  );
end
$$;

create function public.give_up_room_call(p_thread_id uuid, p_claim text, p_alive boolean) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
begin
  perform from public.workflow_threads t
  where t.id = p_thread_id and t.claimed_by = p_claim and t.status in ('connecting', 'in_call')
  for no key update;
  if not found then
    perform flow.refuse_taken_call(p_thread_id);
  end if;
  if p_alive then
    update public.room_calls r set heard_at = now() where r.workflow_thread_id = p_thread_id;
  end if;
  return flow.free_room_call(p_thread_id);
end
$$;
-- Leaves a call of ours to others. Without p_alive the time they have goes on running: its bot was
--   not in the room.

create function public.free_room_calls_of(p_executor text) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_id uuid;
  v_freed jsonb := '[]';
begin
  for v_id in
    select t.id from public.workflow_threads t join public.room_calls r on r.workflow_thread_id = t.id
    where starts_with(t.claimed_by, p_executor || '/') and flow.may_be_rejoined(t)
    order by t.id
    for no key update of t
  loop
    v_freed := v_freed || flow.free_room_call(v_id);
  end loop;
  return v_freed;
end
$$;
-- Has the calls of a process that is known to be gone taken up by others.

create function public.free_silent_room_calls(p_silent_secs integer) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_id uuid;
begin
  for v_id in
    select t.id from public.workflow_threads t join public.room_calls r on r.workflow_thread_id = t.id
    where t.claimed_by is not null
      and greatest(r.heard_at, r.taken_at) < now() - make_interval(secs => p_silent_secs)
      and flow.may_be_rejoined(t)
    order by t.id
    -- Both, so that what was heard meanwhile counts.
    for no key update of t, r skip locked
  loop
    perform flow.free_room_call(v_id);
  end loop;
  -- Those that were freed before are given again: who freed them may be gone as well.
  return (
    select coalesce(
      jsonb_agg(
        jsonb_build_object('thread_id', t.id, 'api_key_id', t.api_key_id, 'attempt', r.attempt)
        order by t.id
      ),
      '[]'
    )
    from public.workflow_threads t join public.room_calls r on r.workflow_thread_id = t.id
    where t.claimed_by is null and flow.may_be_rejoined(t)
  );
end
$$;
-- Frees the calls whose bots were not heard of for so long; gives all that wait to be taken up.

-- Refuses a session that has lost its call to another; else the call is held fast, and was heard.
create function flow.hear_claimed_call(p_thread_id uuid, p_claim text) returns void
language plpgsql
set search_path = ''
as $$
begin
  perform from public.workflow_threads t
  where t.id = p_thread_id and t.claimed_by = p_claim for no key update;
  if not found then
    perform flow.refuse_taken_call(p_thread_id);
  end if;
  update public.room_calls r set heard_at = now() where r.workflow_thread_id = p_thread_id;
end
$$;

create function public.touch_claimed_thread(
  p_thread_id uuid,
  p_claim text,
  p_status text default NULL::text
) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
begin
  perform flow.hear_claimed_call(p_thread_id, p_claim);
  return public.touch_thread(p_thread_id, p_status);
end
$$;
-- touch_thread for the session that has the call, refused once another has it.

create function public.save_claimed_thread(
  p_thread_id uuid,
  p_claim text,
  p_status text default NULL::text,
  p_end_reason text default NULL::text,
  p_error jsonb default NULL::jsonb
) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
begin
  perform flow.hear_claimed_call(p_thread_id, p_claim);
  return public.save_workflow_thread_data(
    p_thread_id, p_status => p_status, p_end_reason => p_end_reason, p_error => p_error
  );
end
$$;
-- save_workflow_thread_data for the session that has the call, refused once another has it.

create function public.list_left_rooms(p_over_secs integer) returns jsonb
language sql stable
set search_path = ''
as $$
  select coalesce(jsonb_agg(l.room), '[]')
  from (
    select r.room || jsonb_build_object('thread_id', t.id) as room
    from public.workflow_threads t join public.room_calls r on r.workflow_thread_id = t.id
    where t.status not in ('created', 'connecting', 'in_call')
      and coalesce(t.ended_at, t.completed_at, t.heartbeat_at)
        < now() - make_interval(secs => p_over_secs)
    limit 100
  ) l
$$;
-- The rooms of calls that have been over for so long and that nobody has closed.

create function public.forget_room(p_thread_id uuid) returns jsonb
language sql
set search_path = ''
as $$
  with forgotten as (
    delete from public.room_calls r where r.workflow_thread_id = p_thread_id
    returning r.workflow_thread_id
  )
  select to_jsonb(exists (select from forgotten))
$$;

-- Recovery ----------------------------------------------------------------------------------------
-- What follows a call, whatever became of the process that ran it.

create table public.workflow_executors (
  id text collate "C" not null,
  home text not null,
  instance uuid,
  started_at timestamp with time zone not null default now(),
  heartbeat_at timestamp with time zone not null,
  report jsonb not null default '{}'::jsonb,
  constraint workflow_executors_pkey PRIMARY KEY (id),
  constraint workflow_executors_home_check CHECK (octet_length(home) >= 1 AND octet_length(home) <= 255),
  constraint workflow_executors_id_check CHECK (octet_length(id) >= 1 AND octet_length(id) <= 255)
);
-- The processes that have calls or run workflows, by their names, each with its last sign of life.
-- home: The id of the data folder whose lock the process holds.
-- instance: The run of the process that has the name; null once it has stopped by itself.
-- report: What the process last said of itself: its calls and how many it may run, its spool, its
--   version.

-- A process holds the lock of its data folder, so whoever had the name there is gone. One of another
-- folder may be alive as long as it was heard of lately.
create function public.claim_executor(p_id text, p_home text, p_instance uuid, p_dead_secs integer) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_heard_at timestamptz;
begin
  insert into public.workflow_executors as e (id, home, instance, heartbeat_at)
  values (p_id, p_home, p_instance, now())
  on conflict (id) do update
  set home = excluded.home, instance = excluded.instance, heartbeat_at = excluded.heartbeat_at,
    started_at = excluded.heartbeat_at, report = '{}'
  where e.home = excluded.home or e.instance is null
    or e.heartbeat_at < now() - make_interval(secs => p_dead_secs);
  if found then
    return jsonb_build_object('claimed', true);
  end if;
  select e.heartbeat_at into v_heard_at from public.workflow_executors e where e.id = p_id;
  return jsonb_build_object('claimed', false, 'heard_at', v_heard_at);
end
$$;
-- Takes a name for a process, unless one of another data folder has it that was heard of within so
--   many seconds: then it says when that was.

create function public.release_executor(p_id text, p_instance uuid) returns jsonb
language sql
set search_path = ''
as $$
  with released as (
    update public.workflow_executors e set instance = null
    where e.id = p_id and e.instance = p_instance
    returning e.id
  )
  select to_jsonb(exists (select from released))
$$;
-- A process has stopped: its name is free. What it left is taken up when it would count as dead.

create function public.beat_executor(
  p_id text,
  p_home text,
  p_instance uuid,
  p_dead_secs integer,
  p_report jsonb default '{}'::jsonb
) returns jsonb
language plpgsql
set search_path = ''
as $$
begin
  insert into public.workflow_executors as e (id, home, instance, heartbeat_at, report)
  values (p_id, p_home, p_instance, now(), p_report)
  on conflict (id) do update set heartbeat_at = excluded.heartbeat_at, report = excluded.report
  where e.instance = excluded.instance;
  if not found then
    return null;
  end if;
  return (
    select coalesce(jsonb_agg(e.id order by e.id), '[]') from public.workflow_executors e
    where e.heartbeat_at < now() - make_interval(secs => p_dead_secs)
  );
end
$$;
-- A sign of life of an executor; gives those that have shown none for so long. Null: another
--   process has the name by now.

create function public.forget_executor(p_id text, p_dead_secs integer) returns jsonb
language sql
set search_path = ''
as $$
  with forgotten as (
    delete from public.workflow_executors e
    where e.id = p_id and e.heartbeat_at < now() - make_interval(secs => p_dead_secs)
    returning e.id
  )
  select to_jsonb(exists (select from forgotten))
$$;

-- A call whose process is gone ended when it was last heard of; one that had ended is left as it is.
-- Whoever finishes it now has the time that a step after a call may take.
create function flow.take_over_thread(p_thread_id uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
  update public.workflow_threads t set
    status = 'ended',
    end_reason = coalesce(t.end_reason, 'process_lost'),
    error = coalesce(t.error, jsonb_build_object(
      'code', 'process_lost', 'message', 'the process that ran the call is gone'
    ))
  where t.id = p_thread_id and t.status in ('connecting', 'in_call');
  if found then
    update public.workflow_threads t
    set ended_at = case when t.connected_at is not null then least(t.ended_at, t.heartbeat_at) end
    where t.id = p_thread_id;
  end if;
  update public.workflow_threads t
  set lease_until = greatest(t.lease_until, now() + flow.lease('ended'))
  where t.id = p_thread_id;
end
$$;

-- A call in a room is lost only when it can no longer be rejoined, and then at once.
create function public.take_over_lost_threads(p_lost_secs integer, p_missing_secs integer) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_id uuid;
  v_taken jsonb := '[]';
begin
  for v_id in
    select t.id from public.workflow_threads t
    where t.status in ('connecting', 'in_call', 'ended', 'extracting')
      and (
        t.lease_until < now() - make_interval(secs => p_lost_secs)
        or t.lease_until < now() and t.claimed_by is null
      )
      and not flow.may_be_rejoined(t)
      and (
        t.connected_at is null
        or t.lease_until < now() - make_interval(secs => p_missing_secs)
        or exists (
          select from public.usage_events e where e.workflow_thread_id = t.id and e.kind = 'call'
        )
      )
    order by t.lease_until
    limit 100
    for no key update skip locked
  loop
    perform flow.take_over_thread(v_id);
    v_taken := v_taken || to_jsonb(v_id);
  end loop;
  return v_taken;
end
$$;
-- Ends the threads whose lease lapsed so long ago, and gives those that are to be finished: one
--   whose own seconds are not in the ledger yet is waited for, as its process may come back with
--   its usage.

create function public.take_over_threads_of(p_executor text) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_id uuid;
  v_taken jsonb := '[]';
begin
  for v_id in
    select t.id from public.workflow_threads t
    where t.status in ('connecting', 'in_call', 'ended', 'extracting')
      and starts_with(t.claimed_by, p_executor || '/')
      and not flow.may_be_rejoined(t)
    order by t.lease_until
    for no key update
  loop
    perform flow.take_over_thread(v_id);
    v_taken := v_taken || to_jsonb(v_id);
  end loop;
  return v_taken;
end
$$;
-- The same for the threads of a process that is known to be gone, whatever their leases say.

-- Operator ----------------------------------------------------------------------------------------
-- What an operator sets and sees: keys, teams, all threads, hosts, and what the ledger lacks.

create function flow.key_account(p_key api_keys, p_now timestamp with time zone) returns jsonb
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
  p_team_id text default NULL::text,
  p_search text default NULL::text,
  p_tier text default NULL::text,
  p_revoked boolean default NULL::boolean,
  p_limit integer default NULL::integer,
  p_before_created_at timestamp with time zone default NULL::timestamp with time zone,
  p_before_id uuid default NULL::uuid
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
-- Keys, the newest first: of a team, by a part of the name or by an id, of a tier of the budget.

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
create function flow.changed_key(p_key api_keys, p_api_key_id uuid) returns jsonb
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
  -- Without a URL of its own the next call that costs anything tells of it, where that has one.
  if v_key.webhook_url is not null then
    perform flow.note_budget(v_key, flow.month_of(now()), null);
  end if;
  return flow.changed_key(v_key, p_api_key_id);
end
$$;

create function public.set_budget_override(p_api_key_id uuid, p_until timestamp with time zone) returns jsonb
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
create function public.list_team_quotas(
  p_team_id text default NULL::text,
  p_buckets jsonb default '{}'::jsonb
) returns jsonb
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

create function public.get_team_limits(p_team_id text, p_terms jsonb default '{}'::jsonb) returns jsonb
language sql stable
set search_path = ''
as $$
  select jsonb_agg(flow.limit_json(s)) from flow.team_limits(p_team_id, p_terms, now()) s
$$;

create function public.list_teams(
  p_terms jsonb default '{}'::jsonb,
  p_team_id text default NULL::text,
  p_search text default NULL::text,
  p_limit integer default NULL::integer,
  p_after text default NULL::text
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
-- Teams that have a key or a quota, by name, with what they spent this month (UTC) and every limit.

-- A claim is the name of a process and, after the last slash, of what it runs.
create function flow.host_of(p_claimed_by text) returns text
language sql immutable
return regexp_replace(p_claimed_by, '/[^/]*$', '');

-- Without what was said and asked for: an operator sees accounts.
create function flow.thread_overview(p_thread workflow_threads, p_key_name text) returns jsonb
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
  p_before_created_at timestamp with time zone default NULL::timestamp with time zone,
  p_before_id uuid default NULL::uuid,
  p_api_key_id uuid default NULL::uuid,
  p_team_id text default NULL::text,
  p_product text default NULL::text,
  p_status text default NULL::text,
  p_running boolean default false,
  p_host text default NULL::text,
  p_from date default NULL::date,
  p_to date default NULL::date
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
-- Threads of all keys, the newest first, without their content. Running are those that a process
--   holds, or is being connected to. Days are of UTC, the last one included.

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
-- The processes that run calls or workflows, each with what it last said of itself and how many
--   threads it holds.

create function public.list_unpriced(
  p_from date,
  p_to date,
  p_api_key_id uuid default NULL::uuid,
  p_team_id text default NULL::text
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
-- Models with usage that has no price, by provider, model and kind; unmetered events are some of
--   the unpriced ones.

create function public.list_rejected_usage(p_limit integer, p_before_id bigint default NULL::bigint) returns jsonb
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

-- Gateway leases ----------------------------------------------------------------------------------
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
  api_key_id uuid not null,
  product text collate "C" not null,
  team_id text collate "C" not null,
  billable boolean not null,
  held_usd numeric not null default 0,
  held_requests bigint not null default 0,
  held_tokens bigint not null default 0,
  held_concurrency bigint not null default 0,
  running bigint not null default 0,
  heartbeat_at timestamp with time zone not null,
  constraint gateway_leases_pkey PRIMARY KEY (process_id, api_key_id, product),
  constraint gateway_leases_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys(id) ON DELETE CASCADE,
  constraint gateway_leases_check CHECK (held_concurrency >= running),
  constraint gateway_leases_held_requests_check CHECK (held_requests >= 0),
  constraint gateway_leases_held_tokens_check CHECK (held_tokens >= 0),
  constraint gateway_leases_held_usd_check CHECK (held_usd >= 0::numeric AND held_usd < '1000000000000'::numeric),
  constraint gateway_leases_running_check CHECK (running >= 0)
) with (fillfactor=50);
-- What a process holds for requests with a key for a product: those under way, those not yet
--   settled, and those that it may let in. It counts for flow.gateway_lease() after heartbeat_at.
CREATE INDEX gateway_leases_key ON gateway_leases USING btree (api_key_id);
CREATE INDEX gateway_leases_team ON gateway_leases USING btree (team_id);

create table public.gateway_counts (
  api_key_id uuid not null,
  product text collate "C" not null,
  second timestamp with time zone not null,
  requests bigint not null,
  tokens bigint not null,
  constraint gateway_counts_pkey PRIMARY KEY (api_key_id, product, second),
  constraint gateway_counts_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys(id) ON DELETE CASCADE
) with (fillfactor=50);
-- Requests to the gateway and their tokens of the last minute, by the second in which a process
--   told of them.

create function flow.gateway_lease() returns interval
language sql immutable
return interval '60 seconds';

-- A minute, and the second that the first count of it may be older than it says.
create function flow.rate_window() returns interval
language sql immutable
return interval '61 seconds';

-- Of the product's limits, {"rates": {"gateway": {"requests_per_minute": 60}}} in p_terms, and the key's
-- own, which are about all products.
create function flow.rate_limits(
  p_key api_keys,
  p_terms jsonb,
  p_now timestamp with time zone
) returns SETOF flow.limit_state
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
  p_api_key_id uuid,
  p_state flow.limit_state,
  p_need numeric,
  p_now timestamp with time zone
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
  p_slices jsonb default '{}'::jsonb,
  p_done jsonb default '{}'::jsonb,
  p_terms jsonb default '{}'::jsonb,
  p_now timestamp with time zone default NULL::timestamp with time zone
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
  p_api_key_id uuid,
  p_product text,
  p_done jsonb,
  p_now timestamp with time zone
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
  p_process_id uuid,
  p_key api_keys,
  p_product text,
  p_billable boolean,
  p_held jsonb,
  p_running bigint,
  p_now timestamp with time zone
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
  p_api_key_id uuid,
  p_state flow.limit_state,
  p_need numeric,
  p_now timestamp with time zone
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
  p_api_key_id uuid,
  p_requests_per_minute integer,
  p_tokens_per_minute bigint,
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

-- Agents ------------------------------------------------------------------------------------------
-- Agents: call settings that a team stores under a name, in versions that never change.

create table public.agents (
  id uuid not null,
  team_id text collate "C" not null,
  name text not null,
  version integer not null default 1,
  created_at timestamp with time zone not null default now(),
  updated_at timestamp with time zone not null default now(),
  archived_at timestamp with time zone,
  api_key_id uuid,
  idempotency_key text,
  fingerprint text,
  constraint agents_pkey PRIMARY KEY (id),
  constraint agents_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys(id) ON DELETE SET NULL,
  constraint agents_idempotency_key_check CHECK (octet_length(idempotency_key) <= 1020),
  constraint agents_name_check CHECK (octet_length(name) >= 1 AND octet_length(name) <= 512),
  constraint agents_team_id_check CHECK (octet_length(team_id) >= 1 AND octet_length(team_id) <= 255),
  constraint agents_version_check CHECK (version >= 1)
);
-- A bot that a team has stored; what it is, its versions say.
-- version: The newest.
-- updated_at: When the newest version was made.
-- archived_at: Since then no new call can name it.
CREATE INDEX agents_archived_name ON agents USING btree (team_id, name, archived_at DESC) WHERE archived_at IS NOT NULL;
CREATE INDEX agents_created ON agents USING btree (team_id, created_at DESC, id DESC);
CREATE UNIQUE INDEX agents_idempotency_key ON agents USING btree (api_key_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE UNIQUE INDEX agents_name ON agents USING btree (team_id, name) WHERE archived_at IS NULL;

create table public.agent_versions (
  agent_id uuid not null,
  version integer not null,
  definition jsonb not null,
  created_at timestamp with time zone not null default now(),
  constraint agent_versions_pkey PRIMARY KEY (agent_id, version),
  constraint agent_versions_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES agents(id),
  constraint agent_versions_version_check CHECK (version >= 1)
);
-- What an agent is or was; a version never changes.
CREATE TRIGGER agent_versions_immutable BEFORE DELETE OR UPDATE ON agent_versions FOR EACH ROW EXECUTE FUNCTION flow.refuse_change_of_version();

create function flow.refuse_change_of_version() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  raise exception 'Version % of agent % does not change: make another.', old.version, old.agent_id
    using errcode = 'PT409', detail = 'version_immutable';
end
$$;

create function flow.agent_json(p_agent agents, p_version agent_versions) returns jsonb
language sql stable
return jsonb_build_object(
  'id', (p_agent).id,
  'team_id', (p_agent).team_id,
  'version', (p_version).version,
  'definition', (p_version).definition,
  'created_at', (p_agent).created_at,
  'updated_at', (p_version).created_at,
  'archived_at', (p_agent).archived_at
);

-- By its id, or by its name, which an agent in use has before those that were archived. Every team's
-- where none is given.
create function flow.find_agent(p_team_id text, p_reference text) returns agents
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_found public.agents[];
begin
  if p_reference ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
    v_found := array(
      select a from public.agents a
      where a.id = p_reference::uuid and (p_team_id is null or a.team_id = p_team_id)
    );
  elsif p_team_id is not null then
    v_found := array(
      select a from public.agents a
      where a.team_id = p_team_id and a.name = p_reference and a.archived_at is null
    );
    if cardinality(v_found) = 0 then
      v_found := array(
        select a from public.agents a
        where a.team_id = p_team_id and a.name = p_reference and a.archived_at is not null
        order by a.archived_at desc limit 1
      );
    end if;
  else
    v_found := array(
      select a from public.agents a where a.name = p_reference and a.archived_at is null
    );
  end if;
  if cardinality(v_found) = 0 then
    raise exception 'There is no agent %.', p_reference using errcode = 'PT404';
  end if;
  if cardinality(v_found) > 1 then
    raise exception '% teams have an agent named %: say whose.', cardinality(v_found), p_reference
      using errcode = 'PT409', detail = 'ambiguous';
  end if;
  return v_found[1];
end
$$;

create function flow.refuse_taken_name(p_name text) returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception 'The team has an agent named %: change or archive that one, or take another name.', p_name
    using errcode = 'PT409', detail = 'agent_name_taken';
end
$$;

create function public.create_agent(
  p_id uuid,
  p_team_id text,
  p_definition jsonb,
  p_api_key_id uuid default NULL::uuid,
  p_idempotency_key text default NULL::text,
  p_fingerprint text default NULL::text
) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_agent public.agents;
  v_version public.agent_versions;
begin
  insert into public.agents (id, team_id, name, api_key_id, idempotency_key, fingerprint)
  values (
    p_id, p_team_id, p_definition ->> 'name', p_api_key_id, p_idempotency_key, p_fingerprint
  )
  on conflict do nothing
  returning * into v_agent;
  if v_agent.id is not null then
    insert into public.agent_versions (agent_id, version, definition)
    values (p_id, 1, p_definition)
    returning * into v_version;
    return jsonb_build_object('agent', flow.agent_json(v_agent, v_version), 'replayed', false);
  end if;
  select * into v_agent from public.agents a
  where a.api_key_id = p_api_key_id and a.idempotency_key = p_idempotency_key;
  if not found then
    perform flow.refuse_taken_name(p_definition ->> 'name');
  end if;
  if v_agent.fingerprint is distinct from p_fingerprint then
    raise exception 'This idempotency key was used for another agent.'
      using errcode = 'PT409', detail = 'idempotency_conflict';
  end if;
  select * into v_version from public.agent_versions v
  where v.agent_id = v_agent.id and v.version = 1;
  return jsonb_build_object('agent', flow.agent_json(v_agent, v_version), 'replayed', true);
end
$$;
-- Makes version 1 of an agent; under an idempotency key of an API key only once.

create function public.change_agent(
  p_team_id text,
  p_reference text,
  p_definition jsonb,
  p_if_version integer default NULL::integer
) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_id constant uuid := (flow.find_agent(p_team_id, p_reference)).id;
  v_agent public.agents;
  v_version public.agent_versions;
begin
  -- Whoever changes it at the same time comes after, and sees what this one has made.
  select * into v_agent from public.agents a where a.id = v_id for no key update;
  if v_agent.archived_at is not null then
    raise exception 'The agent % is archived, and cannot be changed.', v_agent.name
      using errcode = 'PT409', detail = 'agent_archived';
  end if;
  if p_if_version <> v_agent.version then
    raise exception 'The agent is at version %, not %: read it again.', v_agent.version, p_if_version
      using errcode = 'PT409', detail = 'version_mismatch';
  end if;
  insert into public.agent_versions (agent_id, version, definition)
  values (v_agent.id, v_agent.version + 1, p_definition)
  returning * into v_version;
  update public.agents a set
    version = v_version.version, name = p_definition ->> 'name', updated_at = now()
  where a.id = v_agent.id
  returning * into v_agent;
  return flow.agent_json(v_agent, v_version);
exception
  when unique_violation then
    perform flow.refuse_taken_name(p_definition ->> 'name');
    return null;
end
$$;
-- Makes the next version of an agent; with p_if_version only where that is the newest.

create function public.get_agent(
  p_team_id text,
  p_reference text,
  p_version integer default NULL::integer
) returns jsonb
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_agent constant public.agents := flow.find_agent(p_team_id, p_reference);
  v_version public.agent_versions;
begin
  select * into v_version from public.agent_versions v
  where v.agent_id = v_agent.id and v.version = coalesce(p_version, v_agent.version);
  if not found then
    raise exception 'The agent % has no version %; its newest is %.',
      v_agent.name, p_version, v_agent.version
      using errcode = 'PT404';
  end if;
  return flow.agent_json(v_agent, v_version);
end
$$;

create function public.list_agents(
  p_team_id text,
  p_limit integer,
  p_before_created_at timestamp with time zone default NULL::timestamp with time zone,
  p_before_id uuid default NULL::uuid,
  p_archived boolean default false
) returns jsonb
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_conditions text := concat_ws(
    ' and ',
    'true',
    case when p_team_id is not null then 'a.team_id = $2' end,
    case when p_before_id is not null then '(a.created_at, a.id) < ($3, $4)' end,
    case when not p_archived then 'a.archived_at is null' end
  );
  v_found jsonb;
begin
  execute format(
    $sql$
      with page as (
        select a as agent from public.agents a
        where %s
        order by a.created_at desc, a.id desc
        limit $1
      )
      select coalesce(
        jsonb_agg(
          flow.agent_json(p.agent, v) order by (p.agent).created_at desc, (p.agent).id desc
        ),
        '[]'
      )
      from page p
      join public.agent_versions v
        on v.agent_id = (p.agent).id and v.version = (p.agent).version
    $sql$,
    v_conditions
  )
  into v_found
  using p_limit, p_team_id, p_before_created_at, p_before_id;
  return v_found;
end
$$;
-- The newest versions of a team's agents, or of everyone's.

create function public.archive_agent(p_team_id text, p_reference text) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_id constant uuid := (flow.find_agent(p_team_id, p_reference)).id;
  v_agent public.agents;
  v_version public.agent_versions;
begin
  update public.agents a set archived_at = coalesce(a.archived_at, now())
  where a.id = v_id
  returning * into v_agent;
  select * into v_version from public.agent_versions v
  where v.agent_id = v_agent.id and v.version = v_agent.version;
  return flow.agent_json(v_agent, v_version);
end
$$;
-- No new call can name it from then on; running and past calls keep what they were made with.

-- Telephony ---------------------------------------------------------------------------------------
-- Telephony: the numbers that ring agents, and the legs of calls that a carrier has or is to place.

create table public.phone_numbers (
  number text collate "C" not null,
  api_key_id uuid not null,
  agent uuid,
  product text,
  created_at timestamp with time zone not null default now(),
  constraint phone_numbers_pkey PRIMARY KEY (number),
  constraint phone_numbers_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys(id) ON DELETE CASCADE,
  constraint phone_numbers_check CHECK (agent IS NULL OR product IS NULL),
  constraint phone_numbers_number_check CHECK (number ~ '^\+[1-9][0-9]{6,14}$'::text),
  constraint phone_numbers_product_check CHECK (octet_length(product) >= 1 AND octet_length(product) <= 512)
);
-- Telephone numbers of the operator's carriers: whose budget their calls are on, and what they
--   ring.
CREATE INDEX phone_numbers_api_key_id ON phone_numbers USING btree (api_key_id);

create table public.phone_calls (
  id uuid not null,
  workflow_thread_id uuid not null,
  carrier text not null,
  leg text not null,
  direction text not null,
  from_number text not null,
  to_number text not null,
  state text not null,
  dial_order jsonb,
  call_id text,
  dial_until timestamp with time zone,
  dialled_at timestamp with time zone,
  dials integer not null default 0,
  tries integer not null default 0,
  status text,
  answered_by text,
  transferred_at timestamp with time zone,
  price jsonb,
  due_at timestamp with time zone,
  created_at timestamp with time zone not null default now(),
  constraint phone_calls_pkey PRIMARY KEY (id),
  constraint phone_calls_carrier_call_id_key UNIQUE (carrier, call_id),
  constraint phone_calls_workflow_thread_id_fkey FOREIGN KEY (workflow_thread_id) REFERENCES workflow_threads(id) ON DELETE CASCADE,
  constraint phone_calls_direction_check CHECK (direction = ANY (ARRAY['inbound'::text, 'outbound'::text])),
  constraint phone_calls_leg_check CHECK (leg = ANY (ARRAY['caller'::text, 'transfer'::text])),
  constraint phone_calls_state_check CHECK (state = ANY (ARRAY['queued'::text, 'dialling'::text, 'live'::text, 'over'::text, 'done'::text]))
);
-- The legs of telephone calls: each is dialled once and priced once, whatever becomes of a process.
-- tries: What was tried in this state without result.
CREATE UNIQUE INDEX phone_calls_dialling ON phone_calls USING btree (carrier, from_number, to_number) WHERE state = 'dialling'::text;
CREATE INDEX phone_calls_due ON phone_calls USING btree (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX phone_calls_thread ON phone_calls USING btree (workflow_thread_id, created_at, id);

create function flow.phone_number_json(p_number phone_numbers) returns jsonb
language sql stable
set search_path = ''
as $$
  select jsonb_build_object(
    'number', (p_number).number,
    'agent', (p_number).agent,
    'agent_name', (select a.name from public.agents a where a.id = (p_number).agent),
    'product', (p_number).product,
    'created_at', (p_number).created_at,
    'key', jsonb_build_object(
      'id', k.id, 'unkey_key_id', k.unkey_key_id, 'team_id', k.team_id, 'name', k.name
    )
  )
  from public.api_keys k where k.id = (p_number).api_key_id
$$;

create function public.put_phone_number(
  p_number text,
  p_api_key_id uuid,
  p_agent uuid default NULL::uuid,
  p_product text default NULL::text
) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_number public.phone_numbers;
begin
  if not exists (select from public.api_keys k where k.id = p_api_key_id) then
    raise exception 'There is no API key %.', p_api_key_id using errcode = 'PT404';
  end if;
  insert into public.phone_numbers (number, api_key_id, agent, product)
  values (p_number, p_api_key_id, p_agent, p_product)
  on conflict (number) do update set
    api_key_id = excluded.api_key_id, agent = excluded.agent, product = excluded.product
  returning * into v_number;
  return flow.phone_number_json(v_number);
end
$$;
-- Adds a number, or has it ring another bot.

create function public.list_phone_numbers(p_team_id text default NULL::text) returns jsonb
language sql stable
set search_path = ''
as $$
  select coalesce(jsonb_agg(flow.phone_number_json(n) order by n.number), '[]')
  from public.phone_numbers n join public.api_keys k on k.id = n.api_key_id
  where p_team_id is null or k.team_id = p_team_id
$$;

create function public.find_phone_number(p_number text) returns jsonb
language sql stable
set search_path = ''
as $$
  select flow.phone_number_json(n) from public.phone_numbers n where n.number = p_number
$$;

create function public.remove_phone_number(p_number text) returns jsonb
language sql
set search_path = ''
as $$
  with removed as (delete from public.phone_numbers n where n.number = p_number returning n.number)
  select to_jsonb(exists (select from removed))
$$;

create function flow.phone_call_json(p_call phone_calls) returns jsonb
language sql stable
return to_jsonb(p_call);

create function public.order_phone_call(p_call jsonb, p_due_secs double precision) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_call public.phone_calls := jsonb_populate_record(null::public.phone_calls, p_call);
begin
  insert into public.phone_calls (
    id, workflow_thread_id, carrier, leg, direction, from_number, to_number, state, dial_order,
    dial_until, due_at
  )
  values (
    v_call.id, v_call.workflow_thread_id, v_call.carrier, v_call.leg, 'outbound',
    v_call.from_number, v_call.to_number, 'queued', v_call.dial_order,
    v_call.dial_until, now() + make_interval(secs => p_due_secs)
  )
  on conflict (id) do nothing;
  select * into v_call from public.phone_calls c where c.id = v_call.id;
  return flow.phone_call_json(v_call);
end
$$;
-- Keeps a call that is to be placed; what is kept already stays.

create function public.begin_phone_dial(p_id uuid, p_lease_secs double precision) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_call public.phone_calls;
begin
  update public.phone_calls c set
    state = 'dialling', dials = c.dials + 1, tries = 0, dialled_at = now(),
    due_at = now() + make_interval(secs => p_lease_secs)
  where c.id = p_id and c.state = 'queued'
  returning * into v_call;
  if not found then
    return null;
  end if;
  return flow.phone_call_json(v_call);
exception
  -- Another leg between the same numbers is being dialled.
  when unique_violation then return null;
end
$$;
-- The carrier is about to be asked to dial; null: it is not to be, or not yet.

-- A call that somebody is on, found by the carrier's word: the first that asks for a leg's bot has it.
create function public.bind_phone_call(p_call jsonb, p_due_secs double precision) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_new public.phone_calls := jsonb_populate_record(null::public.phone_calls, p_call);
  v_call public.phone_calls;
begin
  insert into public.phone_calls as c (
    id, workflow_thread_id, carrier, leg, direction, from_number, to_number, state, call_id, status,
    due_at
  )
  values (
    v_new.id, v_new.workflow_thread_id, v_new.carrier, v_new.leg, v_new.direction,
    v_new.from_number, v_new.to_number, 'live', v_new.call_id, 'in-progress',
    now() + make_interval(secs => p_due_secs)
  )
  on conflict (id) do update set
    call_id = coalesce(c.call_id, excluded.call_id),
    state = case when c.state in ('queued', 'dialling') then 'live' else c.state end,
    tries = case when c.state in ('queued', 'dialling') then 0 else c.tries end,
    due_at = case when c.state in ('queued', 'dialling') then excluded.due_at else c.due_at end
  returning * into v_call;
  return flow.phone_call_json(v_call);
end
$$;
-- Gives the leg as it is then: with another call_id than asked for, it is another call's.

create function public.claim_phone_calls(p_limit integer, p_lease_secs double precision) returns jsonb
language sql
set search_path = ''
as $$
  with due as (
    select c.id from public.phone_calls c
    where c.due_at <= now()
    order by c.due_at
    limit p_limit
    for update skip locked
  ), claimed as (
    update public.phone_calls c set due_at = now() + make_interval(secs => p_lease_secs)
    from due d where c.id = d.id
    returning c as one, c.id
  )
  select coalesce(jsonb_agg(flow.phone_call_json(k.one) order by k.id), '[]') from claimed k
$$;
-- The legs that are due, for whoever asks: nobody else gets them for so many seconds.

-- p_changes holds any of state, call_id, status, answered_by, transferred_at, price. What is done
-- stays done, a call keeps the first id that it is known by, and who comes late changes no state.
create function public.note_phone_call(
  p_id uuid,
  p_changes jsonb,
  p_due_secs double precision default NULL::double precision,
  p_from_state text default NULL::text
) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_old public.phone_calls;
  v_new public.phone_calls;
begin
  select * into v_old from public.phone_calls c where c.id = p_id for update;
  if not found then
    return null;
  end if;
  v_new := jsonb_populate_record(v_old, p_changes);
  if v_old.state = 'done' or v_old.state <> coalesce(p_from_state, v_old.state) then
    v_new.state := v_old.state;
    v_new.due_at := v_old.due_at;
    v_new.tries := v_old.tries;
  elsif p_changes ? 'state' then
    v_new.due_at := now() + make_interval(secs => p_due_secs);
    v_new.tries := case when v_new.state = v_old.state then v_old.tries + 1 else 0 end;
  elsif p_due_secs is not null then
    v_new.due_at := least(v_old.due_at, now() + make_interval(secs => p_due_secs));
  end if;
  update public.phone_calls c set
    state = v_new.state,
    call_id = coalesce(v_old.call_id, v_new.call_id),
    status = v_new.status,
    answered_by = coalesce(v_old.answered_by, v_new.answered_by),
    transferred_at = v_new.transferred_at,
    price = coalesce(v_old.price, v_new.price),
    tries = v_new.tries,
    due_at = v_new.due_at
  where c.id = p_id
  returning * into v_new;
  return flow.phone_call_json(v_new);
end
$$;

create function public.get_phone_call(
  p_id uuid default NULL::uuid,
  p_carrier text default NULL::text,
  p_call_id text default NULL::text
) returns jsonb
language sql stable
set search_path = ''
as $$
  select flow.phone_call_json(c) from public.phone_calls c
  where c.id = p_id or (c.carrier = p_carrier and c.call_id = p_call_id)
  limit 1
$$;

create function public.list_phone_calls(p_thread_id uuid) returns jsonb
language sql stable
set search_path = ''
as $$
  select coalesce(jsonb_agg(flow.phone_call_json(c) order by c.created_at, c.id), '[]')
  from public.phone_calls c where c.workflow_thread_id = p_thread_id
$$;

create function public.known_phone_calls(p_carrier text, p_call_ids text[]) returns jsonb
language sql stable
set search_path = ''
as $$
  select coalesce(jsonb_agg(c.call_id), '[]') from public.phone_calls c
  where c.carrier = p_carrier and c.call_id = any (p_call_ids)
$$;

-- During calls ------------------------------------------------------------------------------------
-- While a call runs: what its customer has the bot say or know, and how the call goes on.

create table public.call_commands (
  id uuid not null,
  workflow_thread_id uuid not null,
  place bigint not null generated always as identity,
  kind text not null,
  body jsonb not null,
  idempotency_key text,
  fingerprint text not null,
  created_at timestamp with time zone not null default now(),
  taken_at timestamp with time zone,
  take uuid,
  refusal text,
  constraint call_commands_pkey PRIMARY KEY (id),
  constraint call_commands_workflow_thread_id_fkey FOREIGN KEY (workflow_thread_id) REFERENCES workflow_threads(id) ON DELETE CASCADE,
  constraint call_commands_check CHECK ((take IS NULL) = (taken_at IS NULL)),
  constraint call_commands_idempotency_key_check CHECK (octet_length(idempotency_key) <= 1020),
  constraint call_commands_kind_check CHECK (kind = ANY (ARRAY['say'::text, 'message'::text]))
);
-- What a customer has the bot of a running call say or know; the process that has the call takes
--   it.
-- take: Who took it. A command is taken once, before it is carried out: it happens at most once.
-- refusal: Why the bot of this call cannot carry it out.
CREATE UNIQUE INDEX call_commands_idempotency_key ON call_commands USING btree (workflow_thread_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX call_commands_take ON call_commands USING btree (take) WHERE take IS NOT NULL;
CREATE INDEX call_commands_thread ON call_commands USING btree (workflow_thread_id, created_at);
CREATE INDEX call_commands_waiting ON call_commands USING btree (workflow_thread_id) WHERE taken_at IS NULL;

create function flow.command_json(p_command call_commands) returns jsonb
language sql stable
return jsonb_build_object(
  'id', (p_command).id,
  'workflow_thread_id', (p_command).workflow_thread_id,
  'kind', (p_command).kind,
  'body', (p_command).body,
  'is_taken', (p_command).taken_at is not null,
  'refusal', (p_command).refusal
);

create function public.command_call(
  p_id uuid,
  p_thread_id uuid,
  p_api_key_id uuid,
  p_kind text,
  p_body jsonb,
  p_idempotency_key text,
  p_fingerprint text,
  p_most integer,
  p_within_secs integer
) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_thread public.workflow_threads;
  v_command public.call_commands;
begin
  -- One at a time for a call: none is counted too little, or comes twice under one key.
  select * into v_thread from public.workflow_threads t
  where t.id = p_thread_id and t.api_key_id = p_api_key_id
  for no key update;
  if not found then
    perform flow.refuse_missing_thread(p_thread_id);
  end if;
  select * into v_command from public.call_commands c where c.id = p_id;
  if not found and p_idempotency_key is not null then
    select * into v_command from public.call_commands c
    where c.workflow_thread_id = p_thread_id and c.idempotency_key = p_idempotency_key;
  end if;
  if v_command.id is not null then
    if v_command.fingerprint <> p_fingerprint then
      raise exception 'The idempotency key was used for another request.'
        using errcode = 'PT409', detail = 'idempotency_conflict';
    end if;
    return flow.command_json(v_command) || jsonb_build_object('replayed', v_command.id <> p_id);
  end if;
  if v_thread.status <> 'in_call' or v_thread.end_requested_at is not null then
    raise exception 'The call is not running: its thread is %.',
      case when v_thread.status = 'in_call' then 'about to end' else v_thread.status end
      using errcode = 'PT409', detail = 'not_in_call';
  end if;
  if (
    select count(*) from public.call_commands c
    where c.workflow_thread_id = p_thread_id
      and c.created_at > now() - make_interval(secs => p_within_secs)
  ) >= p_most then
    raise exception 'A call takes at most % of these in % seconds.', p_most, p_within_secs
      using errcode = 'PT403', detail = 'rate_limited';
  end if;
  insert into public.call_commands (
    id, workflow_thread_id, kind, body, idempotency_key, fingerprint
  )
  values (p_id, p_thread_id, p_kind, p_body, p_idempotency_key, p_fingerprint)
  returning * into v_command;
  return flow.command_json(v_command) || jsonb_build_object('replayed', false);
end
$$;
-- Leaves a command for whichever process has the call, once for an id or an idempotency key;
--   refused unless the call runs, and when there were p_most within p_within_secs.

create function public.take_call_commands(p_claims jsonb, p_take uuid) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_taken jsonb;
begin
  with found as materialized (
    select w.id
    from jsonb_each_text(p_claims) as held (thread_id, claim)
    cross join lateral (
      select c.id from public.call_commands c
      where c.workflow_thread_id = held.thread_id::uuid and c.taken_at is null
    ) w
    where exists (
      select from public.workflow_threads t
      where t.id = held.thread_id::uuid and t.claimed_by = held.claim
    )
  )
  update public.call_commands c set taken_at = now(), take = p_take
  from found f where c.id = f.id and c.taken_at is null;

  -- Those of before, too: the answer to a take may be lost on its way.
  select coalesce(jsonb_agg(flow.command_json(c) order by c.place), '[]') into v_taken
  from public.call_commands c where c.take = p_take;
  return v_taken;
end
$$;
-- Gives the commands that wait for calls {"thread id": "claim"} to who has them, once; again for
--   the same p_take.

create function public.refuse_call_command(p_id uuid, p_refusal text) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
begin
  update public.call_commands c set refusal = p_refusal where c.id = p_id;
  return to_jsonb(found);
end
$$;

create function public.get_call_command(p_id uuid) returns jsonb
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_command public.call_commands;
begin
  select * into v_command from public.call_commands c where c.id = p_id;
  return case when found then flow.command_json(v_command) end;
end
$$;

-- Turns are numbered from a multiple of p_turns_of_a_lease by each process that has the call, and come
-- to the database in order within these; those of a process that died come late.
create function flow.turns_after(p_thread_id uuid, p_seen jsonb, p_turns_of_a_lease integer) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
  return (
    select coalesce(
      jsonb_agg(
        jsonb_build_object(
          'seq', u.seq, 'role', u.role, 'content', u.content,
          'started_at', u.started_at, 'interrupted', u.interrupted, 'latency', u.latency
        ) order by u.seq
      ),
      '[]'
    )
    from generate_series(0, (
      select coalesce(max(l.seq), 0) / p_turns_of_a_lease
      from public.workflow_thread_turns l where l.workflow_thread_id = p_thread_id
    )) as lease (n)
    cross join lateral (
      select * from public.workflow_thread_turns t
      where t.workflow_thread_id = p_thread_id
        and t.seq > coalesce(
          (p_seen ->> lease.n::text)::integer, lease.n * p_turns_of_a_lease - 1
        )
        and t.seq < (lease.n + 1) * p_turns_of_a_lease
    ) u
  );
end
$$;

-- What has begun, or is over, since.
create function flow.tool_calls_after(p_thread_id uuid, p_place bigint) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
  return (
    select coalesce(
      jsonb_agg(
        jsonb_build_object(
          'id', u.id, 'name', u.name, 'arguments', u.arguments, 'started_at', u.started_at,
          'outcome', u.outcome, 'seconds', u.seconds, 'status', u.status, 'result', null,
          'transition_to', u.transition_to, 'place', u.place
        ) order by u.place
      ),
      '[]'
    )
    from public.workflow_thread_tool_calls u
    where u.workflow_thread_id = p_thread_id and u.place > p_place
  );
end
$$;

create function public.list_thread_progress(p_watched jsonb, p_turns_of_a_lease integer) returns json
language plpgsql stable
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_accounts json := flow.accounts(array(
    select (w.value ->> 'thread_id')::uuid from jsonb_array_elements(p_watched) w
  ));
begin
  return (
    select json_agg(
      case when t.id is not null then json_build_object(
        'status', t.status,
        'created_at', t.created_at,
        'connected_at', t.connected_at,
        'ended_at', t.ended_at,
        'completed_at', t.completed_at,
        'end_reason', t.end_reason,
        'error', t.error,
        'account', v_accounts -> t.id::text,
        'tool_calls', flow.tool_calls_after(t.id, (w.value ->> 'tools')::bigint),
        'turns', flow.turns_after(t.id, w.value -> 'turns', p_turns_of_a_lease)
      ) end
      order by w.place
    )
    from jsonb_array_elements(p_watched) with ordinality as w (value, place)
    left join public.workflow_threads t on t.id = (w.value ->> 'thread_id')::uuid
  );
end
$$;
-- How threads stand, and their turns and tool calls that were not seen yet, for each of
--   [{"thread_id", "turns": {"lease": last seq seen}, "tools": the highest place of a tool call
--   seen}]; null for a thread that is gone.

-- Call recordings ---------------------------------------------------------------------------------
-- Recordings of calls: what each process recorded, where it is stored, and until when it is kept.

create table public.call_recordings (
  workflow_thread_id uuid not null,
  status text not null default 'recording'::text,
  complete boolean not null default true,
  days integer not null,
  expires_at timestamp with time zone,
  deleted_at timestamp with time zone,
  constraint call_recordings_pkey PRIMARY KEY (workflow_thread_id),
  constraint call_recordings_workflow_thread_id_fkey FOREIGN KEY (workflow_thread_id) REFERENCES workflow_threads(id) ON DELETE CASCADE,
  constraint call_recordings_days_check CHECK (days >= 1 AND days <= 3650),
  constraint call_recordings_status_check CHECK (status = ANY (ARRAY['recording'::text, 'ready'::text, 'failed'::text, 'deleted'::text]))
);
-- The recording of a call whose join asked for one. Ready, it has one part, which is all of it.
-- complete: Whether nothing that sounded is missing.
CREATE INDEX call_recordings_expiring ON call_recordings USING btree (expires_at) WHERE status = 'ready'::text;
CREATE INDEX call_recordings_unsettled ON call_recordings USING btree (workflow_thread_id) WHERE status = 'recording'::text;

create table public.call_recording_parts (
  id uuid not null,
  workflow_thread_id uuid not null,
  started_at timestamp with time zone not null,
  begun_at timestamp with time zone not null default now(),
  path text,
  seconds numeric,
  size bigint,
  complete boolean not null default false,
  constraint call_recording_parts_pkey PRIMARY KEY (id),
  constraint call_recording_parts_workflow_thread_id_fkey FOREIGN KEY (workflow_thread_id) REFERENCES call_recordings(workflow_thread_id) ON DELETE CASCADE
);
-- What one process recorded of a call.
CREATE INDEX call_recording_parts_thread ON call_recording_parts USING btree (workflow_thread_id);
CREATE TRIGGER call_recording_parts_removed AFTER DELETE ON call_recording_parts FOR EACH ROW WHEN (old.path IS NOT NULL) EXECUTE FUNCTION flow.remove_recording_file();

create table public.call_recording_removals (
  path text not null,
  due_at timestamp with time zone not null default now(),
  constraint call_recording_removals_pkey PRIMARY KEY (path)
);
-- Files whose rows are gone, until they are gone from the storage too.
CREATE INDEX call_recording_removals_due ON call_recording_removals USING btree (due_at);

create function flow.remove_recording_file() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  insert into public.call_recording_removals (path) values (old.path) on conflict do nothing;
  return old;
end
$$;

create function public.begin_recording_part(
  p_thread_id uuid,
  p_part_id uuid,
  p_started_at timestamp with time zone,
  p_days integer
) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_status text;
begin
  perform from public.workflow_threads t where t.id = p_thread_id for key share;
  if not found then
    return to_jsonb(false);
  end if;
  insert into public.call_recordings (workflow_thread_id, days) values (p_thread_id, p_days)
  on conflict do nothing;
  select r.status into v_status from public.call_recordings r
  where r.workflow_thread_id = p_thread_id for no key update;
  if v_status = 'deleted' then
    return to_jsonb(false);
  end if;
  insert into public.call_recording_parts (id, workflow_thread_id, started_at)
  values (p_part_id, p_thread_id, p_started_at) on conflict do nothing;
  if found then
    update public.call_recordings r set status = 'recording'
    where r.workflow_thread_id = p_thread_id and r.status <> 'recording';
  end if;
  return to_jsonb(true);
end
$$;
-- Notes that a process records a call; again, it changes nothing. False: the thread or its
--   recording has been deleted, and nothing is to be kept.

create function public.store_recording_part(
  p_thread_id uuid,
  p_part_id uuid,
  p_started_at timestamp with time zone,
  p_days integer,
  p_path text,
  p_seconds double precision,
  p_size bigint,
  p_complete boolean
) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
begin
  if not public.begin_recording_part(p_thread_id, p_part_id, p_started_at, p_days)::boolean then
    return to_jsonb(false);
  end if;
  update public.call_recording_parts p set
    path = p_path, seconds = p_seconds, size = p_size, complete = p_complete
  where p.id = p_part_id;
  return to_jsonb(true);
end
$$;
-- Notes where a part is stored. False as for begin_recording_part: the file is to be removed.

create function public.get_recording(p_thread_id uuid) returns jsonb
language sql stable
set search_path = ''
as $$
  select jsonb_build_object(
    'status', case
      when r.status = 'recording' and t.status not in ('created', 'connecting', 'in_call')
        then 'storing'
      else r.status
    end,
    'complete', r.complete,
    'expires_at', r.expires_at,
    'deleted_at', r.deleted_at,
    'parts', (
      select coalesce(
        jsonb_agg(
          jsonb_build_object(
            'id', p.id, 'started_at', p.started_at, 'path', p.path,
            'seconds', p.seconds, 'size', p.size, 'complete', p.complete
          ) order by p.started_at, p.id
        ),
        '[]'
      )
      from public.call_recording_parts p where p.workflow_thread_id = r.workflow_thread_id
    )
  )
  from public.call_recordings r join public.workflow_threads t on t.id = r.workflow_thread_id
  where r.workflow_thread_id = p_thread_id
$$;
-- A call's recording with its parts; null where there is none.

-- Parts that nobody has stored for so long are lost with the disk of their process.
create function public.drop_lost_recording_parts(p_lost_secs integer) returns jsonb
language sql
set search_path = ''
set enable_seqscan = off
as $$
  with lost as (
    delete from public.call_recording_parts p
    using public.call_recordings r, public.workflow_threads t
    where r.status = 'recording' and p.workflow_thread_id = r.workflow_thread_id
      and t.id = r.workflow_thread_id and p.path is null
      and t.status not in ('created', 'connecting', 'in_call')
      and greatest(p.begun_at, t.ended_at, t.completed_at) < now() - make_interval(secs => p_lost_secs)
    returning p.workflow_thread_id
  ), marked as (
    update public.call_recordings r set complete = false
    where r.workflow_thread_id in (select l.workflow_thread_id from lost l)
    returning 1
  )
  select to_jsonb(count(*)) from marked
$$;

create function public.list_unsettled_recordings() returns jsonb
language sql stable
set search_path = ''
set enable_seqscan = off
as $$
  select coalesce(jsonb_agg(u.workflow_thread_id), '[]')
  from (
    select r.workflow_thread_id
    from public.call_recordings r join public.workflow_threads t on t.id = r.workflow_thread_id
    where r.status = 'recording' and t.status not in ('created', 'connecting', 'in_call')
      and not exists (
        select from public.call_recording_parts p
        where p.workflow_thread_id = r.workflow_thread_id and p.path is null
      )
    limit 100
  ) u
$$;
-- The threads whose calls are over, whose parts are all stored, and whose recording is not ready.

create function public.settle_recording(
  p_thread_id uuid,
  p_parts jsonb,
  p_whole jsonb default NULL::jsonb
) returns jsonb
language plpgsql
set search_path = ''
set enable_seqscan = off
as $$
declare
  v_recording public.call_recordings;
  v_complete boolean;
begin
  select * into v_recording from public.call_recordings r
  where r.workflow_thread_id = p_thread_id for no key update;
  if not found or v_recording.status <> 'recording' or exists (
    select from public.call_recording_parts p
    where p.workflow_thread_id = p_thread_id and (p.path is null or not p_parts ? p.id::text)
  ) then
    return to_jsonb(false);
  end if;
  select v_recording.complete and coalesce(bool_and(p.complete), false) into v_complete
  from public.call_recording_parts p where p.workflow_thread_id = p_thread_id;
  if p_whole is not null then
    delete from public.call_recording_parts p where p.workflow_thread_id = p_thread_id;
    insert into public.call_recording_parts (
      id, workflow_thread_id, started_at, path, seconds, size, complete
    )
    select n.id, p_thread_id, n.started_at, n.path, n.seconds, n.size, v_complete
    from jsonb_to_record(p_whole) as n (
      id uuid, started_at timestamptz, path text, seconds numeric, size bigint
    );
  end if;
  update public.call_recordings r set
    status = case when jsonb_array_length(p_parts) = 0 then 'failed' else 'ready' end,
    complete = v_complete,
    expires_at = (
      select coalesce(t.ended_at, t.completed_at, now()) + make_interval(days => r.days)
      from public.workflow_threads t where t.id = p_thread_id
    )
  where r.workflow_thread_id = p_thread_id;
  return to_jsonb(true);
end
$$;
-- Makes a recording of exactly these parts (ids) ready; of several, p_whole is what was made of
--   them, {"id", "started_at", "path", "seconds", "size"}. Of none it has failed. False: there are
--   other parts by now, or it is settled already.

create function public.expire_recordings() returns jsonb
language sql
set search_path = ''
set enable_seqscan = off
as $$
  with expired as (
    select r.workflow_thread_id from public.call_recordings r
    where (r.status = 'ready' and r.expires_at <= now())
      -- Its time is over as well where it was never put together, or never stored.
      or (
        r.status = 'recording' and exists (
          select from public.workflow_threads t
          where t.id = r.workflow_thread_id
            and t.status not in ('created', 'connecting', 'in_call')
            and coalesce(t.ended_at, t.completed_at) < now() - make_interval(days => r.days)
        )
      )
    order by r.expires_at limit 500
    for no key update skip locked
  ), gone as (
    delete from public.call_recording_parts p
    where p.workflow_thread_id in (select e.workflow_thread_id from expired e)
    returning 1
  ), marked as (
    update public.call_recordings r set status = 'deleted', deleted_at = now()
    where r.workflow_thread_id in (select e.workflow_thread_id from expired e)
    returning 1
  )
  select to_jsonb(count(*)) from marked
$$;
-- Deletes the recordings whose time is over; their files are removed by whoever asks for removals.

create function public.claim_recording_removals() returns jsonb
language sql
set search_path = ''
set enable_seqscan = off
as $$
  with due as (
    select r.path from public.call_recording_removals r
    where r.due_at <= now() order by r.due_at limit 100 for update skip locked
  ), claimed as (
    -- Tried again some minutes later, among others: a file that the storage refuses to remove
    -- keeps the same ones back but once.
    update public.call_recording_removals r
    set due_at = now() + interval '5 minutes' * (1 + random())
    from due where r.path = due.path returning r.path
  )
  select coalesce(jsonb_agg(c.path), '[]') from claimed c
$$;
-- Some files for the caller to remove: nobody else is given them for some minutes.

create function public.forget_recording_removals(p_paths jsonb) returns jsonb
language sql
set search_path = ''
as $$
  with removed as (
    delete from public.call_recording_removals r
    where r.path in (select jsonb_array_elements_text(p_paths)) returning 1
  )
  select to_jsonb(count(*)) from removed
$$;

-- Grants ------------------------------------------------------------------------------------------
-- execute on every function to service_role
-- delete, insert, select, update on every table to service_role
-- nothing else to anybody but the owner
-- row-level security on every table
-- policies on none
