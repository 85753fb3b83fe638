"""Applies ``supabase/migrations``, keeping the Supabase CLI's own history.

Both tools read and write ``supabase_migrations.schema_migrations``, so either may go first and
neither repeats what the other did.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import psycopg
import structlog

from flow.errors import ConfigurationError, DatabaseUnavailable

log = structlog.get_logger(__name__)

_LOCK = 0x464C4F57  # "FLOW": one migration at a time, whoever asks

_HISTORY = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
  version text not null primary key
);
alter table supabase_migrations.schema_migrations add column if not exists statements text[];
alter table supabase_migrations.schema_migrations add column if not exists name text;
"""

# Whatever may hold a semicolon that ends no statement, or the semicolon that does.
_TOKEN = re.compile(
    r"""(?P<end>;)|--[^\n]*|(?P<block>/\*)|(?P<dollar>\$(?:[A-Za-z_]\w*)?\$)"""
    r"""|\b[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|"(?:[^"]|"")*\"""",
    re.DOTALL,
)
_BLOCK_COMMENT_EDGE = re.compile(r"/\*|\*/")


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. ``version`` is its timestamp and ``name`` the rest of its name."""

    version: str
    name: str
    sql: str


def migrations() -> list[Migration]:
    """Every migration of this version of Flow, oldest first."""
    found = []
    for file in _folder().iterdir():
        if file.name.endswith(".sql"):
            version, _, name = file.name.removesuffix(".sql").partition("_")
            found.append(Migration(version, name, file.read_text("utf-8")))
    return sorted(found, key=lambda migration: migration.version)


async def migrate(url: str) -> list[str]:
    """Apply to the database at ``url`` what it lacks; the versions applied, oldest first.

    Each migration is a transaction of its own. Safe to run in several processes at once.

    Raises:
        DatabaseUnavailable: the database cannot be reached.
        ConfigurationError: a migration failed; names it and the reason.
    """
    try:
        connection = await psycopg.AsyncConnection.connect(
            url, autocommit=True, connect_timeout=5, application_name="flow migrate"
        )
    except psycopg.OperationalError as error:
        reason = " ".join(str(error).split())
        raise DatabaseUnavailable(f"The database cannot be reached: {reason}") from error
    async with connection:
        return [m.version for m in migrations() if await _apply(connection, m)]


async def _apply(connection: psycopg.AsyncConnection[Any], migration: Migration) -> bool:
    """Apply the migration unless it was before; whether it was applied now."""
    try:
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
            if await _is_applied(connection, migration.version):
                return False
            await connection.execute(_HISTORY)
            await connection.execute(migration.sql.encode())
            await connection.execute(
                "insert into supabase_migrations.schema_migrations (version, name, statements)"
                " values (%s, %s, %s)",
                (migration.version, migration.name, list(statements(migration.sql))),
            )
    except psycopg.Error as error:
        what = f"{migration.version}_{migration.name}"
        raise ConfigurationError(f"Migration {what} failed: {error}") from error
    log.info("migration.applied", version=migration.version, name=migration.name)
    return True


async def _is_applied(connection: psycopg.AsyncConnection[Any], version: str) -> bool:
    # Asked before anything is created, so that a role without that right can start on a database
    # that is up to date.
    history = await connection.execute(
        "select to_regclass('supabase_migrations.schema_migrations') is not null"
    )
    if not (await history.fetchone() or [False])[0]:
        return False
    row = await connection.execute(
        "select from supabase_migrations.schema_migrations where version = %s", (version,)
    )
    return row.rowcount > 0


def statements(sql: str) -> Iterator[str]:
    """The single statements of a file, as the Supabase CLI records them: trimmed, no semicolon."""
    start = place = 0
    while token := _TOKEN.search(sql, place):
        place = _end_of(sql, token)
        if token["end"]:
            if statement := sql[start : token.start()].strip():
                yield statement
            start = place
    if rest := sql[start:].strip():
        yield rest


def _end_of(sql: str, token: re.Match[str]) -> int:
    if token["dollar"]:
        closing = sql.find(token["dollar"], token.end())
        return len(sql) if closing < 0 else closing + len(token["dollar"])
    if token["block"]:
        depth, place = 1, token.end()
        while depth and (edge := _BLOCK_COMMENT_EDGE.search(sql, place)):
            depth += 1 if edge[0] == "/*" else -1
            place = edge.end()
        return len(sql) if depth else place
    return token.end()


def _folder() -> Traversable:
    """The copy a wheel carries, or the folder of a checkout."""
    packaged = files("flow") / "_migrations"
    if packaged.is_dir():
        return packaged
    return Path(__file__).parents[2] / "supabase" / "migrations"
