"""A ``flow serve`` on a data folder of its own, which it finds again when it is started again."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

import psutil

from flow.sandbox.all_vendors import Vendors
from tests.calls.processes import FlowProcess, flow_serve

STOP_SECS = 120.0


class Host:
    """``async with host: ...`` runs it; in the block it may be killed, stopped and started.

    Args:
        standing: the vendors it talks to.
        database_url: its Postgres.
        folder: its data folder.
        arguments: more of ``flow serve``'s, as ``--workers 2``.
        settings: more of its environment.
    """

    def __init__(
        self,
        standing: Vendors,
        database_url: str,
        folder: Path,
        *arguments: str,
        **settings: str,
    ) -> None:
        self.folder = folder
        variables = {"FLOW_LOG_LEVEL": "warning"} | settings
        # Started as its operator starts it: what is in its environment may act on Python itself.
        self._serve = partial(
            flow_serve, standing, database_url, folder, *arguments, is_forked=False, **variables
        )
        self._running: tuple[FlowProcess, AsyncExitStack] | None = None
        self._said = ""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._running is not None:
            await self.stop()

    @property
    def url(self) -> str:
        """Where it answers; another one after each start."""
        return self._serving.url

    @property
    def process(self) -> psutil.Process:
        """The process that was started: the parent of all with ``--workers``."""
        return psutil.Process(self._serving.pid)

    @property
    def text(self) -> str:
        """All it has logged since it was first started, a JSON object a line."""
        return self._said if self._running is None else self._said + self._serving.text

    @property
    def log(self) -> list[dict[str, Any]]:
        """The same, line by line."""
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        stack = AsyncExitStack()
        serving = await stack.enter_async_context(self._serve())
        self._running = (serving, stack)

    async def kill(self) -> None:
        """``kill -9`` of it and of every process it has started, at once."""
        with suppress(psutil.NoSuchProcess):
            everybody = [self.process, *self.process.children(recursive=True)]
            for process in everybody:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        await self._ended()

    def terminate(self) -> None:
        """Ask it to stop, and do not wait."""
        self._serving.terminate()

    async def stop(self, within_secs: float = STOP_SECS) -> int:
        """Ask it to stop, as a host's operator does; its exit code.

        Raises:
            TimeoutError: it does not, and was killed.
        """
        self.terminate()
        return await self.gone(within_secs)

    async def gone(self, within_secs: float = STOP_SECS) -> int:
        """Wait until it has stopped by itself, or been told to; its exit code.

        Raises:
            TimeoutError: it does not stop, and was killed.
        """
        try:
            async with asyncio.timeout(within_secs):
                return await self._ended()
        except TimeoutError:
            await self.kill()
            raise TimeoutError(f"flow serve did not stop within {within_secs:g} s") from None

    async def _ended(self) -> int:
        code = await self._serving.wait(STOP_SECS)
        assert self._running is not None
        serving, stack = self._running
        await stack.aclose()
        self._said += serving.text
        self._running = None
        return code

    @property
    def _serving(self) -> FlowProcess:
        assert self._running is not None, "the host is not running"
        return self._running[0]
