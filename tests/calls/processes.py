"""``flow`` processes of their own, to be killed, and a database that holds one up in a step."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import httpx
import psycopg

from flow.sandbox.vendors import Vendors
from tests.calls.conftest import SECRET

HELD = 4711
WAITING = f"where locktype = 'advisory' and objid = {HELD} and not granted"


class Process:
    """A ``flow serve`` or ``flow worker``."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self._process = process
        self.url = url

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    async def killed(self) -> None:
        self.kill()
        await self._process.wait()

    async def stopped(self) -> int:
        """The exit status, of one that was asked to stop."""
        self._process.terminate()
        return await asyncio.wait_for(self._process.wait(), 60)


@asynccontextmanager
async def process(
    standing: Vendors, database_url: str, folder: Path, **variables: str
) -> AsyncIterator[Process]:
    """``flow serve``, once it answers."""
    port = _free_port()
    arguments = ["serve", "--port", str(port)]
    async with _running(arguments, standing, database_url, folder, variables) as running:
        url = f"http://127.0.0.1:{port}"
        await _ready(url)
        yield Process(running, url)


@asynccontextmanager
async def worker(
    standing: Vendors, database_url: str, folder: Path, *, answers: bool = False
) -> AsyncIterator[Process]:
    """``flow worker``; one that ``answers`` about itself, once it does."""
    port = _free_port()
    arguments = ["worker", *(["--port", str(port)] if answers else [])]
    async with _running(arguments, standing, database_url, folder, {}) as running:
        url = f"http://127.0.0.1:{port}"
        if answers:
            await _ready(url)
        yield Process(running, url)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@asynccontextmanager
async def _running(
    arguments: list[str],
    standing: Vendors,
    database_url: str,
    folder: Path,
    variables: dict[str, str],
) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {
        **os.environ,
        **standing.environment,
        "DATABASE_URL": database_url,
        "FLOW_DATA_DIR": str(folder),
        "FLOW_SECRET": SECRET,
        "FLOW_LOG_LEVEL": "warning",
        **variables,
    }
    command = [sys.executable, "-c", "from flow.cli import main; main()", *arguments]
    running = await asyncio.create_subprocess_exec(*command, env=environment)
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            running.terminate()
        await asyncio.wait_for(running.wait(), 60)


async def _ready(url: str) -> None:
    async with asyncio.timeout(60), httpx.AsyncClient(trust_env=False) as http:
        while True:
            with suppress(httpx.TransportError):
                if (await http.get(f"{url}/readyz")).status_code == 200:
                    return
            await asyncio.sleep(0.1)


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
