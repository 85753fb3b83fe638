"""A database that holds a process up in a step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

HELD = 4711
WAITING = f"where locktype = 'advisory' and objid = {HELD} and not granted"


@contextmanager
def held_at(database_url: str, change: str) -> Iterator[Callable[[], None]]:
    """Hold up every update of a thread that is ``change``, an SQL condition on old and new.

    What this gives lets them go on. What is held up at the end is lost: Postgres would carry out
    what a killed process sent.
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
            yield lambda: _let_go(connection)
        finally:
            connection.execute(f"select pg_terminate_backend(pid) from pg_locks {WAITING}".encode())
            _let_go(connection)


def _let_go(connection: psycopg.Connection) -> None:
    connection.execute("select pg_advisory_unlock_all()")


@contextmanager
def claimed(database_url: str, thread_id: object) -> Iterator[Callable[[], None]]:
    """A thread that somebody is about to connect to; what this gives commits it."""
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "update workflow_threads set status = 'connecting', claimed_by = 'somebody/1'"
            " where id = %s",
            [thread_id],
        )
        yield connection.commit


async def somebody_waits(database_url: str) -> None:
    """Return when an update is held up."""
    await _until_found(database_url, f"select from pg_locks {WAITING}")


async def so_many_wait(database_url: str, many: int) -> None:
    """Return when so many changes wait: for `held_at`, or for another change of the same row."""
    await _until_found(
        database_url,
        "select from pg_stat_activity where datname = current_database()"
        f" and wait_event_type = 'Lock' having count(*) = {many}",
    )


async def _until_found(database_url: str, query: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        async with asyncio.timeout(60):
            while connection.execute(query.encode()).fetchone() is None:
                await asyncio.sleep(0.02)
