"""The database as typed calls of the SQL functions in supabase/migrations."""
