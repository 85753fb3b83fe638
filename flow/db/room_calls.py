"""The calls of `flow.db.database` about calls in rooms.

Any call may raise `DatabaseUnavailable`; each documents its other errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from flow.db import rows
from flow.db.transport import TypedCalls
from flow.domain.calls.room_call import OpenRoom, Place, Taken
from flow.domain.calls.thread import Pulse, Status, Thread
from flow.domain.calls.trace_parent import TraceParent


class RoomCalls(TypedCalls):
    """The calls; each is one round trip and one transaction."""

    async def queue(
        self, thread_id: UUID, room: OpenRoom, caller_until: datetime, rejoin_secs: int
    ) -> None:
        """Keep what another process needs to enter the room; what is kept already stays.

        For ``rejoin_secs`` after the last sign of life of a bot, others may take its place.

        Raises:
            Conflict: code ``already_connected``: the call has been begun, or is over.
            NotFound: there is no such thread.
        """
        await self._call(
            "queue_room_call",
            p_thread_id=str(thread_id),
            p_room=room.to_json(),
            p_caller_until=caller_until.isoformat(),
            p_rejoin_secs=rejoin_secs,
        )

    async def take(self, place: Place, claim: str) -> Taken:
        """Make the call ours under the name ``claim``, which again changes nothing.

        Raises:
            CallTakenOver: another has it, or it is too late for it.
        """
        row = await self._call(
            "take_room_call",
            p_thread_id=str(place.thread_id),
            p_attempt=place.attempt,
            p_claim=claim,
        )
        room = OpenRoom.from_json(row["room"])
        trace = room.trace and TraceParent.from_header(room.trace)
        thread = replace(rows.thread(row["thread"]), trace=trace or None)
        elapsed = row["elapsed_secs"]
        return Taken(
            thread, room, float(row["wait_secs"]), None if elapsed is None else float(elapsed)
        )

    async def touch(self, thread_id: UUID, claim: str, status: Status | None = None) -> Pulse:
        """`Database.touch_thread` for whoever has the call, and a sign of its bot's life.

        Raises:
            CallTakenOver: another has it by now, or it is over.
        """
        row = await self._call(
            "touch_claimed_thread",
            p_thread_id=str(thread_id),
            p_claim=claim,
            p_status=status and status.value,
        )
        return rows.pulse(row)

    async def save(
        self,
        thread_id: UUID,
        claim: str,
        *,
        status: Status | None = None,
        end_reason: str | None = None,
        error: dict[str, Any] | None = None,
    ) -> Thread:
        """`Database.save_workflow_thread_data` for whoever has the call, and a sign of its life.

        Raises:
            CallTakenOver: another has it by now, or it is over.
        """
        row = await self._call(
            "save_claimed_thread",
            p_thread_id=str(thread_id),
            p_claim=claim,
            p_status=status and status.value,
            p_end_reason=end_reason,
            p_error=error,
        )
        return rows.thread(row)

    async def give_up(self, thread_id: UUID, claim: str, *, alive: bool) -> Place:
        """Leave our call to others; ``alive`` says that the bot was in the room until now.

        Raises:
            CallTakenOver: it is not ours any more.
        """
        return _place(
            await self._call(
                "give_up_room_call", p_thread_id=str(thread_id), p_claim=claim, p_alive=alive
            )
        )

    async def free_of(self, executor: str) -> list[Place]:
        """Leave to others what a process had that is known to be gone."""
        found = await self._call("free_room_calls_of", p_executor=executor)
        return [_place(row) for row in found]

    async def free_silent(self, silent_secs: int) -> list[Place]:
        """Leave to others what was not heard of for so long; every call that nobody has."""
        found = await self._call("free_silent_room_calls", p_silent_secs=silent_secs)
        return [_place(row) for row in found]

    async def list_left(self, over_secs: int) -> list[tuple[UUID, OpenRoom]]:
        """The rooms of calls that have been over for so long, and nobody has closed."""
        found = await self._call("list_left_rooms", p_over_secs=over_secs)
        return [(UUID(row["thread_id"]), OpenRoom.from_json(row)) for row in found]

    async def forget(self, thread_id: UUID) -> None:
        """Forget a room that is closed."""
        await self._call("forget_room", p_thread_id=str(thread_id))


def _place(row: Mapping[str, Any]) -> Place:
    return Place(UUID(row["thread_id"]), UUID(row["api_key_id"]), row["attempt"])
