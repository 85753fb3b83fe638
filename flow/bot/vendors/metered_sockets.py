"""Where Pipecat's services open their WebSockets, with the tap put on each connection.

Most of them dial through `WebsocketService._websocket_connect`, also when they dial again. It is
protected, and the only place that all of them pass; `tests/bot/test_metered_sockets.py` fails when
it moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import httpx2
from pipecat.services.websocket_service import (
    WS_CLOSE_TIMEOUT,
    WS_SEND_TIMEOUT,
    _BoundedConnection,
)
from websockets.asyncio.client import ClientConnection, connect

from flow.kit.tls import trusted
from flow.metering.taps.socket import SocketTap, metered_connection

Rewrite = Callable[[str], str]
"""Makes the URL that is dialled of the one that Pipecat has made."""


def same_url(url: str) -> str:
    """Pipecat knows where to dial."""
    return url


@cache
def with_socket_tap(kind: Any) -> Any:
    """A Pipecat service whose connections are metered.

    Its constructor takes the `SocketTap` first, and ``rewrite`` by name where Pipecat lets nobody
    say where the vendor is.
    """

    class WithSocketTap(kind):  # type: ignore[misc]
        def __init__(self, tap: SocketTap, *, rewrite: Rewrite = same_url, **options: Any) -> None:
            self._tap = tap
            self._rewrite = rewrite
            self._dialling = asyncio.Lock()
            super().__init__(**options)

        async def _connect_websocket(self) -> None:
            # Pipecat dials again when a connection is lost, and when there is something to say
            # and none: at once, it would send on one connection and listen to the other.
            async with self._dialling:
                await super()._connect_websocket()

        async def _websocket_connect(self, uri: str, **options: Any) -> Any:
            url = self._rewrite(uri)
            metered = metered_connection(_BoundedConnection, self._tap, url)
            options |= {"create_connection": metered} | _trust(url)
            try:
                return await super()._websocket_connect(url, **options)
            except Exception as error:
                self._tap.refused(error)
                raise

    WithSocketTap.__name__ = WithSocketTap.__qualname__ = kind.__name__
    return WithSocketTap


async def dialled(tap: SocketTap, url: str, headers: Mapping[str, str]) -> ClientConnection:
    """A metered connection, for services that do not dial through Pipecat; bounded as its are.

    Raises:
        InvalidStatus: the handshake was refused.
        OSError: there is no connection.
    """
    try:
        connection = await connect(
            url,
            additional_headers=headers,
            create_connection=metered_connection(_BoundedConnection, tap, url),
            close_timeout=WS_CLOSE_TIMEOUT,
            **_trust(url),
        )
    except Exception as error:
        tap.refused(error)
        raise
    assert isinstance(connection, _BoundedConnection)
    connection.send_timeout = WS_SEND_TIMEOUT
    return connection


def _trust(url: str) -> dict[str, Any]:
    """Whose certificates are trusted. websockets would read them again for each connection, which
    takes 100 ms in which no call of the process is heard."""
    return {"ssl": trusted()} if url.startswith("wss:") else {}


def socket_url(base_url: httpx2.URL, path: str = "") -> str:
    """The address of a WebSocket at ``path`` below a vendor's ``base_url``."""
    scheme = {"http": "ws", "https": "wss"}.get(base_url.scheme, base_url.scheme)
    return f"{scheme}{str(base_url).removeprefix(base_url.scheme).rstrip('/')}{path}"
