"""What carriers tell by themselves: that a number of ours rings, and how calls get on.

Their signatures stand in for an API key.
"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from flow.api.call_connections import require_room, require_waiting
from flow.api.carrier_answers import connect, say
from flow.api.carrier_requests import carrier_request
from flow.api.dependencies import MediaStreamCalls, Services, services_of
from flow.api.inbound_joins import join_caller, language_of
from flow.api.number_keys import NumberKeys
from flow.api.problems import documented
from flow.api.request_context import context_of
from flow.db.telephony import PhoneNumber
from flow.domain.calls.media_stream import CallNews
from flow.domain.calls.phone_call import FAX, PhoneCall, Voicemail, is_machine
from flow.domain.calls.phone_rules import LIVE_LOOK_SECS
from flow.domain.calls.spoken import Sentence
from flow.errors import FlowError

log = structlog.get_logger(__name__)

# Carriers give a webhook 15 s, and then hang up, or try again, as their number is set.
ANSWER_SECS = 12.0
_XML: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/xml": {}}, "description": "XML that the carrier acts on."}
}


def telephony_router(calls: MediaStreamCalls) -> APIRouter:
    """The routes of one carrier."""
    router = APIRouter(prefix=f"/api/telephony/{calls.name}", tags=["telephony"])
    keys = NumberKeys()

    @router.post(
        "/voice",
        name=f"{calls.name}_voice",
        response_class=Response,
        responses={**_XML, **documented(413, 415, 422)},
        openapi_extra=dict(calls.webhook_openapi),
    )
    async def voice(request: Request) -> Response:
        """A number of ours rings: connect its caller to the bot, or say why not.

        A carrier that asks again about the same call gets the same thread.
        """
        return await _answer(calls, keys, request)

    @router.post(
        "/calls/{leg_id:uuid}",
        name=f"{calls.name}_call_news",
        status_code=204,
        response_class=Response,
        responses=documented(404, 413, 415, 422),
        openapi_extra=dict(calls.webhook_openapi),
    )
    async def news(request: Request, leg_id: UUID) -> Response:
        """How a call gets on that Flow has placed, and whether a machine answered it."""
        services = services_of(request)
        said = calls.news_of(await carrier_request(request, services))
        await _take(services, calls, leg_id, said)
        return Response(status_code=204)

    return router


async def _answer(calls: MediaStreamCalls, keys: NumberKeys, request: Request) -> Response:
    services = services_of(request)
    call = calls.call_of(await carrier_request(request, services))
    number: PhoneNumber | None = None
    try:
        async with asyncio.timeout(ANSWER_SECS):
            number = await services.database.telephony.find_number(call.called)
            if number is None or not number.rings:
                log.warning("number_without_agent", carrier=calls.name, call_id=call.call_id)
                return say(calls, Sentence.NOT_IN_SERVICE, None)
            require_room(services)
            await keys.require_good(services, number.key)
            joined = await join_caller(services, number, calls.name, call)
            context_of(request.scope).workflow_thread_id = joined.thread.id
            require_waiting(joined.thread)
            return await connect(calls, request, joined.thread, call)
    except (FlowError, TimeoutError) as error:
        code = error.code if isinstance(error, FlowError) else "request_timeout"
        why = [f"{one.field} {one.message}" for one in getattr(error, "problems", ())]
        log.warning("caller_refused", code=code, carrier=calls.name, call_id=call.call_id, why=why)
        language = None if number is None else await language_of(services, number)
        return say(calls, Sentence.UNAVAILABLE, language)


async def _take(services: Services, calls: MediaStreamCalls, leg_id: UUID, news: CallNews) -> None:
    legs = services.database.telephony
    leg = await legs.get(leg_id)
    if leg is None or leg.carrier != calls.name or leg.call_id not in (None, news.call_id):
        # A second call for one leg is looked after when it asks for its bot.
        return
    known = {"workflow_thread_id": str(leg.thread_id), "call_id": news.call_id}
    if news.status is not None:
        log.info("call_news", status=news.status.value, **known)
        # The carrier's call resource is what counts: it is asked for it, now if the call is over.
        await legs.note(leg.id, due_secs=0 if news.status.is_over else None, status=news.status)
    if news.answered_by is not None:
        log.info("call_answered_by", answered_by=news.answered_by, **known)
        # Should the carrier not answer now, whoever looks at the call hangs up on a machine.
        await legs.note(leg.id, due_secs=LIVE_LOOK_SECS, answered_by=news.answered_by)
        if is_machine(news.answered_by):
            await _deal_with_machine(services, calls, leg, news)


async def _deal_with_machine(
    services: Services, calls: MediaStreamCalls, leg: PhoneCall, news: CallNews
) -> None:
    """Do with a call that a machine answered what its join says, wherever its bot runs.

    The message is spoken by the carrier: it begins after the beep, and any process can ask for it.
    """
    thread = await services.database.get_workflow_thread_data(leg.thread_id)
    transport = thread.join.transport
    is_fax = news.answered_by == FAX
    if transport.voicemail is Voicemail.TALK or calls.dialler is None:
        return
    if transport.voicemail is Voicemail.HANG_UP or is_fax or transport.voicemail_message is None:
        await calls.hang_up(news.call_id)
        return
    message = calls.spoken(transport.voicemail_message, thread.join.bot.language)
    await calls.dialler.redirect(news.call_id, message.decode())
