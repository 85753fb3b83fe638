"""A uvicorn server that drains before it stops.

uvicorn itself closes every WebSocket (1012) as soon as it is told to stop. Here a signal first has
the application drain, while the server goes on listening and answering; then uvicorn stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from socket import socket
from typing import Any

import structlog
import uvicorn

from flow.app.stop_signals import die, ignore, stop_signals

logger = structlog.get_logger(__name__)

Drain = Callable[[], Awaitable[None]]

# Where an application leaves its `Drain` in the state of the ASGI lifespan.
DRAIN = "flow.drain"

# An answer takes a look into the database at most.
HANDSHAKE_SECS = 5.0


class Server(uvicorn.Server):
    """A server that drains at the first SIGTERM or SIGINT, and ends at once at the second.

    Args:
        supervised: a supervisor started this process. It may get a signal both from there and from
            the terminal or container, which signal all processes of a group: a second signal is
            ignored here, and the supervisor kills its workers instead.
    """

    def __init__(self, config: uvicorn.Config, *, supervised: bool = False) -> None:
        super().__init__(config)
        self._insist = ignore if supervised else die
        self._asked = False
        self._draining: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Have signals ask this server; uvicorn would raise them again in the end."""
        with stop_signals(self._ask, self._insist):
            yield

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop now; called ten times a second."""
        if self._asked and self._draining is None:
            self._draining = asyncio.create_task(self._drain(), name="drain")
        if self._draining is not None and self._draining.done():
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stop; who is connecting is answered first, where uvicorn would make it a 500."""
        for server in self.servers:
            server.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(HANDSHAKE_SECS):
                # uvicorn tells nobody when one is over.
                while any(map(_is_connecting, self.server_state.connections)):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def _ask(self) -> None:
        self._asked = True

    async def _drain(self) -> None:
        drain: Drain = self.lifespan.state[DRAIN]
        try:
            await drain()
        except Exception:
            logger.exception("drain_failed")


def _is_connecting(connection: Any) -> bool:
    """Whether this is a WebSocket whose handshake is not over."""
    return not getattr(connection, "handshake_complete", True)
