"""Stand-ins for storages of files: S3 and Supabase Storage."""
