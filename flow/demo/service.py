"""The service of a demo: the real one, on a free port, in a data folder that goes with it."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from flow.app.asgi import SERVER_OPTIONS, Application
from flow.app.service import Service
from flow.errors import FlowError, Unavailable
from flow.settings import Settings

NO_DATABASE: Mapping[str, Any] = {
    "database_url": None,
    "supabase_url": None,
    "supabase_service_role_key": None,
}
"""Settings that make a service run its own."""


@contextmanager
def data_folder() -> Iterator[Path]:
    """A data folder, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="flow-demo-") as name:
        # The embedded database may run as another user, who must get to its files.
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def environment_of(variables: Mapping[str, str]) -> Iterator[None]:
    """These environment variables, for as long as the block lasts."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[tuple[str, Service]]:
    """The real service on a free port of loopback, for as long as the block lasts."""
    application = Application(settings)
    config = uvicorn.Config(application, host="127.0.0.1", port=0, lifespan="on", **SERVER_OPTIONS)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:
            if serving.done():
                raise FlowError("The service did not start; its log says why.")
            await asyncio.sleep(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", application.service
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def within(secs: float, problem: str) -> AsyncIterator[None]:
    """Raise `Unavailable` with this problem if the block takes longer."""
    try:
        async with asyncio.timeout(secs):
            yield
    except TimeoutError:
        raise Unavailable(f"After {secs:g} s {problem}.") from None


async def get(http: httpx.AsyncClient, path: str) -> dict[str, Any]:
    """The answer to a request, its numbers exact."""
    answer = await http.get(path)
    answer.raise_for_status()
    found: dict[str, Any] = json.loads(answer.text, parse_float=Decimal)
    return found
