"""The lanes of the tests, and a real Postgres for every test that asks for one.

A test's lane follows from the folder it lies in.

One embedded server per test process, one migrated template in it, and for each test a database of
its own copied from that template.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import structlog
from hypothesis import settings
from psycopg.conninfo import make_conninfo
from xdist.scheduler import LoadScopeScheduling

from flow.db.database import Database
from flow.db.embedded import running_postgres
from flow.db.migrations import migrate
from flow.db.postgres_transport import PostgresTransport

# No property is about time, and a busy machine takes its own.
settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")

TESTS = Path(__file__).parent
LANES = {
    "unit": {
        "bot", "domain", "insights", "kit", "metering", "recordings", "sandbox", "telemetry",
        "vendors",
    },
    "contract": {"contract"},
    "db": {"api", "db", "ledger", "operate", "workflows"},
    "calls": {"calls", "gateway"},
    "system": {"app", "demo", "."},
    "browser": {"browser"},
    "smoke": {"smoke"},
}  # fmt: skip
"""Which folders are in which lane; ``.`` are the tests that lie in no folder."""
PROGRAMS = {"bench", "chaos", "node"}
"""Folders without tests."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--lane", choices=LANES, action="append", help="the tests of these lanes alone"
    )
    parser.addoption("--no-skips", action="store_true", help="a skipped test has failed")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the folders of other lanes before anything in them is imported."""
    wanted = config.getoption("--lane")
    if wanted is None or not collection_path.is_relative_to(TESTS):
        return None
    if collection_path == TESTS or collection_path.name.startswith("_"):
        return None
    folder = (
        collection_path.relative_to(TESTS).parts[0]
        if (collection_path.is_dir() or collection_path.parent != TESTS)
        else "."
    )
    return True if folder in PROGRAMS or lane_of(folder) not in wanted else None


def lane_of(folder: str) -> str:
    """The lane of the tests in a folder."""
    for lane, folders in LANES.items():
        if folder in folders:
            return lane
    raise pytest.UsageError(f"tests/{folder} is in no lane: name it in {__file__}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """A test that was skipped for something missing here has not passed."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--no-skips"):
        report.outcome = "failed"
    return report


class Scheduler(LoadScopeScheduling):
    """Gives each test to whichever process is free.

    But one process has all that needs a Supabase project, which takes half a minute to start; it
    begins with them. And one has all that share a browser.
    """

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith("tests/browser/"):
            return "browser"
        return "supabase" if "[supabase" in nodeid else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduler:
    """Have tests that share something slow run in the same process."""
    return Scheduler(config, log)


def pytest_collection_finish() -> None:
    """Calls are in real time: no look for garbage is to go through all that tests have loaded."""
    gc.freeze()


@pytest.fixture
def parsing_undisturbed() -> Iterator[None]:
    """No garbage of other tests is collected while source is parsed: a task's exception that nobody
    has asked for is logged then, its traceback parses source as well, and CPython 3.11 raises
    SystemError for one parse within another (https://github.com/python/cpython/issues/106905)."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


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
                for setting in ("fsync", "synchronous_commit", "full_page_writes", "autovacuum"):
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
    with copied(postgres, template) as url:
        yield url


@contextmanager
def copied(postgres: str, template: str) -> Iterator[str]:
    """URL of a database like the template, for as long as the block lasts."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        # File by file it takes less than half of the time.
        copy = f"create database {name} template {template} strategy file_copy"
        connection.execute(copy.encode())
        yield make_conninfo(postgres, dbname=name)
        connection.execute(f"drop database {name} with (force)".encode())


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    """Calls of a migrated database that nobody else has."""
    database = Database(await PostgresTransport.open(postgres_url))
    yield database
    await database.close()
