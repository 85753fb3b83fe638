"""A database that holds a process up in a step."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

HELD = 4711
WAITING = f"where locktype = 'advisory' and objid = {HELD} and not granted"


@contextmanager
def held_at(database_url: str, change: str) -> Iterator[None]:
    """Hold up every update of a thread that is ``change``, an SQL condition on old and new.

    What is held up at the end is lost: Postgres would carry out what a killed process sent.
    """
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            f"""
            create function held() returns trigger language plpgsql as $$
            begin
              perform pg_advisory_xact_lock_shared({HELD});
              return new;
            end
            $$;
            create trigger held before update on workflow_threads
              for each row when ({change}) execute function held();
            """.encode()
        )
        connection.execute(f"select pg_advisory_lock({HELD})".encode())
        try:
            yield
        finally:
            connection.execute(f"select pg_terminate_backend(pid) from pg_locks {WAITING}".encode())
            connection.execute(f"select pg_advisory_unlock({HELD})".encode())


async def somebody_waits(database_url: str) -> None:
    """Return when an update is held up."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        async with asyncio.timeout(60):
            while True:
                waiting = connection.execute(f"select from pg_locks {WAITING}".encode())
                if waiting.fetchone() is not None:
                    return
                await asyncio.sleep(0.02)
