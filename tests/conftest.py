"""A real Postgres for every test that asks for one.

One embedded server per test process, one migrated template in it, and for each test a database of
its own copied from that template.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import structlog
from psycopg.conninfo import make_conninfo
from xdist.scheduler import LoadScopeScheduling

from flow.db.database import Database
from flow.db.embedded import running_postgres
from flow.db.migrations import migrate
from flow.db.postgres_transport import PostgresTransport

# For each process one to begin with. It makes what tests share there, a Postgres above all, and
# keeps calls waiting until the others have theirs: they would not have the time.
FIRST_MODULES = (
    "tests/api/test_auth.py",
    "tests/api/test_budget_headers.py",
    "tests/api/test_join.py",
    "tests/api/test_limits.py",
    "tests/api/test_threads.py",
)
# Begun at the end, one of them would be waited for alone.
LONG_MODULES = (
    "tests/db/test_admission.py",
    "tests/db/test_embedded.py",
    "tests/db/test_migrations.py",
    "tests/db/test_transports.py",
    "tests/test_bench.py",
    "tests/test_chaos.py",
    "tests/test_service.py",
    "tests/workflows/test_durable.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes early, whole calls before all. They are in real time, which a machine
    with other work may not keep: one that fails is held once more, and the run's summary says so.
    """
    items.sort(key=_late)
    for item in items:
        if _is_call(item.nodeid):
            item.add_marker(pytest.mark.flaky(reruns=1))


class Scheduler(LoadScopeScheduling):
    """Which tests one process runs after another: those of a module, mostly.

    Whole calls go to whichever process is free: a process that had all those of a module at the
    end would be the last by minutes. One process has all that needs a Supabase project, which
    takes half a minute to start.
    """

    def _split_scope(self, nodeid: str) -> str:
        if _is_whole_call(nodeid):
            return nodeid
        return "supabase" if "[supabase" in nodeid else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduler:
    """Have tests that share something run in the same process."""
    return Scheduler(config, log)


def pytest_collection_finish() -> None:
    """Calls are in real time: no look for garbage is to go through all that tests have loaded."""
    gc.freeze()


def _late(item: pytest.Item) -> tuple[bool, ...]:
    nodeid = item.nodeid
    return (
        not nodeid.startswith(FIRST_MODULES),
        not _is_call(nodeid),
        _is_whole_call(nodeid),
        not nodeid.startswith(LONG_MODULES),
    )


def _is_call(nodeid: str) -> bool:
    return nodeid.startswith("tests/calls/")


def _is_whole_call(nodeid: str) -> bool:
    # Those of WebRTC stay together: their packages take long to load.
    return _is_call(nodeid) and "test_webrtc" not in nodeid


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """Commands set up the log of the whole process, on a stream that goes with their test."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a Postgres server that is this process's alone."""
    # Not pytest's own folder: that one may be closed to the user Postgres runs as, and its path is
    # often too long for a socket. In memory, making a database takes a sixth of the time.
    folder = Path(tempfile.mkdtemp(prefix="flow-tests-", dir=_memory()))
    try:
        with running_postgres(folder / "pg") as url:
            with psycopg.connect(url, autocommit=True) as connection:
                for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                    connection.execute(f"alter system set {setting} = off".encode())
                connection.execute("select pg_reload_conf()")
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _memory() -> Path | None:
    """A file system in memory with room for the servers of all test processes, if there is one."""
    memory = Path("/dev/shm")
    enough = 4 * 2**30
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > enough else None


@pytest.fixture(scope="session")
def template(postgres: str) -> str:
    """Name of a database with every migration applied."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("create database migrated")
    asyncio.run(migrate(make_conninfo(postgres, dbname="migrated")))
    return "migrated"


@pytest.fixture
def postgres_url(postgres: str, template: str) -> Iterator[str]:
    """URL of a migrated database that nobody else has."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        # File by file it takes less than half of the time.
        copied = f"create database {name} template {template} strategy file_copy"
        connection.execute(copied.encode())
        yield make_conninfo(postgres, dbname=name)
        connection.execute(f"drop database {name} with (force)".encode())


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    """Calls of a migrated database that nobody else has."""
    database = Database(await PostgresTransport.open(postgres_url))
    yield database
    await database.close()
