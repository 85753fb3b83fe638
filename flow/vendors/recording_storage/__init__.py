"""Where recordings are stored: a folder, S3 or what speaks its protocol, or Supabase Storage."""
