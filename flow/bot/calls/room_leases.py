"""Calls in rooms that wait for a process to hold them, and pass from one to the next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Any, Protocol
from uuid import UUID

import structlog
from pipecat.transports.base_transport import BaseTransport

from flow.bot.calls.lease import CallLease, TakeLease
from flow.bot.calls.room_calls import ARRIVAL_SECS, Rooms
from flow.bot.transports.room_packages import RoomMedia
from flow.domain.calls.capacity import Capacity
from flow.domain.calls.ending import Ending, EndReason, process_lost
from flow.domain.calls.room import Room
from flow.domain.calls.room_call import TURNS_OF_A_LEASE, OpenRoom, Place, Taken
from flow.domain.calls.thread import Pulse, Status, Thread
from flow.errors import CallTakenOver, Conflict, FlowError, Refused, Unavailable

log = structlog.get_logger(__name__)

# Until another process, or this one, tries to enter a room that could not be entered.
AGAIN_SECS = 1.0
# How long a call that is handed over waits for its last words to be stored.
STORED_SECS = 5.0


class Manager(Protocol):
    """Who runs calls: see `flow.bot.calls.call_manager.CallManager`."""

    @property
    def capacity(self) -> Capacity:
        """How many calls run here, and how many may."""
        ...

    async def hold(self, thread_id: UUID, take: TakeLease) -> None:
        """Take a call under the name of a claim, and run it as long as it is ours."""
        ...


class Records(Protocol):
    """What the database knows of calls in rooms: see `flow.db.room_calls`."""

    async def queue(
        self, thread_id: UUID, room: OpenRoom, caller_until: datetime, rejoin_secs: int
    ) -> None:
        """Keep what is needed to enter the room, or raise `Conflict`."""
        ...

    async def take(self, place: Place, claim: str) -> Taken:
        """Make the call ours, or raise `CallTakenOver`."""
        ...

    async def save(
        self,
        thread_id: UUID,
        claim: str,
        *,
        status: Status | None = None,
        end_reason: EndReason | None = None,
        error: dict[str, Any] | None = None,
    ) -> Thread:
        """Store what is new of a call that is ours, or raise `CallTakenOver`."""
        ...

    async def touch(self, thread_id: UUID, claim: str, status: Status | None = None) -> Pulse:
        """Say that our bot lives, and perhaps move the thread, or raise `CallTakenOver`."""
        ...

    async def give_up(self, thread_id: UUID, claim: str, *, alive: bool) -> Place:
        """Leave our call to others, or raise `CallTakenOver`."""
        ...

    async def forget(self, thread_id: UUID) -> None:
        """Forget a closed room."""
        ...


class Queue(Protocol):
    """Where calls wait: see `flow.workflows.room_queue`."""

    async def put(self, place: Place, *, after_secs: float = 0) -> None:
        """Have some process take the call up."""
        ...


class Finish(Protocol):
    """What follows a call: see `flow.workflows.finish`. Must not raise."""

    def __call__(self, thread_id: UUID, ending: Ending, save: Any) -> Awaitable[bool]:
        """Finish a call that is ours by what ``save`` says; whether it was."""
        ...


class RoomLeases:
    """Puts calls where any process finds them, and runs those that this one has room for.

    Args:
        stored: waits for so many seconds until all that was said and used is in the database.
        rejoin_secs: until when after its bot's last sign of life a call may be taken up again.
    """

    def __init__(
        self,
        *,
        rooms: Rooms,
        media: RoomMedia,
        manager: Manager,
        records: Records,
        queue: Queue,
        finish: Finish,
        stored: Callable[[UUID, float], Awaitable[bool]],
        rejoin_secs: int,
    ) -> None:
        self._stored = stored
        self._rooms = rooms
        self._media = media
        self._manager = manager
        self._records = records
        self._queue = queue
        self._finish = finish
        self._rejoin_secs = rejoin_secs

    async def put(self, thread: Thread, room: OpenRoom, until: datetime) -> None:
        """Have a bot wait in the room for its caller until then; again, it changes nothing.

        Raises:
            Conflict: the call has been begun, or is over.
            DatabaseUnavailable: it was not queued.
        """
        await self._records.queue(thread.id, room, until, self._rejoin_secs)
        await self._queue.put(Place(thread.id, thread.api_key_id))

    async def hold(self, place: Place) -> bool:
        """Run a call from the queue as long as it is ours; ``False`` if that cannot be now."""
        if self._manager.capacity.full:
            return False
        try:
            await self._manager.hold(place.thread_id, lambda claim: self._take(place, claim))
        except CallTakenOver:
            log.info("room_call_not_ours", workflow_thread_id=str(place.thread_id))
        except (Refused, Conflict, Unavailable):
            # It is full here, has a call of this thread still, or cannot ask the database.
            return False
        except _LeftToOthers:
            pass
        return True

    async def _take(self, place: Place, claim: str) -> CallLease:
        """The lease of a call that is in its room; it is refused once the call is another's."""
        taken = await self._records.take(place, claim)
        thread = taken.thread
        if thread.end_requested:
            await self._over(taken, claim, Ending(EndReason.ENDED_BY_API))
            raise _LeftToOthers
        try:
            room = await self._rooms.enter(taken.open_room, again=place.attempt > 0)
            await self._media.prepare(room.type)
        except Exception as error:
            log.warning("room_not_entered", workflow_thread_id=str(thread.id), error=repr(error))
            await self._leave_to_others(thread.id, claim, alive=False, after_secs=AGAIN_SECS)
            raise _LeftToOthers from error

        async def enter(_: Callable[[], Ending | None]) -> BaseTransport:
            return self._media.enter_room(room)

        if taken.is_under_way:
            log.info("room_call_rejoined", workflow_thread_id=str(thread.id), attempt=place.attempt)
        return CallLease(
            thread,
            taken.join(),
            enter,
            _not_entered,
            touch=partial(self._records.touch, thread.id, claim),
            end=partial(self._over, taken, claim),
            claim=claim,
            wait_secs=_wait_secs(taken),
            first_turn=place.attempt * TURNS_OF_A_LEASE,
            can_move=True,
        )

    async def _over(self, taken: Taken, claim: str, ending: Ending) -> None:
        """Finish the call and close its room, unless it goes on elsewhere."""
        thread_id = taken.thread.id
        match ending.reason:
            case EndReason.TAKEN_OVER:
                return
            case EndReason.GIVEN_UP:
                # Whoever gave it up finishes it; nobody else is in its room.
                await self._close(thread_id, taken.open_room.room)
                return
            case EndReason.HANDED_OVER:
                await self._stored(thread_id, STORED_SECS)
                await self._leave_to_others(thread_id, claim, alive=True)
                return
            case EndReason.NOBODY_CAME if taken.is_under_way:
                ending = process_lost()
        if await self._finish(thread_id, ending, partial(self._records.save, claim=claim)):
            await self._close(thread_id, taken.open_room.room)

    async def _leave_to_others(
        self, thread_id: UUID, claim: str, *, alive: bool, after_secs: float = 0
    ) -> None:
        """Queue the call anew; if that fails, it is missed by the other processes in time."""
        try:
            place = await self._records.give_up(thread_id, claim, alive=alive)
            await self._queue.put(place, after_secs=after_secs)
        except FlowError as error:
            log.warning("not_handed_over", workflow_thread_id=str(thread_id), error=str(error))

    async def _close(self, thread_id: UUID, room: Room) -> None:
        try:
            await self._rooms.close(room)
            await self._records.forget(thread_id)
        except Unavailable as error:
            # It is tried again with the rooms of processes that died.
            log.warning("room_not_closed", workflow_thread_id=str(thread_id), error=str(error))


def _not_entered(error: BaseException) -> Ending:
    return Ending.failure("room_lost", f"the bot did not get in: {type(error).__name__}")


class _LeftToOthers(Exception):
    """The call was taken, and is not to be run here."""


def _wait_secs(taken: Taken) -> float:
    """How long the bot waits in the room; who is there already is met as soon as it is in."""
    if taken.is_under_way:
        return max(taken.wait_secs, ARRIVAL_SECS)
    return max(taken.wait_secs, 0.0) + ARRIVAL_SECS
