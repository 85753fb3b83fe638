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

-- Bounds keep sums from overflowing and a nonsense number from bloating an account for ever.
-- NaN and Infinity are above every bound.
create table public.usage_events (
  id uuid primary key,
  workflow_thread_id uuid,
  api_key_id uuid not null,
  team_id text collate "C" not null,
  product text collate "C" not null check (octet_length(product) between 1 and 512),
  billable boolean not null,
  request_id text,
  trace_id text,
  session_id text,
  distinct_id text,
  kind text collate "C" not null check (flow.is_name(kind)),
  source text collate "C" not null check (octet_length(source) between 1 and 64),
  provider text collate "C" not null check (octet_length(provider) between 1 and 128),
  model text collate "C" not null check (octet_length(model) <= 512),
  requested_model text,
  sent_model text,
  service_tier text,
  lines jsonb not null check (jsonb_typeof(lines) = 'array'),
  total_cost_usd numeric check (total_cost_usd >= 0 and total_cost_usd < 1e12),
  provenance text not null check (flow.is_name(provenance)),
  outcome text not null check (outcome in ('ok', 'interrupted', 'error')),
  price_version text,
  occurred_at timestamptz not null check (isfinite(occurred_at)),
  stated_at timestamptz,
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
  recorded_at timestamptz not null default now(),
  -- Rows without a thread go with their key by themselves; the others go with their thread.
  threadless_api_key_id uuid
    generated always as (case when workflow_thread_id is null then api_key_id end) stored
    references public.api_keys (id) on delete cascade,
  constraint usage_events_thread_owner foreign key (workflow_thread_id, api_key_id, team_id, product)
    references public.workflow_threads (id, api_key_id, team_id, product) on delete cascade,
  constraint unmetered_work_has_no_lines check (
    provenance <> 'unmetered' or (lines = '[]' and total_cost_usd is null)
  )
);
comment on table public.usage_events is
  'The ledger: one immutable row per piece of vendor work. Rows leave only with their key.';
comment on column public.usage_events.workflow_thread_id is 'The call, where there is one.';
comment on column public.usage_events.occurred_at is
  'When it happened, by the clock of this database: it decides the day and month that the cost counts in.';
comment on column public.usage_events.stated_at is
  'What the process said instead, where its clock differs; else NULL.';
comment on column public.usage_events.lines is
  'A line for each unit used: [{"unit", "quantity", "cost_usd"?, "component", "part_of"?}].';
comment on column public.usage_events.total_cost_usd is
  'The sum of the lines'' costs; NULL when unpriced, which is not free.';

create index usage_events_thread on public.usage_events (workflow_thread_id, occurred_at, id)
  where workflow_thread_id is not null;
create index usage_events_threadless on public.usage_events (threadless_api_key_id, occurred_at, id)
  where threadless_api_key_id is not null;

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

create trigger usage_events_immutable before update or delete on public.usage_events
  for each row execute function flow.refuse_ledger_change();
create trigger usage_events_never_truncated before truncate on public.usage_events
  for each statement execute function flow.refuse_ledger_change();

create table public.rejected_usage_events (
  id bigint generated always as identity primary key,
  event jsonb not null,
  event_sha256 bytea not null unique,
  reason text not null,
  rejected_at timestamptz not null default now()
);
comment on table public.rejected_usage_events is
  'Events the ledger could not take, as they came, each once, for somebody to look at.';

-- Lines ------------------------------------------------------------------------------------------

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
  p_unit text, p_quantity numeric, p_cost_usd numeric, p_component text, p_part_of text,
  p_lines jsonb, p_total_cost_usd numeric
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

-- The way in -------------------------------------------------------------------------------------

-- In plpgsql, which keeps plans, and by generic ones: with arrays for arguments a plan made for just
-- this batch always looks cheaper, and planning takes longer than running.
create function flow.insert_usage(p_events jsonb, p_clock_behind interval) returns uuid[]
language plpgsql
set search_path = ''
set timezone = 'UTC'
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
comment on function flow.insert_usage is
  'Inserts what is not in the ledger yet; gives its ids. An event of a thread that is not there, or of '
  'another owner than its thread''s (without a thread: its key''s), is left out; one whose lines are '
  'wrong fails the batch. None is dated later than now, and each by p_clock_behind later than it says.';

-- How far a process's clock is behind this one, below zero where it is ahead. Up to a minute it may be
-- the batch that was on its way.
create function flow.clock_behind(p_sent_at timestamptz) returns interval
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
comment on function flow.dated_otherwise is
  'Of these events those that the ledger dates otherwise than their process did: id to occurred_at.';

-- What the ledger did not take of a well-formed batch: a reason, or null for a duplicate.
create function flow.unrecorded(p_events jsonb, p_new uuid[])
returns table (id uuid, thread_id uuid, event jsonb, reason text)
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

-- Reading ----------------------------------------------------------------------------------------

-- Money and quantities leave as strings: JSON parsers make floats of numbers.
create function flow.event_json(p_event public.usage_events) returns jsonb
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

create function public.get_thread_usage(p_thread_id uuid, p_api_key_id uuid default null)
returns jsonb
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
  p_before_occurred_at timestamptz default null,
  p_before_id uuid default null,
  p_product text default null
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

select flow.restrict_to_service_role(
  array['usage_events', 'rejected_usage_events'], array['get_thread_usage', 'list_requests']
);
