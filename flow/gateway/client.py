"""The client of a request: its body, and its going away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Self

from starlette.requests import ClientDisconnect

from flow.errors import Refused

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
OnLeft = Callable[[Callable[[], None]], None]
"""Has the server call something when the client goes away, once; at once if it has gone."""

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
    """Tells when the client of a request has gone away, or reads no more. While it is entered, it
    may end the block, quietly, by cancelling the task.

    Args:
        on_left: has the server call what it is given when the client goes away.
        patience_secs: for how long the work goes on without the client; 0: it ends at once.
    """

    def __init__(self, on_left: OnLeft, patience_secs: float) -> None:
        self.has_left = False
        self._is_cancelled = False
        self._is_over = False
        self._patience_secs = patience_secs
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._is_sending = False
        self._sent = 0
        self._loop = asyncio.get_running_loop()
        self._stalled = self._loop.call_later(STALLED_SECS, self._check, -1)
        on_left(self._left)

    def stop(self) -> None:
        """The answer is complete: what the client does now is nobody's business."""
        self._is_over = True
        self._stalled.cancel()
        if self._timer is not None:
            self._timer.cancel()

    async def send(self, send: Send, message: Message) -> None:
        """Send the client something; it may take its time."""
        self._is_sending = True
        await send(message)
        self._is_sending = False
        self._sent += 1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self.stop()
        if not self._is_cancelled:
            return False
        if kind is None:
            try:
                await asyncio.sleep(0)  # the task has not noticed yet
            except asyncio.CancelledError:
                if self._is_wanted_elsewhere():
                    raise
            return False
        return issubclass(kind, asyncio.CancelledError) and not self._is_wanted_elsewhere()

    def _is_wanted_elsewhere(self) -> bool:
        """Whether somebody else has cancelled the task too."""
        return self._task is None or self._task.uncancel() > 0

    def _left(self) -> None:
        if self._is_over:
            return
        self.has_left = True
        if self._patience_secs:
            self._timer = self._loop.call_later(self._patience_secs, self._cancel)
        else:
            self._cancel()

    def _check(self, sent: int) -> None:
        """End the work of a client that has read nothing since ``sent`` parts had been sent."""
        if self._is_sending and self._sent == sent:
            self.has_left = True
            self._cancel()
        else:
            self._stalled = self._loop.call_later(STALLED_SECS, self._check, self._sent)

    def _cancel(self) -> None:
        self._is_cancelled = True
        if self._task is not None:
            self._task.cancel()
