"""Calls in rooms: the bot goes there by itself, right after the join, and waits for the caller."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

import structlog
from pipecat.transports.base_transport import BaseTransport

from flow.bot.transports.room import Media
from flow.domain.calls.capacity import Capacity
from flow.domain.calls.join_request import JoinRequest, Transport
from flow.domain.calls.room import ROOM_TYPES, Meeting, Room
from flow.domain.calls.room_call import OpenRoom, lasts_until
from flow.domain.calls.thread import Thread
from flow.errors import FieldProblem, InvalidInput, Unavailable

if TYPE_CHECKING:
    from flow.bot.session import Threads

log = structlog.get_logger(__name__)

# A caller who entered at the last moment is on the way for a while.
ARRIVAL_SECS = 10.0


class Rooms(Protocol):
    """The vendors' rooms: see `flow.vendors.meeting_rooms`."""

    def problems(self, transport: Transport) -> Iterator[FieldProblem]:
        """What keeps a room of this kind from being opened."""
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


@dataclass(frozen=True, slots=True)
class Entrance:
    """What a process needs to run a call in a room.

    ``wait_secs`` is how long the bot waits there for its caller, ``leave`` what is to be done when
    the call is over; it does not raise.
    """

    transport: Callable[[], BaseTransport]
    wait_secs: float
    leave: Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Visit:
    """A call in a room as long as this process has it; others may have it before and after.

    The thread has the transcript so far; turns are numbered from ``first_turn`` here. ``join`` is
    what is left to do, ``wait_secs`` how long the bot waits for its caller, ``threads`` refuses
    what comes when the call is another's, and ``over`` says why the call ended here; it does not
    raise.
    """

    thread: Thread
    join: JoinRequest
    transport: Callable[[], BaseTransport]
    wait_secs: float
    threads: Threads
    first_turn: int
    over: Callable[[str, dict[str, Any] | None], Awaitable[None]]


class Runner(Protocol):
    """Who runs a call in a room: see `flow.bot.calls.call_manager.Calls`."""

    @property
    def capacity(self) -> Capacity:
        """How many calls run here, and how many may."""
        ...

    async def hold_room(self, thread_id: UUID, visit: Callable[[str], Awaitable[Visit]]) -> None:
        """Take a call under the name of a claim, and run it as long as it is ours."""
        ...

    async def run_room(self, thread: Thread, enter: Callable[[], Awaitable[Entrance]]) -> None:
        """Make the thread ours, ``enter`` its room and run the call there."""
        ...


class Waiting(Protocol):
    """Where calls wait for a process that has room: see `flow.bot.calls.room_leases.Held`."""

    async def put(self, thread: Thread, room: OpenRoom, until: datetime) -> None:
        """Have a bot wait in the room for its caller until then."""
        ...


class RoomCalls:
    """Has calls held in rooms.

    Args:
        runner: runs them in this process.
        waiting: lets any process run them; not those in rooms that only a token opens which the
            caller gave, since it is kept nowhere.
    """

    def __init__(
        self, rooms: Rooms, media: Media, runner: Runner, waiting: Waiting | None = None
    ) -> None:
        self._rooms = rooms
        self._media = media
        self._runner = runner
        self._waiting = waiting

    def stays_here(self, transport: Transport) -> bool:
        """Whether a call has to run in the process of its join."""
        return self._waiting is None or transport.token is not None

    def check(self, transport: Transport) -> None:
        """Raise `InvalidInput` for a room that cannot be opened or entered from here."""
        problems = [*self._rooms.problems(transport)]
        for kind in ROOM_TYPES:
            if kind == transport.type and (missing := self._media.missing(kind)) is not None:
                said = f"'{kind}' is not set up here: {missing}"
                problems.append(FieldProblem("transport.type", said))
        if problems:
            raise InvalidInput("The call cannot be connected.", problems)

    async def begin(self, thread: Thread, transport: Transport, until: datetime) -> Meeting:
        """Have the bot wait for its caller in the thread's room, and say how to get there.

        A room that cannot be opened cancels a thread whose call would run in this process.

        Raises:
            Conflict: somebody else has begun the call, or it is over.
            Refused: code ``at_capacity`` or ``shutting_down``.
            TransportUnavailable: the vendor does not open the room.
        """
        if self._waiting is not None and not self.stays_here(transport):
            meeting = await self.invite(thread, transport, until)
            kept = replace(meeting.room, token=None)
            trace = None if thread.trace is None else thread.trace.to_header()
            end = lasts_until(until, thread.join.longest_secs)
            await self._waiting.put(thread, OpenRoom(kept, end, trace), until)
            return meeting
        found: list[Meeting] = []

        async def enter() -> Entrance:
            meeting = await self.invite(thread, transport, until)
            found.append(meeting)
            try:
                await self._media.prepare(meeting.room.type)
            except BaseException:
                await self._close(thread.id, meeting.room)
                raise
            wait_secs = (until - datetime.now(UTC)).total_seconds() + ARRIVAL_SECS
            return Entrance(
                lambda: self._media.transport(meeting.room),
                max(wait_secs, ARRIVAL_SECS),
                lambda: self._close(thread.id, meeting.room),
            )

        await self._runner.run_room(thread, enter)
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
