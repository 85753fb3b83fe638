-- Recordings of calls: what each process recorded, where it is stored, and until when it is kept.

create table public.call_recordings (
  workflow_thread_id uuid primary key references public.workflow_threads (id) on delete cascade,
  status text not null default 'recording'
    check (status in ('recording', 'ready', 'failed', 'deleted')),
  complete boolean not null default true,
  days integer not null check (days between 1 and 3650),
  expires_at timestamptz,
  deleted_at timestamptz
);
comment on table public.call_recordings is
  'The recording of a call whose join asked for one. Ready, it has one part, which is all of it.';
comment on column public.call_recordings.complete is 'Whether nothing that sounded is missing.';
create index call_recordings_unsettled on public.call_recordings (workflow_thread_id)
  where status = 'recording';
create index call_recordings_expiring on public.call_recordings (expires_at) where status = 'ready';

create table public.call_recording_parts (
  id uuid primary key,
  workflow_thread_id uuid not null
    references public.call_recordings (workflow_thread_id) on delete cascade,
  started_at timestamptz not null,
  begun_at timestamptz not null default now(),
  -- Null until it is stored: then it is with the process that recorded it.
  path text,
  seconds numeric,
  size bigint,
  complete boolean not null default false
);
comment on table public.call_recording_parts is 'What one process recorded of a call.';
create index call_recording_parts_thread on public.call_recording_parts (workflow_thread_id);

create table public.call_recording_removals (
  path text primary key,
  due_at timestamptz not null default now()
);
comment on table public.call_recording_removals is
  'Files whose rows are gone, until they are gone from the storage too.';
create index call_recording_removals_due on public.call_recording_removals (due_at);

create function flow.remove_recording_file() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  insert into public.call_recording_removals (path) values (old.path) on conflict do nothing;
  return old;
end
$$;
-- However the row goes: with its thread, its key, its retention time, or for a part made of several.
create trigger call_recording_parts_removed after delete on public.call_recording_parts
  for each row when (old.path is not null) execute function flow.remove_recording_file();

create function public.begin_recording_part(
  p_thread_id uuid, p_part_id uuid, p_started_at timestamptz, p_days integer
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
comment on function public.begin_recording_part is
  'Notes that a process records a call; again, it changes nothing. False: the thread or its '
  'recording has been deleted, and nothing is to be kept.';

create function public.store_recording_part(
  p_thread_id uuid,
  p_part_id uuid,
  p_started_at timestamptz,
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
comment on function public.store_recording_part is
  'Notes where a part is stored. False as for begin_recording_part: the file is to be removed.';

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
comment on function public.get_recording is 'A call''s recording with its parts; null where there is none.';

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
comment on function public.list_unsettled_recordings is
  'The threads whose calls are over, whose parts are all stored, and whose recording is not ready.';

create function public.settle_recording(
  p_thread_id uuid, p_parts jsonb, p_whole jsonb default null
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
comment on function public.settle_recording is
  'Makes a recording of exactly these parts (ids) ready; of several, p_whole is what was made of '
  'them, {"id", "started_at", "path", "seconds", "size"}. Of none it has failed. False: there are '
  'other parts by now, or it is settled already.';

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
comment on function public.expire_recordings is
  'Deletes the recordings whose time is over; their files are removed by whoever asks for removals.';

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
comment on function public.claim_recording_removals is
  'Some files for the caller to remove: nobody else is given them for some minutes.';

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

select flow.restrict_to_service_role(
  array['call_recordings', 'call_recording_parts', 'call_recording_removals'],
  array[
    'begin_recording_part', 'store_recording_part', 'get_recording', 'drop_lost_recording_parts',
    'list_unsettled_recordings', 'settle_recording', 'expire_recordings', 'claim_recording_removals',
    'forget_recording_removals'
  ]
);
