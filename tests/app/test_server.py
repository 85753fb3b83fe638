"""A server that stops answers those it has already let in."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from flow.app.server import DRAIN, Server


class Hesitant:
    """Drains at once, and thinks for a while before it refuses a WebSocket."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if scope["type"] == "lifespan":
            scope["state"][DRAIN] = self.drain
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.asked.set()
        await self.may_answer.wait()
        await send({"type": "websocket.http.response.start", "status": 503, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"shutting down"})

    async def drain(self) -> None:
        """There is nothing to wait for."""


async def test_a_handshake_that_has_begun_is_answered_before_the_server_stops() -> None:
    app = Hesitant()
    server = Server(uvicorn.Config(app, port=0, lifespan="on", log_config=None))
    serving = asyncio.create_task(server._serve())
    async with asyncio.timeout(20):
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        connecting = asyncio.create_task(_refused(f"ws://127.0.0.1:{port}"))
        await app.asked.wait()
        server.should_exit = True
        while server.servers[0].is_serving():
            await asyncio.sleep(0.01)
        app.may_answer.set()
        assert await connecting == 503
        await serving


async def _refused(url: str) -> int:
    with pytest.raises(InvalidStatus) as handshake:
        await connect(url, proxy=None)
    status: int = handshake.value.response.status_code
    return status
