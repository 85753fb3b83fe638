"""What an operator has to know of a Postgres before a service uses it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from flow.db.migrations import migrations
from flow.errors import DatabaseUnavailable

CONNECT_SECS = 5

_TABLE = re.compile(r"create table public\.([a-z_]+)", re.IGNORECASE)
_HISTORY = "select to_regclass('supabase_migrations.schema_migrations') is not null"
_VERSIONS = "select version from supabase_migrations.schema_migrations"
_OPEN_TABLES = """
select c.relname from pg_catalog.pg_class c
where c.relnamespace = 'public'::regnamespace and c.relname = any(%s) and c.relkind in ('r', 'p')
  and (not c.relrowsecurity or exists (
    select from pg_catalog.pg_roles r
    where r.rolname in ('anon', 'authenticated') and has_table_privilege(r.oid, c.oid, 'select')))
order by 1
"""
_MAY_CALL = """
select rolname, case when to_regprocedure('public.flow_ping()') is null then null
  else has_function_privilege(oid, 'public.flow_ping()', 'execute') end
from pg_catalog.pg_roles where rolname in (current_user, 'service_role')
"""


@dataclass(frozen=True, slots=True)
class Inspection:
    """A Postgres as it was found.

    Attributes:
        version: of the server, as in ``17.4``.
        pending: migrations of this Flow that it lacks, oldest first.
        newer: migrations it has that this Flow does not know, which a newer one has applied.
        open_tables: Flow's tables that Supabase's public roles could read, or without row-level
            security.
        barred: roles that need Flow's functions and may not call them.
        has_service_role: whether there is Supabase's role of that name.
        clock: its time.
    """

    version: str
    pending: Sequence[str]
    newer: Sequence[str]
    open_tables: Sequence[str]
    barred: Sequence[str]
    has_service_role: bool
    clock: datetime


async def inspect(url: str) -> Inspection:
    """Look at the database at ``url``, and change nothing.

    Raises:
        DatabaseUnavailable: it cannot be reached, or does not answer; says why.
    """
    try:
        connection = await psycopg.AsyncConnection.connect(
            url,
            autocommit=True,
            connect_timeout=CONNECT_SECS,
            application_name="flow doctor",
        )
        async with connection:
            # Not an option of the connection: poolers refuse those.
            await connection.execute("set statement_timeout = '5s'")
            return await _inspected(connection)
    except psycopg.Error as error:
        raise DatabaseUnavailable(" ".join(str(error).split())) from error


async def _inspected(connection: psycopg.AsyncConnection[Any]) -> Inspection:
    known = migrations()
    ours = {migration.version for migration in known}
    applied: set[str] = set()
    if (await _rows(connection, _HISTORY))[0][0]:
        applied = {version for (version,) in await _rows(connection, _VERSIONS)}
    tables = sorted({name for one in known for name in _TABLE.findall(one.sql)})
    roles = dict(await _rows(connection, _MAY_CALL))
    ((clock,),) = await _rows(connection, "select clock_timestamp()")
    # As a number: the setting's text has more in it, as "18beta1" or "17.4 (Debian ...)".
    version = connection.info.server_version
    return Inspection(
        version=f"{version // 10_000}.{version % 10_000}",
        pending=[f"{m.version}_{m.name}" for m in known if m.version not in applied],
        newer=sorted(applied - ours),
        open_tables=[name for (name,) in await _rows(connection, _OPEN_TABLES, tables)],
        barred=sorted(name for name, may_call in roles.items() if may_call is False),
        has_service_role="service_role" in roles,
        clock=clock,
    )


async def _rows(
    connection: psycopg.AsyncConnection[Any], query: str, *values: object
) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query.encode(), values or None)).fetchall()
