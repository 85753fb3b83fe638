"""``flow serve`` as a process of its own, with its log."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from flow.sandbox.vendors import Vendors
from tests.calls.conftest import SECRET

START_SECS = 180.0
STOP_SECS = 90.0


class FlowServe:
    """A running ``flow serve``. ``lines`` is what it has logged; ``text`` the same as it came."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url
        self.text = ""

    def signal_all(self, number: int) -> None:
        """Signal the process and its workers, as a terminal and some containers do."""
        os.killpg(self.process.pid, number)

    @property
    def is_there(self) -> bool:
        """Whether any of its processes is."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]

    async def read_log(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.text += line.decode()

    async def stop(self) -> None:
        with suppress(ProcessLookupError):
            self.process.terminate()
        await asyncio.wait_for(self.process.wait(), STOP_SECS)


@asynccontextmanager
async def flow_serve(
    standing: Vendors, database_url: str, folder: Path, *arguments: str, **more: str
) -> AsyncIterator[FlowServe]:
    """Run it with the stand-ins, on a database, with ``more`` environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from flow.cli import main; main()", "serve", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command,
        "--port",
        str(port),
        env=_environment(standing, database_url, folder) | more,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    serving = FlowServe(process, f"http://127.0.0.1:{port}")
    reading = asyncio.create_task(serving.read_log())
    try:
        await _ready(serving)
        yield serving
    finally:
        await serving.stop()
        await reading


def _environment(standing: Vendors, database_url: str, folder: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FLOW_", "OTEL_", "PROMETHEUS_"))
    }
    own: Mapping[str, str] = {
        "DATABASE_URL": database_url,
        "FLOW_DATA_DIR": str(folder),
        "FLOW_SECRET": SECRET,
    }
    return kept | standing.environment | dict(own)


async def _ready(serving: FlowServe) -> None:
    async with asyncio.timeout(START_SECS), httpx.AsyncClient(trust_env=False) as http:
        while True:
            assert serving.process.returncode is None, serving.text
            with suppress(httpx.TransportError):
                if (await http.get(f"{serving.url}/readyz")).status_code == 200:
                    return
            await asyncio.sleep(0.1)
