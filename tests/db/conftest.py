"""The same database behind both transports, and Supabase's own tools."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import psycopg
import pytest

from flow.db.database import Database
from flow.db.postgres_transport import PostgresTransport
from flow.db.supabase_transport import SupabaseTransport
from flow.db.transport import Transport
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
NODE = ROOT / "tests" / "node"
PUBLISHABLE_KEY = "sb_publishable_of_the_tests"
SECRET_KEY = "sb_" + "secret_of_the_tests"
QUIET = {"LITE_TELEMETRY": "0", "DO_NOT_TRACK": "1", "SUPABASE_TELEMETRY_DISABLED": "1"}
START_SECS = 60.0

LITE_CONFIG = """
project_id = "flow"
[api]
port = {port}
schemas = ["public"]
[db]
driver = "pglite"
[auth]
publishable_key = "{publishable}"
secret_key = "{secret}"
"""


@dataclass(frozen=True, slots=True)
class NodeTools:
    """Commands of the packages in tests/node."""

    folder: Path

    def run(self, command: str, *args: str, cwd: Path) -> str:
        """What the command printed; fails the test if the command fails."""
        done = subprocess.run(
            [self.folder / command, *args],
            cwd=cwd,
            env=os.environ | QUIET,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def start(self, command: str, *args: str, cwd: Path, log: Path) -> subprocess.Popen[bytes]:
        """The running command, its output in ``log``."""
        with log.open("wb") as output:
            return subprocess.Popen(
                [self.folder / command, *args],
                cwd=cwd,
                env=os.environ | QUIET,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )


@pytest.fixture(scope="session")
def node_tools() -> NodeTools:
    """The Supabase CLI and PostgREST's stand-in; installed when they are not."""
    npm = shutil.which("npm")
    if npm is None:
        reason = "npm is missing: Supabase's own tools cannot be installed"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    tools = NODE / "node_modules" / ".bin"
    # One at a time: every worker of a parallel run comes by here.
    with (Path(tempfile.gettempdir()) / "flow-tests-node.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (tools / "lite").exists():
            install = [npm, "install", "--no-save", "--no-audit", "--no-fund"]
            subprocess.run(install, cwd=NODE, check=True, timeout=300)
    return NodeTools(tools)


@pytest.fixture(scope="session")
def supabase_project(
    node_tools: NodeTools, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """URL of a Supabase project with every migration applied, shared by the tests."""
    project = tmp_path_factory.mktemp("lite")
    port = free_port()
    (project / "supabase").mkdir()
    shutil.copytree(ROOT / "supabase" / "migrations", project / "supabase" / "migrations")
    (project / "supabase" / "config.toml").write_text(
        LITE_CONFIG.format(port=port, publishable=PUBLISHABLE_KEY, secret=SECRET_KEY)
    )
    node_tools.run("lite", "migration", "up", cwd=project)
    log = project / "log"
    server = node_tools.start("lite", "start", "--no-admin", cwd=project, log=log)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_up(url, server, log)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=20)


@pytest.fixture(params=["supabase"])
def supabase_url(supabase_project: str) -> str:
    """The same, named in the ids of the tests that ask for nothing else."""
    return supabase_project


def _wait_until_up(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            headers = {"apikey": SECRET_KEY}
            answer = httpx.post(f"{url}/rest/v1/rpc/flow_ping", headers=headers, json={})
            if answer.status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    pytest.fail(f"lite did not start:\n{log.read_text()}")


@pytest.fixture(params=["postgres", "supabase"])
def opening(request: pytest.FixtureRequest) -> Callable[[], Awaitable[Transport]]:
    """Opens a transport to a migrated database: one of the test's own, or a shared project."""
    if request.param == "postgres":
        return partial(PostgresTransport.open, request.getfixturevalue("postgres_url"))
    return partial(SupabaseTransport.open, request.getfixturevalue("supabase_project"), SECRET_KEY)


@pytest.fixture
async def database(opening: Callable[[], Awaitable[Transport]]) -> AsyncIterator[Database]:
    """The same calls by psycopg and by supabase-py."""
    database = Database(await opening())
    yield database
    await database.close()


@pytest.fixture
async def direct(postgres_url: str) -> AsyncIterator[Database]:
    """A migrated database of the test's own, by psycopg."""
    database = Database(await PostgresTransport.open(postgres_url))
    yield database
    await database.close()


@pytest.fixture
def sql(postgres_url: str) -> Iterator[psycopg.Connection]:
    """A superuser's connection to the database of `direct`."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection
