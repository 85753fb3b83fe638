"""Where Pipecat's services open their WebSockets, with the tap put on each connection.

Most of them dial through `WebsocketService._websocket_connect`, also when they dial again. It is
protected, and the only place that all of them pass; `tests/bot/test_socket_doors.py` fails when it
moves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import httpx2
from pipecat.services.websocket_service import _BoundedConnection

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
            super().__init__(**options)

        async def _websocket_connect(self, uri: str, **options: Any) -> Any:
            url = self._rewrite(uri)
            metered = metered_connection(_BoundedConnection, self._tap, url)
            try:
                return await super()._websocket_connect(url, create_connection=metered, **options)
            except Exception as error:
                self._tap.refused(error)
                raise

    WithSocketTap.__name__ = WithSocketTap.__qualname__ = kind.__name__
    return WithSocketTap


def socket_url(base_url: httpx2.URL, path: str = "") -> str:
    """The address of a WebSocket at ``path`` below a vendor's ``base_url``."""
    scheme = {"http": "ws", "https": "wss"}.get(base_url.scheme, base_url.scheme)
    return f"{scheme}{str(base_url).removeprefix(base_url.scheme).rstrip('/')}{path}"
