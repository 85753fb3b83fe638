"""What benchmarks run on: a real Postgres, the vendors' stand-ins, and the service itself."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener
from uuid import uuid4

import psycopg
from psycopg.conninfo import make_conninfo

from flow.db.embedded import embedded_postgres
from flow.db.migrations import migrate
from tests.bench import processes
from tests.ports import free_port

READY_SECS = 180.0


@asynccontextmanager
async def folder() -> AsyncIterator[Path]:
    """An empty folder, gone afterwards, with a path short enough for Postgres' socket."""
    path = Path(tempfile.mkdtemp(prefix="flow-bench-"))
    # The embedded Postgres runs as another user where this one is root.
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@asynccontextmanager
async def database() -> AsyncIterator[str]:
    """The URL of a migrated database on an embedded Postgres with its default settings."""
    async with folder() as path, embedded_postgres(path / "pg") as server:
        name = f"bench_{uuid4().hex}"
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"create database {name}".encode())
        url = make_conninfo(server, dbname=name)
        await migrate(url)
        yield url


@asynccontextmanager
async def vendors(keys: int = 1) -> AsyncIterator[dict[str, Any]]:
    """The vendors' stand-ins in a process of their own: ``environment`` and API ``keys``."""
    async with processes.running("vendors_process", {"keys": keys}) as ready:
        yield ready


@dataclass(frozen=True, slots=True)
class Served:
    """A server: where it listens, and its process."""

    port: int
    pid: int


@asynccontextmanager
async def service(url: str, environment: Mapping[str, str]) -> AsyncIterator[Served]:
    """``flow serve`` with one process, on the database at ``url``, when it is ready."""
    port = free_port()
    async with folder() as path:
        settings = {
            **environment,
            "DATABASE_URL": url,
            "FLOW_DATA_DIR": str(path),
            "FLOW_SECRET": "a secret of the benchmarks, and of nothing else",
            "FLOW_LOG_LEVEL": "warning",
        }
        async with processes.command(["serve", "--port", str(port)], settings) as child:
            await ready(port, child)
            yield Served(port, child.pid)


async def ready(port: int, child: asyncio.subprocess.Process | None = None) -> None:
    """Return when the service on this port says that it is ready."""
    opener = build_opener(ProxyHandler({}))

    def is_ready() -> bool:
        try:
            with opener.open(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    async with asyncio.timeout(READY_SECS):
        while not await asyncio.to_thread(is_ready):
            if child is not None and child.returncode is not None:
                raise RuntimeError(f"flow serve ended with exit code {child.returncode}")
            await asyncio.sleep(0.02)
