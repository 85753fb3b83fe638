-- Telephony: the numbers that ring agents, and the legs of calls that a carrier has or is to place.

create table public.phone_numbers (
  number text collate "C" primary key check (number ~ '^\+[1-9][0-9]{6,14}$'),
  api_key_id uuid not null references public.api_keys (id) on delete cascade,
  -- What the number rings: an agent of the key's team, or a product's own bot. Neither: it only calls.
  agent uuid,
  product text check (octet_length(product) between 1 and 512),
  created_at timestamptz not null default now(),
  check (agent is null or product is null)
);
comment on table public.phone_numbers is
  'Telephone numbers of the operator''s carriers: whose budget their calls are on, and what they ring.';
create index phone_numbers_api_key_id on public.phone_numbers (api_key_id);

create table public.phone_calls (
  id uuid primary key,
  workflow_thread_id uuid not null references public.workflow_threads (id) on delete cascade,
  carrier text not null,
  leg text not null check (leg in ('caller', 'transfer')),
  direction text not null check (direction in ('inbound', 'outbound')),
  from_number text not null,
  to_number text not null,
  state text not null check (state in ('queued', 'dialling', 'live', 'over', 'done')),
  dial_order jsonb,
  call_id text,
  dial_until timestamptz,
  dialled_at timestamptz,
  dials integer not null default 0,
  tries integer not null default 0,
  status text,
  answered_by text,
  transferred_at timestamptz,
  -- {"amount", "currency"}, as the carrier says it.
  price jsonb,
  -- When it is looked at again; who looks has it until then.
  due_at timestamptz,
  created_at timestamptz not null default now(),
  unique (carrier, call_id)
);
comment on table public.phone_calls is
  'The legs of telephone calls: each is dialled once and priced once, whatever becomes of a process.';
comment on column public.phone_calls.tries is 'What was tried in this state without result.';
create index phone_calls_due on public.phone_calls (due_at) where due_at is not null;
create index phone_calls_thread on public.phone_calls (workflow_thread_id, created_at, id);
-- So that a call between two numbers which no leg has can only be that of the one being dialled.
create unique index phone_calls_dialling on public.phone_calls (carrier, from_number, to_number)
  where state = 'dialling';

create function flow.phone_number_json(p_number public.phone_numbers) returns jsonb
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
  p_number text, p_api_key_id uuid, p_agent uuid default null, p_product text default null
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
comment on function public.put_phone_number is 'Adds a number, or has it ring another bot.';

create function public.list_phone_numbers(p_team_id text default null) returns jsonb
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

-- Legs of calls ----------------------------------------------------------------------------------

create function flow.phone_call_json(p_call public.phone_calls) returns jsonb
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
comment on function public.order_phone_call is
  'Keeps a call that is to be placed; what is kept already stays.';

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
comment on function public.begin_phone_dial is
  'The carrier is about to be asked to dial; null: it is not to be, or not yet.';

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
comment on function public.bind_phone_call is
  'Gives the leg as it is then: with another call_id than asked for, it is another call''s.';

create function public.claim_phone_calls(p_limit integer, p_lease_secs double precision)
returns jsonb
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
comment on function public.claim_phone_calls is
  'The legs that are due, for whoever asks: nobody else gets them for so many seconds.';

-- p_changes holds any of state, call_id, status, answered_by, transferred_at, price. What is done
-- stays done, a call keeps the first id that it is known by, and who comes late changes no state.
create function public.note_phone_call(
  p_id uuid, p_changes jsonb, p_due_secs double precision default null, p_from_state text default null
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
  p_id uuid default null, p_carrier text default null, p_call_id text default null
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

select flow.restrict_to_service_role(array['phone_numbers', 'phone_calls'], array[
  'put_phone_number', 'list_phone_numbers', 'find_phone_number', 'remove_phone_number',
  'order_phone_call', 'begin_phone_dial', 'bind_phone_call', 'claim_phone_calls', 'note_phone_call',
  'get_phone_call', 'list_phone_calls', 'known_phone_calls'
]);
