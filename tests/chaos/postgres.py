"""A Postgres server that is an experiment's own, to be stopped, killed and cut off."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.conninfo import make_conninfo

from flow.db.database import Database
from flow.db.embedded import embedded_postgres
from flow.db.migrations import migrate
from flow.db.postgres_transport import PostgresTransport

DATABASE = "chaos"
CUT = "select count(pg_terminate_backend(pid)) from pg_stat_activity where pid <> pg_backend_pid()"


class Postgres:
    """The server whose data is in ``folder``. ``url`` is of a migrated database, and stays."""

    def __init__(self, folder: Path) -> None:
        self.url = ""
        self._folder = folder
        self._running = AsyncExitStack()

    async def start(self) -> None:
        """Start it, for the first time or again; returns when it answers."""
        server = await self._running.enter_async_context(embedded_postgres(self._folder))
        if not self.url:
            with psycopg.connect(server, autocommit=True) as connection:
                connection.execute(f"create database {DATABASE}".encode())
            self.url = make_conninfo(server, dbname=DATABASE)
            await migrate(self.url)

    async def stop(self) -> None:
        """Shut it down as an operator would: connections are ended, all is written down."""
        await self._running.aclose()

    async def kill(self) -> None:
        """Let it die without a word; it is to be started again, which then has to recover."""
        postmaster = int((self._folder / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGKILL)
        await asyncio.to_thread(_wait_for_end, postmaster)
        await self._running.aclose()

    async def cut(self) -> int:
        """End every connection that others have to it; how many those were."""
        return int((await self.rows(CUT))[0][0])

    async def rows(self, query: LiteralString, **values: Any) -> list[tuple[Any, ...]]:
        """What a query gives, on a connection of its own."""
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
            found = await connection.execute(query, values or None)
            return await found.fetchall()

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """Its functions, for as long as the block lasts."""
        database = Database(await PostgresTransport.open(self.url))
        try:
            yield database
        finally:
            await database.close()


def _wait_for_end(process: int) -> None:
    """Return when a process that is no child of ours, or one that nobody reaped, has ended."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        psutil.Process(process).wait(10)
