"""Recordings of calls: where sound belongs in time, what keeps it, and where it is stored."""
