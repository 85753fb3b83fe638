"""The transport over supabase-py, through PostgREST."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import httpx
from postgrest.exceptions import APIError
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from flow.db.postgres_json import storable
from flow.db.sqlstates import error_of
from flow.errors import DatabaseUnavailable
from flow.kit.tls import trusted


class SupabaseTransport:
    """Calls the SQL functions with ``rpc``.

    PostgREST's JSON is parsed by supabase-py, so fractions in ``usage_stats`` are floats here:
    for reading. Everything that is added up crosses as strings.
    """

    def __init__(self, client: AsyncClient, http: httpx.AsyncClient) -> None:
        self._client = client
        self._http = http

    @classmethod
    async def open(cls, url: str, service_role_key: str, *, call_secs: float = 10.0) -> Self:
        """A transport to the Supabase project at ``url``; nothing is sent yet."""
        http = httpx.AsyncClient(verify=trusted(), timeout=httpx.Timeout(call_secs, connect=3.0))
        options = AsyncClientOptions(
            httpx_client=http, auto_refresh_token=False, persist_session=False
        )
        return cls(await acreate_client(url, service_role_key, options), http)

    async def call(self, function: str, args: Mapping[str, Any]) -> Any:
        """Call the function; see `flow.db.transport.Transport`."""
        sent = {name: storable(value) for name, value in args.items()}
        try:
            try:
                return await self._rpc(function, sent)
            except (httpx.NetworkError, httpx.RemoteProtocolError):
                # A kept-alive connection that the server had closed. Every function is idempotent.
                return await self._rpc(function, sent)
        except httpx.HTTPError as error:
            raise DatabaseUnavailable() from error

    async def _rpc(self, function: str, args: dict[str, Any]) -> Any:
        try:
            answer = await self._client.rpc(function, args).execute()
        except APIError as error:
            detail = error.details if isinstance(error.details, str) else None
            raise error_of(error.code, error.message or "", detail) from error
        return answer.data

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()
