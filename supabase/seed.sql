-- A key for local development with `supabase start`. The service makes rows for real keys itself.
insert into public.api_keys (unkey_key_id, team_id, name)
values ('key_local', 'team_local', 'Local development')
on conflict (unkey_key_id) do nothing;
