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
$$;

-- Functions that only other functions call. The REST API exposes public, not this schema.
--
-- In all of these migrations:
-- * A function with a string for a body sets its search_path. One with an expression for a body
--   ("return ...") is bound when it is made and needs none: without a setting of its own, and with a
--   volatility no stricter than its parts', the planner writes it into whoever calls it.
-- * A connection keeps its plans, and one made while tables were empty must do when they are large.
--   Where everything that is looked up has an index, enable_seqscan = off says to use it.
-- * A refusal carries an SQLSTATE that PostgREST turns into the HTTP status in its name: PT403 refused,
--   PT404 not found, PT409 conflict, PT422 invalid input. DETAIL holds its code, where it has one.
create schema flow;

create function flow.restrict_to_service_role(p_tables text[], p_functions text[])
returns void
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
comment on function flow.restrict_to_service_role is
  'Ends a migration: row-level security without a policy on the tables, and no use of tables, their '
  'sequences, public functions named and functions of schema flow by anyone but service_role and the '
  'owner.';

do $$
begin
  if exists (select from pg_catalog.pg_roles where rolname = 'service_role') then
    grant usage on schema flow to service_role;
  end if;
end
$$;
