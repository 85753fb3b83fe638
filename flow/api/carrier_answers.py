"""What a carrier is answered that asks what to do with a call: connect it, or say something."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid5

from starlette.requests import Request
from starlette.responses import Response

from flow.api.call_connections import base_url
from flow.api.dependencies import MediaStreamCalls, Services, services_of
from flow.domain.calls import join_token as tokens
from flow.domain.calls.media_stream import CarriedCall
from flow.domain.calls.phone_call import Direction, caller_leg
from flow.domain.calls.phone_rules import LIVE_LOOK_SECS
from flow.domain.calls.spoken import Sentence, sentence
from flow.domain.calls.thread import Thread
from flow.domain.calls.transport_spec import stream_url
from flow.errors import Conflict

STREAM_TOKEN_SECS = 30


async def connect(
    calls: MediaStreamCalls, request: Request, thread: Thread, call: CarriedCall
) -> Response:
    """Connect the call to its bot, if no other call has this thread already.

    Raises:
        Conflict: code ``not_connectable``: another has it.
    """
    services = services_of(request)
    if calls.dialler is not None and not await _is_its(services, calls, thread, call):
        raise Conflict("The thread is another call's.", "not_connectable")
    document = calls.document(
        stream_url(base_url(request, services), thread.id, calls.name),
        _stream_token(services, thread, call.call_id),
    )
    return Response(document, media_type="text/xml")


async def _is_its(
    services: Services, calls: MediaStreamCalls, thread: Thread, call: CarriedCall
) -> bool:
    """Whether the thread is this call's: of two that were placed for it the first one's."""
    placed = thread.join.transport.to is not None
    leg = await services.database.telephony.bind(
        caller_leg(thread.id),
        thread.id,
        calls.name,
        call.call_id,
        direction=Direction.OUTBOUND if placed else Direction.INBOUND,
        numbers=(call.caller, call.called),
        due_secs=LIVE_LOOK_SECS,
    )
    return leg.call_id == call.call_id


async def keep_stray(
    services: Services, calls: MediaStreamCalls, thread: Thread, call: CarriedCall
) -> None:
    """Note a call that was placed for a thread which is another call's, or over: the carrier wants
    its price all the same."""
    legs = services.database.telephony
    if await legs.find(calls.name, call.call_id) is None:
        await legs.bind(
            uuid5(thread.id, call.call_id),
            thread.id,
            calls.name,
            call.call_id,
            direction=Direction.OUTBOUND,
            numbers=(call.caller, call.called),
            due_secs=LIVE_LOOK_SECS,
        )


def say(calls: MediaStreamCalls, which: Sentence, language: str | None) -> Response:
    """Say a sentence, in the bot's language where there is a text in it, and hang up."""
    return Response(calls.spoken(*sentence(which, language)), media_type="text/xml")


def _stream_token(services: Services, thread: Thread, call_id: str) -> str:
    expires_at = services.now() + timedelta(seconds=STREAM_TOKEN_SECS)
    return tokens.sign(services.secret, thread.id, expires_at, trace=thread.trace, bearer=call_id)
