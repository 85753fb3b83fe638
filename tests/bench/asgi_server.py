"""An ASGI application on the server that `flow serve` runs on, in a process of a benchmark."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import uvicorn

from tests.bench.processes import say, until_dismissed


async def serve(app: Any, **options: Any) -> None:
    """Serve on a free port, which is said, until nobody needs it any more."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, **options))
        serving = asyncio.create_task(server.serve([listening]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        say({"port": listening.getsockname()[1], "pid": os.getpid()})
        await until_dismissed()
        server.should_exit = True
        await serving
