"""The interface of transports to the SQL functions, and the base of all typed calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Transport(Protocol):
    """A way to call the SQL functions: straight to Postgres, or through Supabase's REST API."""

    async def call(self, function: str, args: Mapping[str, Any]) -> Any:
        """Call ``public.<function>`` with named arguments and return its JSON result.

        Arguments are JSON values. What Postgres cannot hold in them is replaced, as
        `flow.db.postgres_json.storable` says.

        Raises:
            NotFound, Conflict, InvalidInput: the function refused.
            DatabaseUnavailable: no answer came, or the migrations are missing.
        """
        ...

    async def close(self) -> None:
        """Give back every connection."""
        ...


class TypedCalls:
    """Calls of the SQL functions by a transport; each is one round trip and one transaction."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def _call(self, function: str, **args: Any) -> Any:
        return await self._transport.call(function, args)
