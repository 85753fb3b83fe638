"""Vendors' APIs as the gateway reaches them: by aiohttp, whose bytes come fastest, undecoded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from io import BytesIO
from typing import Self

import aiohttp
from yarl import URL

from flow.domain.gateway.request import RawHeaders
from flow.errors import UpstreamTimeout, UpstreamUnavailable
from flow.kit.tls import trusted
from flow.metering.vendor_apis import VendorApis
from flow.metering.wires.reader import HttpWire

CONNECT_SECS = 5.0
IDLE_CONNECTION_SECS = 15.0
READ_AHEAD_BYTES = 64 * 1024
LARGE_BODY_BYTES = 512 * 1024
MAX_ERROR_BYTES = 256 * 1024

# What httpx calls them, as the account of bots does.
_NAMES: tuple[tuple[type[BaseException], str], ...] = (
    (aiohttp.ConnectionTimeoutError, "ConnectTimeout"),
    (aiohttp.ClientConnectorError, "ConnectError"),
    (aiohttp.SocketTimeoutError, "ReadTimeout"),
    (TimeoutError, "ReadTimeout"),
    (aiohttp.ServerDisconnectedError, "RemoteProtocolError"),
    (aiohttp.ClientPayloadError, "RemoteProtocolError"),
    (aiohttp.ClientResponseError, "RemoteProtocolError"),
    (aiohttp.ClientError, "ReadError"),
)


class UpstreamFailed(Exception):
    """A vendor's connection failed; the message is the kind of error, as the ledger names it."""

    @property
    def may_pass(self) -> bool:
        """Whether the same vendor is worth another attempt: not where it may still be at work."""
        return str(self) != "ReadTimeout"

    def meaning(self) -> UpstreamUnavailable:
        """The error for the caller."""
        return UpstreamUnavailable() if self.may_pass else UpstreamTimeout()

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """What an error of aiohttp means."""
        names = (name for kind, name in _NAMES if isinstance(error, kind))
        return cls(next(names, "ReadError"))


class KeyRefused(UpstreamFailed):
    """A vendor does not take the operator's key."""

    @property
    def may_pass(self) -> bool:
        """Not by itself."""
        return False

    def meaning(self) -> UpstreamUnavailable:
        """The error for the caller, whom the vendor's own words are not meant for."""
        return UpstreamUnavailable("The model's vendor does not accept this server's credentials.")


@dataclass(frozen=True, slots=True, eq=False)
class Upstream:
    """A vendor that requests are passed on to.

    Args:
        name: what products, prices and the ledger call it.
        base_url: where its API is, as for its SDK.
        is_gateway: whether it is told whose request it serves.
        captures: whether it captures every generation at PostHog itself.
    """

    name: str
    base_url: str
    api_key: str
    apis: VendorApis
    is_gateway: bool = False
    captures: bool = False
    _wires: dict[str, HttpWire] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._wires.update((api.path, api.wire()) for api in self.apis.operations.values())

    def __repr__(self) -> str:
        return f"Upstream({self.name!r})"

    def wire(self, path: str) -> HttpWire:
        """The reader of an API of this path, which learns from one answer for the next."""
        return self._wires[path]


class UpstreamAnswer:
    """The answer of a vendor, its body undecoded and not yet read."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.raw_headers: RawHeaders = response.raw_headers
        self.headers: Mapping[str, str] = response.headers
        """Found by their names in any case."""

    async def part(self) -> bytes:
        """What has come of the body; nothing at its end.

        Raises:
            UpstreamFailed: the connection failed, or nothing came for too long.
        """
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UpstreamFailed.of(error) from error

    @property
    def is_read(self) -> bool:
        """Whether all of the body has come, and was read."""
        return self._response.content.at_eof()

    async def beginning(self) -> bytes:
        """The body of an error, or as much of it as anybody would read."""
        found = bytearray()
        while len(found) < MAX_ERROR_BYTES and (part := await self.part()):
            found += part
        return bytes(found[:MAX_ERROR_BYTES])

    def close(self) -> None:
        """Give the connection back if all has been read, and else close it."""
        self._response.close()


class UpstreamClient:
    """The connections to all vendors. Close it with `aclose`.

    Args:
        silence_secs: how long a vendor may send nothing, before its answer and in it.
    """

    def __init__(self, silence_secs: float) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=IDLE_CONNECTION_SECS, ssl=trusted()
            ),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_SECS, sock_read=silence_secs
            ),
            # Bytes are passed on as they come.
            auto_decompress=False,
            read_bufsize=READ_AHEAD_BYTES,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
            trust_env=False,
        )
        self._silence_secs = silence_secs
        self._url = lru_cache(maxsize=1_000)(partial(URL, encoded=True))

    async def post(
        self, url: str, query: str, headers: Mapping[str, str], body: bytes
    ) -> UpstreamAnswer:
        """Send a request; returns when the head of the answer has come.

        Raises:
            UpstreamFailed: no answer has come.
        """
        target = URL(f"{url}?{query}", encoded=True) if query else self._url(url)
        data = BytesIO(body) if len(body) > LARGE_BODY_BYTES else body
        try:
            response = await self._session.post(
                target, data=data, headers=headers, allow_redirects=False
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UpstreamFailed.of(error) from error
        return UpstreamAnswer(response)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._session.close()
        # It closes those with TLS a little later (its documentation, "Graceful shutdown").
        await asyncio.sleep(0)
