"""The watch over calls in rooms: queues calls again whose bot is gone, and closes left rooms."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import ceil
from typing import Protocol
from uuid import UUID

import structlog

from flow.domain.calls.room import Room
from flow.domain.calls.room_call import OpenRoom, Place
from flow.errors import FlowError, Unavailable

log = structlog.get_logger(__name__)

# All in signs of life of a call. A process that stalls for longer than is missed loses its calls.
MISSED = 3
LOOKS = 2
# After the database was away, every bot has time for these to say that it lives.
SETTLING = 2
CLOSE_SECS = 15.0
# Whoever had the call closes its room, and takes some seconds.
OVER_SECS = 20


class Calls(Protocol):
    """What watching needs of `flow.db.room_calls.RoomCalls`."""

    async def free_silent(self, silent_secs: int) -> list[Place]:
        """Free the calls whose bots are silent; every call that nobody has."""
        ...

    async def list_left(self, over_secs: int) -> list[tuple[UUID, OpenRoom]]:
        """The rooms that nobody has closed."""
        ...

    async def forget(self, thread_id: UUID) -> None:
        """Forget a closed room."""
        ...


class RoomWatch:
    """One process's watching; any number of processes may watch one database.

    Args:
        put: has a free call taken up; asking again changes nothing.
        close: closes a room that Flow made, or raises `TransportUnavailable`.
        heartbeat_secs: from one sign of life of a call to the next.
    """

    def __init__(
        self,
        calls: Calls,
        put: Callable[[Place], Awaitable[None]],
        close: Callable[[Room], Awaitable[None]],
        heartbeat_secs: float = 5.0,
    ) -> None:
        self._calls = calls
        self._put = put
        self._close = close
        self._silent_secs = ceil(MISSED * heartbeat_secs)
        self._settle_secs = SETTLING * heartbeat_secs
        self._watch_secs = heartbeat_secs / LOOKS
        self._waiting: set[Place] = set()
        self._trust_from = 0.0
        self._close_from = 0.0

    async def forever(self) -> None:
        """Watch closely."""
        now = asyncio.get_running_loop().time
        self._trust_from = now() + self._settle_secs
        while True:
            await self.once(now())
            await asyncio.sleep(self._watch_secs)

    async def once(self, now: float) -> None:
        """Have calls taken up and rooms closed; ``now`` is the clock of a loop, in seconds.

        After the database was away silence means nothing for a while.
        """
        try:
            if now >= self._trust_from:
                await self._take_up()
            if now >= self._close_from:
                self._close_from = now + CLOSE_SECS
                await self._close_left()
        except FlowError as error:
            self._trust_from = now + self._settle_secs
            log.warning("room_watch_missed", error=str(error))

    async def _take_up(self) -> None:
        found = await self._calls.free_silent(self._silent_secs)
        for place in found:
            if place not in self._waiting:
                thread_id = str(place.thread_id)
                log.warning("room_call_freed", workflow_thread_id=thread_id, attempt=place.attempt)
                await self._put(place)
        self._waiting = set(found)

    async def _close_left(self) -> None:
        for thread_id, left in await self._calls.list_left(OVER_SECS):
            try:
                await self._close(left.room)
            except Unavailable as error:
                log.warning("room_not_closed", workflow_thread_id=str(thread_id), error=str(error))
            else:
                await self._calls.forget(thread_id)
