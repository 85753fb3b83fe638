"""Serving a stand-in on this machine, inside the event loop that is already running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from types import TracebackType

import uvicorn
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.http11 import Request

HANG_UP = "flow.sandbox.hang_up"
MAX_MESSAGE_BYTES = 2**24


class Served:
    """``async with Served(app) as url``: the app on loopback for as long as the block lasts.

    Port 0 takes a free one. uvicorn's protocol runs as a guest of the running loop: no signal
    handlers, no thread. Leaving the block hangs up on everybody, so a stream or a hanging
    answer somebody left open never holds it up.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, app: ASGIApp, *, port: int = 0, host: str = "127.0.0.1") -> None:
        self._app = app
        self._address = (host, port)
        self._state = ServerState()
        self._stopping = False

    async def __aenter__(self) -> str:
        config = uvicorn.Config(
            self._run,
            interface="asgi3",
            http=_Protocol,
            ws=_SocketProtocol,
            ws_max_size=MAX_MESSAGE_BYTES,
            lifespan="off",
            log_config=None,
            proxy_headers=False,
        )
        config.load()
        loop = asyncio.get_running_loop()
        host, port = self._address
        self._server = await loop.create_server(
            lambda: _Protocol(config, self._state, app_state={}, _loop=loop), host, port
        )
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopping = True
        self._server.close()
        for connection in list(self._state.connections):
            connection.transport.abort()
        answering = list(self._state.tasks)
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)
        await self._server.wait_closed()

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            return  # whoever hangs up in mid-request is nobody's failure
        except asyncio.CancelledError:
            # uvicorn would log our own hanging up as the app's failure.
            if not self._stopping:
                raise


class _Protocol(HttpToolsProtocol):
    """uvicorn's HTTP, with a way for the app to close the connection under an answer."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {HANG_UP: {"close": self.transport.close}}


class _SocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSockets, with the same way."""

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if hasattr(self, "scope"):
            self.scope["extensions"][HANG_UP] = {"close": self.transport.close}


async def hang_up(scope: Scope, receive: Receive) -> None:
    """Close the connection: the client sees it end before, or in the middle of, the answer.

    What was sent before still arrives. Returns when the connection is gone.
    """
    scope["extensions"][HANG_UP]["close"]()
    await gone(receive)


async def gone(receive: Receive) -> None:
    """Return when the client, or the server under it, has closed the connection."""
    while (await receive())["type"] not in ("http.disconnect", "websocket.disconnect"):
        pass


class Stream(StreamingResponse):
    """A streamed answer whose producer is closed the moment the client leaves.

    ``on_end`` is called once, however the answer ends, even if it never began: a client may be
    gone before the producer has run at all.
    """

    def __init__(
        self,
        produce: AsyncGenerator[bytes],
        media_type: str,
        *,
        on_end: Callable[[], None],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(produce, headers=headers, media_type=media_type)
        self._produce = produce
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer until the end, or until the client is gone."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()

    async def stream_response(self, send: Send) -> None:
        """Send every chunk, and close the producer however that ends."""
        async with aclosing(self._produce):
            await super().stream_response(send)
