"""Calls in rooms that wait for a process to hold them, and pass from one to the next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import structlog

from flow.bot.calls.room_calls import ARRIVAL_SECS, Rooms, Runner, Visit
from flow.bot.session import Threads
from flow.bot.transports.room import Media
from flow.domain.calls.room import NOBODY_CAME, Room
from flow.domain.calls.room_call import (
    HANDED_OVER,
    PROCESS_LOST,
    TAKEN_OVER,
    OpenRoom,
    Place,
    Taken,
)
from flow.domain.calls.thread import ENDED_BY_API, GIVEN_UP, Pulse, Status, Thread
from flow.domain.limits.budget import Standing
from flow.errors import CallTakenOver, Conflict, FlowError, Refused, Unavailable

log = structlog.get_logger(__name__)

# Until another process, or this one, tries to enter a room that could not be entered.
AGAIN_SECS = 1.0
# What was said to a bot that is gone may come to the database later, and has its numbers.
TURNS_OF_A_VISIT = 10_000
# How long a call that is handed over waits for its last words to be stored.
STORED_SECS = 5.0
_LOST = {"code": PROCESS_LOST, "message": "the process that ran the call is gone"}


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
        end_reason: str | None = None,
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

    def __call__(
        self, thread_id: UUID, reason: str, error: dict[str, Any] | None, save: Any
    ) -> Awaitable[bool]:
        """Finish a call that is ours by what ``save`` says; whether it was."""
        ...


class Claimed:
    """`flow.bot.session.Threads` for a call that may become another's: then all is refused."""

    def __init__(self, threads: Threads, records: Records, claim: str) -> None:
        self._threads = threads
        self._records = records
        self.claim = claim

    async def save_workflow_thread_data(
        self,
        thread_id: UUID,
        *,
        status: Status | None = None,
        end_reason: str | None = None,
        error: dict[str, Any] | None = None,
    ) -> Thread:
        """Store what is new, or raise `CallTakenOver`."""
        return await self._records.save(
            thread_id, self.claim, status=status, end_reason=end_reason, error=error
        )

    async def touch_thread(self, thread_id: UUID, status: Status | None = None) -> Pulse:
        """Give a sign of life, or raise `CallTakenOver`."""
        return await self._records.touch(thread_id, self.claim, status)

    async def get_thread_standing(self, thread_id: UUID) -> Standing:
        """How the thread's key stands."""
        return await self._threads.get_thread_standing(thread_id)


class Held:
    """Puts calls where any process finds them, and runs those that this one has room for.

    Args:
        stored: waits for so many seconds until all that was said and used is in the database.
        rejoin_secs: until when after its bot's last sign of life a call may be taken up again.
    """

    def __init__(
        self,
        *,
        rooms: Rooms,
        media: Media,
        runner: Runner,
        records: Records,
        threads: Threads,
        queue: Queue,
        finish: Finish,
        stored: Callable[[UUID, float], Awaitable[bool]],
        rejoin_secs: int,
    ) -> None:
        self._stored = stored
        self._rooms = rooms
        self._media = media
        self._runner = runner
        self._records = records
        self._threads = threads
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
        if self._runner.capacity.full:
            return False
        try:
            await self._runner.hold_room(place.thread_id, lambda claim: self._visit(place, claim))
        except CallTakenOver:
            log.info("room_call_not_ours", workflow_thread_id=str(place.thread_id))
        except (Refused, Conflict, Unavailable):
            # It is full here, has a call of this thread still, or cannot ask the database.
            return False
        except _LeftToOthers:
            pass
        return True

    async def _visit(self, place: Place, claim: str) -> Visit:
        taken = await self._records.take(place, claim)
        thread, threads = taken.thread, Claimed(self._threads, self._records, claim)
        if thread.end_requested:
            await self._over(taken, threads, ENDED_BY_API, None)
            raise _LeftToOthers
        try:
            room = await self._rooms.enter(taken.open_room, again=place.attempt > 0)
            await self._media.prepare(room.type)
        except Exception as error:
            log.warning("room_not_entered", workflow_thread_id=str(thread.id), error=repr(error))
            await self._leave_to_others(thread.id, claim, alive=False, after_secs=AGAIN_SECS)
            raise _LeftToOthers from error

        async def over(reason: str, error: dict[str, Any] | None) -> None:
            await self._over(taken, threads, reason, error)

        if taken.is_under_way:
            log.info("room_call_rejoined", workflow_thread_id=str(thread.id), attempt=place.attempt)
        return Visit(
            thread,
            taken.join(),
            transport=lambda: self._media.transport(room),
            wait_secs=_wait_secs(taken),
            threads=threads,
            first_turn=place.attempt * TURNS_OF_A_VISIT,
            over=over,
        )

    async def _over(
        self, taken: Taken, threads: Claimed, reason: str, error: dict[str, Any] | None
    ) -> None:
        """Finish the call and close its room, unless it goes on elsewhere."""
        thread_id = taken.thread.id
        if reason == TAKEN_OVER:
            return
        if reason == GIVEN_UP:
            # Whoever gave it up finishes it; nobody else is in its room.
            await self._close(thread_id, taken.open_room.room)
            return
        if reason == HANDED_OVER:
            await self._stored(thread_id, STORED_SECS)
            await self._leave_to_others(thread_id, threads.claim, alive=True)
            return
        if reason == NOBODY_CAME and taken.is_under_way:
            reason, error = PROCESS_LOST, dict(_LOST)
        save = threads.save_workflow_thread_data
        if await self._finish(thread_id, reason, error, save):
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


class _LeftToOthers(Exception):
    """The call was taken, and is not to be run here."""


def _wait_secs(taken: Taken) -> float:
    """How long the bot waits in the room; who is there already is met as soon as it is in."""
    if taken.is_under_way:
        return max(taken.wait_secs, ARRIVAL_SECS)
    return max(taken.wait_secs, 0.0) + ARRIVAL_SECS
