"""Calls in rooms: the bot goes there by itself, right after the join, and waits for the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

import structlog
from pipecat.transports.base_transport import BaseTransport

from flow.bot.calls.lease import CallerConnection
from flow.bot.transports.room_packages import RoomMedia
from flow.bot.transports.spec import RoomSpec
from flow.domain.calls.ending import Ending, EndReason
from flow.domain.calls.join_request import Transport
from flow.domain.calls.room import Meeting, Room
from flow.domain.calls.room_call import OpenRoom, lasts_until
from flow.domain.calls.thread import Thread
from flow.errors import FieldProblem, InvalidInput, Unavailable

log = structlog.get_logger(__name__)

# A caller who entered at the last moment is on the way for a while.
ARRIVAL_SECS = 10.0


class Rooms(Protocol):
    """The vendors' rooms: see `flow.vendors.meeting_rooms`."""

    def has(self, transport: str) -> bool:
        """Whether rooms of this transport can be opened here."""
        ...

    def problems(self, transport: Transport) -> Iterator[FieldProblem]:
        """What keeps the bot out of a room that the caller names."""
        ...

    async def meet(
        self, thread_id: UUID, transport: Transport, until: datetime, longest_secs: int
    ) -> Meeting:
        """The room of a thread, opened if it is not, or raise `TransportUnavailable`."""
        ...

    async def enter(self, kept: OpenRoom, *, again: bool) -> Room:
        """The room with a new way in for the bot, or raise `TransportUnavailable`.

        ``again``: a bot that is gone may be in it still.
        """
        ...

    async def close(self, room: Room) -> None:
        """Close a room that Flow made, or raise `TransportUnavailable`."""
        ...


class Manager(Protocol):
    """Who runs calls: see `flow.bot.calls.call_manager.CallManager`."""

    async def start(self, thread: Thread, connection: CallerConnection) -> None:
        """Open the connection; the call goes on by itself."""
        ...


class Queue(Protocol):
    """Where calls wait for a process that has room: see `flow.bot.calls.room_leases.RoomLeases`."""

    async def put(self, thread: Thread, room: OpenRoom, until: datetime) -> None:
        """Have a bot wait in the room for its caller until then."""
        ...


class RoomCalls:
    """Begins calls in rooms, right after their joins.

    Args:
        specs: the transports that have rooms, by their names.
        manager: runs calls in this process.
        queue: lets any process run them; not those in rooms that only a token opens which the
            caller gave, since it is kept nowhere.
    """

    def __init__(
        self,
        specs: Mapping[str, RoomSpec],
        rooms: Rooms,
        media: RoomMedia,
        manager: Manager,
        queue: Queue | None = None,
    ) -> None:
        self._specs = specs
        self._rooms = rooms
        self._media = media
        self._manager = manager
        self._queue = queue

    def stays_here(self, transport: Transport) -> bool:
        """Whether a call has to run in the process of its join."""
        return self._queue is None or transport.token is not None

    def check(self, transport: Transport) -> None:
        """Raise `InvalidInput` for a room that cannot be opened or entered from here."""
        if problems := [*self._problems(transport)]:
            raise InvalidInput("The call cannot be connected.", problems)

    def _problems(self, transport: Transport) -> Iterator[FieldProblem]:
        yield from self._rooms.problems(transport)
        spec = self._specs[transport.type]
        absent = f"'{spec.name}' is not set up here"
        needs_settings = transport.room_url is None or not spec.enters_without_settings
        hints = [spec.needed] if needs_settings and not self._rooms.has(spec.name) else []
        if (missing := self._media.missing(spec.name)) is not None:
            hints.append(f"For '{spec.name}' {missing}.")
        elif hints and spec.enters_without_settings:
            absent += "; name a room_url"
        if hints:
            yield FieldProblem("transport.type", absent, " ".join(filter(None, hints)))

    async def begin(self, thread: Thread, transport: Transport, until: datetime) -> Meeting:
        """Have the bot wait for its caller in the thread's room, and say how to get there.

        A room that cannot be opened cancels a thread whose call would run in this process.

        Raises:
            Conflict: somebody else has begun the call, or it is over.
            Refused: code ``at_capacity`` or ``shutting_down``.
            TransportUnavailable: the vendor does not open the room.
        """
        if self._queue is not None and not self.stays_here(transport):
            meeting = await self.invite(thread, transport, until)
            kept = replace(meeting.room, token=None)
            trace = None if thread.trace is None else thread.trace.to_header()
            end = lasts_until(until, thread.join.longest_secs)
            await self._queue.put(thread, OpenRoom(kept, end, trace), until)
            return meeting
        return await self._begin_here(thread, transport, until)

    async def _begin_here(self, thread: Thread, transport: Transport, until: datetime) -> Meeting:
        found: list[Meeting] = []

        async def enter(_: Callable[[], Ending | None]) -> BaseTransport:
            found.append(await self.invite(thread, transport, until))
            room = found[0].room
            await self._media.prepare(room.type)
            return self._media.enter_room(room)

        async def leave(_: Ending) -> None:
            if found:
                await self._close(thread.id, found[0].room)

        wait_secs = max((until - datetime.now(UTC)).total_seconds(), 0.0) + ARRIVAL_SECS
        connection = CallerConnection(enter, _cancelled, leave, wait_secs)
        await self._manager.start(thread, connection)
        return found[0]

    async def invite(self, thread: Thread, transport: Transport, until: datetime) -> Meeting:
        """The thread's room, with a new way into it for the caller.

        Raises:
            TransportUnavailable: the vendor does not give one.
        """
        longest_secs: int = thread.join.longest_secs
        return await self._rooms.meet(thread.id, transport, until, longest_secs)

    async def _close(self, thread_id: UUID, room: Room) -> None:
        try:
            await self._rooms.close(room)
        except Unavailable as error:
            # The vendor forgets it in time.
            log.warning("room_not_closed", workflow_thread_id=str(thread_id), error=str(error))


def _cancelled(_: BaseException) -> Ending:
    """A call whose room cannot be entered has not begun."""
    return Ending(EndReason.CANCELLED)
