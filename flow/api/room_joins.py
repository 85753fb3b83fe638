"""Joins whose bot waits in a room: what is opened when, and what the caller is told."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from flow.api.call_connections import require_room
from flow.api.dependencies import Rooms, Services
from flow.api.exact_json import rfc3339
from flow.db.database import Joined
from flow.domain.calls.join_request import Transport
from flow.domain.calls.room import Meeting
from flow.domain.calls.thread import Status
from flow.domain.calls.trace_parent import TraceParent
from flow.domain.calls.transport_spec import names_with_rooms
from flow.errors import (
    Conflict,
    FieldProblem,
    InvalidInput,
    Refused,
    Unavailable,
)


def check_transport(services: Services, transport: Transport) -> None:
    """Raise `InvalidInput` for a transport that is not set up, or a room that cannot be entered."""
    if services.transports.has_rooms(transport):
        _rooms(services, transport).check(transport)
        return
    services.transports.require_set_up(transport)
    if transport.token is not None:
        with_rooms = names_with_rooms(services.transports.specs)
        problem = FieldProblem("transport.token", f"is for {with_rooms}")
        raise InvalidInput("The call cannot be connected.", [problem])


def require_room_for(services: Services, transport: Transport) -> None:
    """Raise `Refused`, code ``at_capacity``, when a call that has to run here does not fit."""
    has_rooms = services.transports.has_rooms(transport)
    if not has_rooms or _rooms(services, transport).stays_here(transport):
        require_room(services)


async def begin_in_room(
    services: Services, joined: Joined, transport: Transport, trace: TraceParent | None
) -> dict[str, str] | None:
    """Have the bot wait in the thread's room, and say how its caller gets there.

    A repeat gets the same room and a new token; ``None`` once the bot waits for nobody. A new
    thread whose bot cannot wait anywhere is cancelled.

    Raises:
        TransportUnavailable: the room cannot be opened.
        Refused: code ``at_capacity`` or ``shutting_down``.
    """
    rooms, thread = _rooms(services, transport), replace(joined.thread, trace=trace)
    until = _until(services, joined)
    if until <= services.now():
        return None
    if thread.status is Status.CREATED:
        try:
            return _shown(await rooms.begin(thread, transport, until), until)
        except Conflict:
            # A repeat of this join has been faster, or the call has been ended.
            thread = await services.database.get_workflow_thread_data(thread.id)
        except (Refused, Unavailable):
            if not joined.replayed:
                await _cancel(services, thread.id)
            raise
    if thread.status is not Status.CONNECTING:
        return None
    return _shown(await rooms.invite(thread, transport, until), until)


def _until(services: Services, joined: Joined) -> datetime:
    """Until when the caller may come, however often the join is repeated."""
    last = services.now() + timedelta(seconds=services.join_token_secs)
    if joined.replayed:
        last = min(last, joined.thread.created_at + timedelta(seconds=services.join_token_secs))
    return last.replace(microsecond=0)


def _shown(meeting: Meeting, until: datetime) -> dict[str, str]:
    """The `Connection` to a room."""
    room = meeting.room
    answer: dict[str, str] = {"type": room.type, "url": room.url, "expires_at": rfc3339(until)}
    if room.name is not None:
        answer["room"] = room.name
    if meeting.token is not None:
        answer["token"] = meeting.token.get_secret_value()
    return answer


def _rooms(services: Services, transport: Transport) -> Rooms:
    if services.rooms is None:
        problem = FieldProblem("transport.type", f"'{transport.type}' is not set up here")
        raise InvalidInput("The call cannot be connected.", [problem])
    return services.rooms


async def _cancel(services: Services, thread_id: UUID) -> None:
    """Cancel a thread that nobody has begun: a repeat may have, in another process.

    It is claimed first, as its call would be: of all who try that, one succeeds.
    """
    with suppress(Conflict):
        await services.database.claim_thread(thread_id, str(uuid4()))
        await services.database.finish_thread(thread_id, Status.CANCELLED)
