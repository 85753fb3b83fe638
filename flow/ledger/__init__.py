"""Recording of usage and transcripts: a spool on disk, and its delivery to the database."""
