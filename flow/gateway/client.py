"""The client of a request: its body, and its going away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import ClientDisconnect

from flow.errors import Refused

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

RETRY_SECS = 2
STALLED_SECS = 300.0
"""For how long a client may read nothing of what is there for it; at most twice as long."""


class BodyMemory:
    """Bounds how much of all clients' bodies is in memory at once."""

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes

    def take(self, size: int) -> None:
        """Note that so much more is held; raises `Refused`, ``at_capacity``."""
        if size > self._left:
            raise Refused("at_capacity", "Too many large requests are on their way.", RETRY_SECS)
        self._left -= size

    def give_back(self, size: int) -> None:
        """Note that so much is held no longer."""
        self._left += size


class RequestBody:
    """The body of one request, held until it is released."""

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self._held = 0

    async def read(self, receive: Receive) -> bytes:
        """All of it; the server has bounded its size.

        Raises:
            ClientDisconnect: the client has left.
            Refused: ``at_capacity``.
        """
        parts: list[bytes] = []
        is_whole = False
        while not is_whole:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part: bytes = message.get("body", b"")
            self._memory.take(len(part))
            self._held += len(part)
            parts.append(part)
            is_whole = not message.get("more_body", False)
        return b"".join(parts) if len(parts) > 1 else parts[0]

    def release(self) -> None:
        """It is needed no more."""
        self._memory.give_back(self._held)
        self._held = 0


class ClientWatch:
    """Tells when the client of a request has gone away, or reads no more.

    Args:
        receive: the server's.
        patience_secs: for how long the work goes on without the client; 0: it ends at once, by
            cancelling the task that this was made in.
    """

    def __init__(self, receive: Receive, patience_secs: float) -> None:
        self.has_left = False
        self.is_cancelled = False
        """Whether the task was cancelled because of it."""
        self._receive = receive
        self._patience_secs = patience_secs
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._is_sending = False
        self._sent = 0
        self._stalled = asyncio.get_running_loop().call_later(STALLED_SECS, self._check, -1)
        self._watcher = asyncio.create_task(self._watch(), name="client-watch")

    def stop(self) -> None:
        """The answer is complete: what the client does now is nobody's business."""
        self._watcher.cancel()
        self._stalled.cancel()
        if self._timer is not None:
            self._timer.cancel()

    async def send(self, send: Send, message: Message) -> None:
        """Send the client something; it may take its time."""
        self._is_sending = True
        await send(message)
        self._is_sending = False
        self._sent += 1

    @asynccontextmanager
    async def leaving(self) -> AsyncIterator[None]:
        """Ends the block, quietly, when the client's leaving has cancelled it."""
        try:
            yield
            self.stop()
            if self.is_cancelled:  # and the task has not noticed yet
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            if not self.is_cancelled or self._task is None or self._task.uncancel() > 0:
                raise
        finally:
            self.stop()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.has_left = True
        if self._patience_secs:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._patience_secs, self._cancel)
        else:
            self._cancel()

    def _check(self, sent: int) -> None:
        """End the work of a client that has read nothing since ``sent`` parts had been sent."""
        if self._is_sending and self._sent == sent:
            self.has_left = True
            self._cancel()
        else:
            loop = asyncio.get_running_loop()
            self._stalled = loop.call_later(STALLED_SECS, self._check, self._sent)

    def _cancel(self) -> None:
        self.is_cancelled = True
        if self._task is not None:
            self._task.cancel()
