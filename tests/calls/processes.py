"""Flow's commands as processes of their own: to be asked, stopped and killed.

Loading what Flow is made of takes several times longer than all else about the start of such a
process, so it is done once, and the processes are forked from there.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx

from flow.sandbox.all_vendors import Vendors
from tests.calls.conftest import SECRET
from tests.calls.forked import begin, flow
from tests.ports import free_port

START_SECS = 180.0
STOP_SECS = 90.0

_FORKED = multiprocessing.get_context("forkserver")
if sys.platform == "linux":  # elsewhere not all that is loaded can be forked
    _FORKED.set_forkserver_preload(["tests.calls.forked"])


class Executed:
    """A program as `multiprocessing` shows a process."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Connection) -> None:
        self._popen = subprocess.Popen(
            command, env=environment, stderr=log.fileno(), start_new_session=True
        )
        self.pid = self._popen.pid

    @property
    def exitcode(self) -> int | None:
        return self._popen.poll()


class FlowProcess:
    """A process that answers at ``url``. ``text`` is its log so far, ``lines`` the same read."""

    def __init__(self, process: BaseProcess | Executed, url: str) -> None:
        self._process = process
        self.url = url
        self.text = ""

    @property
    def pid(self) -> int:
        assert self._process.pid is not None, "it has been started"
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal's; ``None`` while it runs."""
        return self._process.exitcode

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]

    @property
    def is_there(self) -> bool:
        """Whether it or any of its workers is."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def signal(self, number: int) -> None:
        """Signal it, if it has not ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def signal_all(self, number: int) -> None:
        """Signal it and its workers, as a terminal and some containers do."""
        os.killpg(self.pid, number)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    async def wait(self, within_secs: float = STOP_SECS) -> int:
        """Its exit status, once it has ended."""
        async with asyncio.timeout(within_secs):
            while self.returncode is None:
                await asyncio.sleep(0.02)
        assert self.returncode is not None
        return self.returncode

    async def killed(self) -> None:
        self.kill()
        await self.wait()

    async def stopped(self) -> int:
        """Its exit status, having been asked to stop."""
        self.terminate()
        return await self.wait()

    async def ready(self) -> None:
        """Return when it answers that it is ready."""
        async with asyncio.timeout(START_SECS), httpx.AsyncClient(trust_env=False) as http:
            while True:
                assert self.returncode is None, self.text
                with suppress(httpx.TransportError):
                    if (await http.get(f"{self.url}/readyz")).status_code == 200:
                        return
                await asyncio.sleep(0.05)


@asynccontextmanager
async def forked(
    run: Callable[..., None], *arguments: str, environment: dict[str, str], port: int
) -> AsyncIterator[FlowProcess]:
    """``run(*arguments)`` in a process of its own, which is stopped at the end."""
    reading, writing = _FORKED.Pipe(duplex=False)
    made = _FORKED.Process(target=begin, args=(writing, environment, run, arguments))
    # The first one waits for all that is loaded once.
    await asyncio.to_thread(made.start)
    writing.close()
    async with _attended(made, reading, port) as process:
        yield process


@asynccontextmanager
async def executed(
    *arguments: str, environment: dict[str, str], port: int
) -> AsyncIterator[FlowProcess]:
    """``flow`` as its operator starts it; at the end it is stopped."""
    reading, writing = _FORKED.Pipe(duplex=False)
    command = [sys.executable, "-c", "from flow.cli import main; main()", *arguments]
    program = Executed(command, environment, writing)
    writing.close()
    async with _attended(program, reading, port) as process:
        yield process


@asynccontextmanager
async def _attended(
    process: BaseProcess | Executed, log: Connection, port: int
) -> AsyncIterator[FlowProcess]:
    attended = FlowProcess(process, f"http://127.0.0.1:{port}")
    logging = asyncio.create_task(_read(log, attended))
    try:
        yield attended
    finally:
        try:
            await attended.stopped()
        finally:
            attended.kill()
            await logging


@asynccontextmanager
async def flow_serve(
    standing: Vendors,
    database_url: str,
    folder: Path,
    *arguments: str,
    is_forked: bool = True,
    **more: str,
) -> AsyncIterator[FlowProcess]:
    """``flow serve`` with the stand-ins, ``more`` environment and a database, once it is ready.

    With ``--workers`` it cannot be forked: none that was can start processes of its own.
    """
    port = free_port()
    environment = environment_of(standing, database_url, folder) | more
    command = ["serve", *arguments, "--port", str(port)]
    serving = (
        forked(flow, *command, environment=environment, port=port)
        if is_forked
        else executed(*command, environment=environment, port=port)
    )
    async with serving as process:
        await process.ready()
        yield process


@asynccontextmanager
async def flow_worker(
    standing: Vendors, database_url: str, folder: Path, *, answers: bool = False, **more: str
) -> AsyncIterator[FlowProcess]:
    """``flow worker``; one that ``answers`` about itself, once it does."""
    port = free_port()
    environment = environment_of(standing, database_url, folder) | more
    command = ["worker", *(["--port", str(port)] if answers else [])]
    async with forked(flow, *command, environment=environment, port=port) as process:
        if answers:
            await process.ready()
        yield process


def environment_of(standing: Vendors, database_url: str, folder: Path) -> dict[str, str]:
    """What such a process needs, and of this one's environment what is not about Flow."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FLOW_", "OTEL_", "PROMETHEUS_"))
    }
    own = {"DATABASE_URL": database_url, "FLOW_DATA_DIR": str(folder), "FLOW_SECRET": SECRET}
    return kept | standing.environment | own


async def _read(log: Connection, process: FlowProcess) -> None:
    reader = asyncio.StreamReader()
    stream = os.fdopen(os.dup(log.fileno()), "rb")
    log.close()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), stream
    )
    async for line in reader:
        process.text += line.decode()
    transport.close()
