-- Agents: call settings that a team stores under a name, in versions that never change.

create table public.agents (
  id uuid primary key,
  team_id text collate "C" not null check (octet_length(team_id) between 1 and 255),
  name text not null check (octet_length(name) between 1 and 512),
  version integer not null default 1 check (version >= 1),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  archived_at timestamptz,
  -- Of whoever made it, so that a repeat makes no second one.
  api_key_id uuid references public.api_keys (id) on delete set null,
  idempotency_key text check (octet_length(idempotency_key) <= 1020),
  fingerprint text
);
comment on table public.agents is 'A bot that a team has stored; what it is, its versions say.';
comment on column public.agents.version is 'The newest.';
comment on column public.agents.updated_at is 'When the newest version was made.';
comment on column public.agents.archived_at is 'Since then no new call can name it.';

create unique index agents_name on public.agents (team_id, name) where archived_at is null;
create index agents_archived_name on public.agents (team_id, name, archived_at desc)
  where archived_at is not null;
create index agents_created on public.agents (team_id, created_at desc, id desc);
create unique index agents_idempotency_key on public.agents (api_key_id, idempotency_key)
  where idempotency_key is not null;

create table public.agent_versions (
  agent_id uuid not null references public.agents (id),
  version integer not null check (version >= 1),
  definition jsonb not null,
  created_at timestamptz not null default now(),
  primary key (agent_id, version)
);
comment on table public.agent_versions is 'What an agent is or was; a version never changes.';

alter table public.workflow_threads add constraint workflow_threads_agent_fkey
  foreign key (agent_id, agent_version) references public.agent_versions (agent_id, version);

create function flow.refuse_change_of_version() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  raise exception 'Version % of agent % does not change: make another.', old.version, old.agent_id
    using errcode = 'PT409', detail = 'version_immutable';
end
$$;

create trigger agent_versions_immutable before update or delete on public.agent_versions
  for each row execute function flow.refuse_change_of_version();

create function flow.agent_json(p_agent public.agents, p_version public.agent_versions)
returns jsonb
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
create function flow.find_agent(p_team_id text, p_reference text) returns public.agents
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
  p_api_key_id uuid default null,
  p_idempotency_key text default null,
  p_fingerprint text default null
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
comment on function public.create_agent is
  'Makes version 1 of an agent; under an idempotency key of an API key only once.';

create function public.change_agent(
  p_team_id text, p_reference text, p_definition jsonb, p_if_version integer default null
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
comment on function public.change_agent is
  'Makes the next version of an agent; with p_if_version only where that is the newest.';

create function public.get_agent(
  p_team_id text, p_reference text, p_version integer default null
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
  p_before_created_at timestamptz default null,
  p_before_id uuid default null,
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
comment on function public.list_agents is 'The newest versions of a team''s agents, or of everyone''s.';

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
comment on function public.archive_agent is
  'No new call can name it from then on; running and past calls keep what they were made with.';

select flow.restrict_to_service_role(array['agents', 'agent_versions'], array[
  'create_agent', 'change_agent', 'get_agent', 'list_agents', 'archive_agent'
]);
