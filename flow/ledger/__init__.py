"""The way of usage and transcripts to the database, by a spool on this machine's disk."""
