"""The transport over psycopg: one round trip and one transaction a call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Self

import jiter
import psycopg
import structlog
from psycopg.types.json import set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from flow.db.postgres_json import storable, storable_text
from flow.db.sqlstates import error_of
from flow.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)


class PostgresTransport:
    """Calls the SQL functions over a pool of connections.

    Numbers of the result are exact: `Decimal` where they have a fraction.
    """

    def __init__(
        self, pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]], call_secs: float
    ) -> None:
        self._pool = pool
        self._call_secs = call_secs

    @classmethod
    async def open(
        cls, url: str, *, max_size: int = 10, wait_secs: float = 3.0, call_secs: float = 10.0
    ) -> Self:
        """A transport to ``url``; connections are made as they are needed.

        A call waits at most ``wait_secs`` for a connection and ``call_secs`` for its answer.
        """
        pool = AsyncConnectionPool(
            url,
            open=False,
            min_size=1,
            max_size=max_size,
            timeout=wait_secs,
            # Giving up early and asking anew finds a database that is back within seconds; the
            # pool's own patience doubles its pauses up to minutes.
            reconnect_timeout=wait_secs,
            configure=_configure,
            kwargs={
                "autocommit": True,
                "connect_timeout": 3,
                "application_name": "flow",
                "cursor_factory": psycopg.AsyncRawCursor,
            },
        )
        await pool.open()
        return cls(pool, call_secs)

    async def call(self, function: str, args: Mapping[str, Any]) -> Any:
        """Call the function; see `flow.db.transport.Transport`."""
        statement = _statement(function, *args)
        values = [_argument(value) for value in args.values()]
        try:
            return await self._attempt(statement, values)
        except _ConnectionLost:
            # The server restarted or cut the connection, and its siblings most likely too. Every
            # function is idempotent, so the call may be sent again.
            log.warning("database.connection_lost", function=function)
        await self._pool.check()
        try:
            return await self._attempt(statement, values)
        except _ConnectionLost:
            raise DatabaseUnavailable() from None

    async def _attempt(self, statement: bytes, values: Sequence[Any]) -> Any:
        try:
            # Not `connection()`: every statement commits itself, so there is nothing to end.
            connection = await self._pool.getconn()
            try:
                async with asyncio.timeout(self._call_secs):
                    row = await (await connection.execute(statement, values)).fetchone()
            except psycopg.OperationalError as error:
                if error.sqlstate is None or connection.broken:
                    raise _ConnectionLost from error
                raise
            finally:
                await self._pool.putconn(connection)
        except (PoolTimeout, PoolClosed, TooManyRequests, TimeoutError) as error:
            raise DatabaseUnavailable() from error
        except psycopg.Error as error:
            primary = error.diag.message_primary or str(error)
            raise error_of(error.sqlstate, primary, error.diag.message_detail) from error
        assert row is not None, "a function returns one row"
        return row[0]

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()


class _ConnectionLost(Exception):
    """The connection broke; the call may or may not have happened."""


async def _configure(connection: psycopg.AsyncConnection[Any]) -> None:
    set_json_loads(_loads, connection)
    connection.prepare_threshold = 0


def _loads(data: str | bytes) -> Any:
    return jiter.from_json(data if isinstance(data, bytes) else data.encode(), float_mode="decimal")


# As many as there are functions, each called with few sets of arguments.
@lru_cache(maxsize=1_000)
def _statement(function: str, *names: str) -> bytes:
    arguments = ", ".join(f"{name} => ${place}" for place, name in enumerate(names, 1))
    return f"select public.{function}({arguments})".encode()


def _argument(value: Any) -> Any:
    """JSON goes as text; Postgres takes its type from the parameter it is for."""
    return storable_text(value) if isinstance(value, dict | list) else storable(value)
