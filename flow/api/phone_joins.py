"""Joins whose bot calls somebody: what may be dialled, and the order to dial it."""

from __future__ import annotations

from datetime import timedelta

from starlette.requests import Request

from flow.api.call_connections import Way, base_url
from flow.api.dependencies import Services
from flow.api.exact_json import rfc3339
from flow.api.request_context import context_of
from flow.db.database import Joined
from flow.domain.calls import join_token as tokens
from flow.domain.calls.join_request import Transport
from flow.domain.calls.phone_call import DialOrder, Leg, Voicemail, caller_leg
from flow.domain.calls.phone_number import may_be_dialled
from flow.domain.calls.thread import Status
from flow.domain.calls.transport_spec import CallAddress, stream_url
from flow.domain.limits.api_key import ApiKey
from flow.errors import FieldProblem, InvalidInput

# Beyond the longest call: the bot ends it, and the carrier only if no bot is left to do so.
LONGER_SECS = 60


async def require_dialable(services: Services, key: ApiKey, transport: Transport) -> None:
    """Raise `InvalidInput` for numbers that this key may not call from, or to."""
    if transport.to is None or transport.from_ is None:
        return
    problems = []
    if not may_be_dialled(transport.to, services.dial_prefixes):
        said = "is in a country or network that is not called from here"
        hint = f"FLOW_DIAL_PREFIXES has to allow {transport.to[:4]}..., as in '+49,+43'."
        problems.append(FieldProblem("transport.to", said, hint))
    number = await services.database.telephony.find_number(transport.from_)
    if number is None or number.key.team_id != key.team_id:
        said = "is not a number that this key may call from"
        hint = f"Add it: `flow numbers add {transport.from_} --key NAME`."
        problems.append(FieldProblem("transport.from", said, hint))
    if problems:
        raise InvalidInput("The call cannot be placed.", problems)


async def order_call(
    request: Request, services: Services, joined: Joined, transport: Transport
) -> Way | None:
    """Order the call of a thread that nobody is on yet, once however often its join is repeated.

    The order is all that is needed to place it, so that any process may. ``None``: somebody has
    answered, or it is over.
    """
    thread = joined.thread
    if thread.status is not Status.CREATED:
        return None
    assert transport.to is not None
    assert transport.from_ is not None
    until = (thread.created_at + timedelta(seconds=services.join_token_secs)).replace(microsecond=0)
    trace = context_of(request.scope).trace
    token = tokens.sign(services.secret, thread.id, until, trace=trace)
    base, leg_id = base_url(request, services), caller_leg(thread.id)
    news_url = f"{base}/api/telephony/{transport.type}/calls/{leg_id}"
    webhook = services.transports.streams[transport.type].webhook
    leg = await services.database.telephony.order(
        leg_id,
        thread.id,
        transport.type,
        Leg.CALLER,
        numbers=(transport.from_, transport.to),
        dial_order=DialOrder(
            ring_secs=transport.ring_secs,
            longest_secs=thread.join.longest_secs + LONGER_SECS,
            document_url=CallAddress(base, thread.id, token).http(webhook),
            status_url=news_url,
            machine_url=None if transport.voicemail is Voicemail.TALK else news_url,
            voicemail=transport.voicemail,
        ),
        # Whoever answers at the last moment must find the token good.
        dial_until=until - timedelta(seconds=transport.ring_secs),
    )
    return {
        "type": transport.type,
        "url": stream_url(base, thread.id, transport.type),
        "to": leg.to_number,
        "from": leg.from_number,
        "expires_at": rfc3339(until),
    }
