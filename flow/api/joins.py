"""Starting a call, and ending it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from flow.api.agents import agent_of
from flow.api.auth import caller_of, require_permission
from flow.api.budget_headers import Budget, note_budget, shown
from flow.api.call_connections import (
    Connection,
    Token,
    Way,
    connect_params,
    connection,
    thread_of,
)
from flow.api.call_settings import require_public_webhook, require_usable_schema
from flow.api.dependencies import Services, services_of
from flow.api.exact_json import ExactJSONResponse
from flow.api.idempotency import REPLAYED, fingerprint, idempotency_header, idempotency_key
from flow.api.phone_joins import order_call, require_dialable
from flow.api.problems import documented
from flow.api.raw_request_route import RawRequestRoute
from flow.api.request_bodies import read, takes
from flow.api.request_context import context_of
from flow.api.room_joins import begin_in_room, check_transport, require_room_for
from flow.api.tool_checks import require_usable_tools
from flow.db.database import Joined
from flow.domain.agents.agent import Agent
from flow.domain.agents.filling import filled_in
from flow.domain.agents.system_variables import CallFacts
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.phone_call import caller_leg
from flow.domain.calls.thread import Status, Thread
from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.quota import Admission
from flow.domain.pricing import unpriced_models as unpriced
from flow.domain.products.product import ModelName, Product
from flow.errors import FieldProblem, InvalidInput, Refused, Unavailable, UnpricedModel

router = APIRouter(prefix="/api/bot", tags=["calls"], route_class=RawRequestRoute)

_JOIN_EXAMPLES: dict[str, Any] = {
    "least": {"summary": "Everything from the product", "value": {}},
    "usual": {
        "summary": "A bot with a task, and what to note down afterwards",
        "value": {
            "product": "voice_bot",
            "transport": {"type": "websocket"},
            "bot": {
                "system_prompt": "You take reservations for a restaurant.",
                "greeting": "Good evening! For how many people?",
            },
            "insights": {"instructions": "Note the date, the time and the number of people."},
            "max_duration_secs": 600,
            "metadata": {"table_system": "main"},
        },
    },
    "agent": {
        "summary": "A stored agent, and what its placeholders stand for in this call",
        "value": {"agent": "reservations", "variables": {"restaurant": "Luigi's", "name": "Ada"}},
    },
}


class JoinAnswer(BaseModel):
    """A thread that was made, or the one made before under the same idempotency key."""

    workflow_thread_id: UUID = Field(description="The call's id, in all that follows.")
    status: Status = Field(description="`created`, unless the join was made before.")
    product: str = Field(examples=["voice_bot"], description="The product that the call is for.")
    connection: Connection | None = Field(
        description="How to connect; null when a repeated join finds its call under way or over."
    )
    budget: Budget = Field(description="The key's budget, with this call's reservation in it.")
    posthog_trace_id: UUID = Field(description="The id of the call's trace at PostHog.")


class EndAnswer(BaseModel):
    """The thread as it is now; ``end_requested`` while the call is still hanging up."""

    workflow_thread_id: UUID = Field(description="The call's id.")
    status: Status = Field(description="Where the call is now.")
    end_requested: bool = Field(description="Whether it is still hanging up.")


_IDEMPOTENCY_HEADER = idempotency_header(
    "Repeating a join under the same key gives the same thread."
)

OVERRIDE_PERMISSION = "budget.override"
_OVERRIDE_NAME = "x-posthog-budget-override"
_OVERRIDE_HEADER = {
    "name": _OVERRIDE_NAME,
    "in": "header",
    "description": (
        "'true' exempts this call from the key's budget; the key needs the permission"
        f" {OVERRIDE_PERMISSION!r}."
    ),
    "schema": {"type": "string", "enum": ["true", "false"]},
}
# Beyond the token's life: a caller who connects at the last moment must not find the hold gone.
_WAITING_MARGIN_SECS = 60


@router.post(
    "/join",
    status_code=201,
    response_model=JoinAnswer,
    responses={
        200: {"model": JoinAnswer, "description": "This join was made before."},
        **documented(404, 409, 413, 415, 422),
    },
    openapi_extra={
        "parameters": [_IDEMPOTENCY_HEADER, _OVERRIDE_HEADER],
        **takes(JoinRequest, _JOIN_EXAMPLES),
    },
)
async def join(request: Request) -> Response:
    """Make a thread and say how to connect to its bot.

    Nothing runs until somebody connects, but for a bot that waits in a room for its caller.
    """
    body = await read(request, JoinRequest, join_context(services_of(request)))
    joined, way = await begin(request, body)
    name = str(joined.thread.id)
    answer = {
        "workflow_thread_id": name,
        "status": joined.thread.status,
        "product": joined.thread.product,
        "connection": way,
        "budget": shown(joined.budget).model_dump(),
        "posthog_trace_id": name,
    }
    return joined_answer(answer, joined)


def join_context(services: Services) -> dict[str, Any]:
    """What the validators of a `JoinRequest` are given."""
    return {"transports": services.transports.specs}


async def begin(request: Request, body: JoinRequest) -> tuple[Joined, Way | None]:
    """Make the thread of a join, with every check, and the way to its bot.

    There is no way where a repeated join finds its call under way or over.
    """
    services, key = services_of(request), caller_of(request)
    override, repeat_key = _override(request), idempotency_key(request)
    await require_usable_schema(services, body)
    check_transport(services, body.transport)
    await require_dialable(services, key, body.transport)
    content = _content(body) if repeat_key is not None else ""
    numbers = body.transport.from_, body.transport.to
    asked = _Asked(body, override, repeat_key, content, *numbers)
    joined = await _made_with_agent(services, key, asked)
    if joined is None:
        joined = await _joined(services, key, await _accepted(services, key, asked, request))
    note_budget(request, joined.budget)
    context = context_of(request.scope)
    context.workflow_thread_id = joined.thread.id
    if services.transports.has_rooms(body.transport):
        way = await begin_in_room(services, joined, body.transport, context.trace)
    elif body.transport.to is not None:
        way = await order_call(request, services, joined, body.transport)
    else:
        way = connection(request, services, joined.thread)
    if way is None or body.transport.rtvi is None:
        return joined, way
    return joined, way | {"connect_params": connect_params(services, body.transport, way)}


async def admitted(
    services: Services,
    key: ApiKey,
    body: JoinRequest,
    idempotency_key: str,
    *,
    caller: str,
    called: str,
) -> Joined:
    """The thread of a join that nobody sent, since ``caller`` has dialled ``called``: within the
    limits of this key, but with the permissions of the operator, who has set the number up."""
    asked = _Asked(body, False, idempotency_key, _content(body), caller, called)
    joined = await _made_with_agent(services, key, asked)
    if joined is None:
        joined = await _joined(services, key, await _accepted(services, key, asked, None))
    return joined


def joined_answer(answer: dict[str, Any], joined: Joined) -> Response:
    """The answer to a join, which says whether the thread is new."""
    if joined.replayed:
        return ExactJSONResponse(answer, headers=REPLAYED)
    return ExactJSONResponse(answer, status_code=201)


@router.post(
    "/{thread_id:uuid}/end",
    response_model=EndAnswer,
    responses=documented(404),
)
async def end(request: Request, thread_id: UUID, token: Token = None) -> Response:
    """Hang up, wherever the call runs, or cancel one that nobody has connected to.

    Ending a call that is over changes nothing.
    """
    services = services_of(request)
    thread = await thread_of(request, thread_id, token)
    return ExactJSONResponse(await end_call(services, thread_id, thread.api_key_id))


async def end_call(
    services: Services, thread_id: UUID, api_key_id: UUID | None = None
) -> EndAnswer:
    """Hang up a call; with ``api_key_id``, only if it is that key's.

    Raises:
        NotFound: there is no such thread, or it is another key's.
    """
    thread = await services.database.end_thread(thread_id, api_key_id)
    if thread.join.transport.to is not None:
        # A phone that rings is not to ring on.
        await services.database.telephony.note(caller_leg(thread.id), due_secs=0)
    if not _is_over(thread):
        # Here at once; elsewhere with the call's next sign of life.
        await services.calls.end(thread_id)
    return EndAnswer(
        workflow_thread_id=thread.id, status=thread.status, end_requested=not _is_over(thread)
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """A join as it was asked for: ``content`` identifies the body that was sent; the numbers are
    those of a telephone call."""

    body: JoinRequest
    override: bool
    idempotency_key: str | None
    content: str
    caller: str | None = None
    called: str | None = None


@dataclass(frozen=True, slots=True)
class _Accepted:
    """A join with all that its agent and product add, to be let in as ``thread_id``."""

    thread_id: UUID
    join: JoinRequest
    product: Product
    asked: _Asked


async def _made_with_agent(services: Services, key: ApiKey, asked: _Asked) -> Joined | None:
    """The thread of an earlier join under the same key, whose agent may have changed since."""
    if asked.body.agent is None:
        return None
    return await services.database.find_join(key, asked.idempotency_key, asked.content)


async def _accepted(
    services: Services, key: ApiKey, asked: _Asked, request: Request | None
) -> _Accepted:
    """The join as it is stored: every part of its bot known, every placeholder filled in.

    Without a ``request`` no permission is asked for.
    """
    agent = await agent_of(services, key, asked.body)
    if agent is None:
        return await _completed(services, asked, asked.body, None, request)
    try:
        return await _completed(services, asked, agent.settle(asked.body), agent, request)
    except InvalidInput as error:
        raise agent.as_named(error, asked.body) from error


async def _completed(
    services: Services,
    asked: _Asked,
    said: JoinRequest,
    agent: Agent | None,
    request: Request | None,
) -> _Accepted:
    join = services.calls.check(said)
    require_public_webhook(services, join)
    product = services.products.for_call(join.product)
    if product.permission is not None and request is not None:
        require_permission(request, product.permission)
    name = None if agent is None else agent.name
    facts = CallFacts(uuid4(), services.now(), name, asked.caller, asked.called)
    filled = filled_in(join, facts)
    # The schemas of an agent's tools were judged when it was stored, and hold no variables.
    are_stored = agent is not None and "tools" not in asked.body.bot.model_fields_set
    await require_usable_tools(
        services, filled.bot.tools, filled.transport.type, are_stored=are_stored
    )
    return _Accepted(facts.thread_id, filled, product, asked)


async def _joined(services: Services, key: ApiKey, accepted: _Accepted) -> Joined:
    """The thread of a join that is let in, or of an earlier one under its idempotency key."""
    try:
        if services.quotas is not None:
            await services.quotas.check(key, accepted.product.name)
        require_room_for(services, accepted.join.transport)
    except (Refused, Unavailable):
        # A repeat gets its thread whatever has happened since; it asks for nothing new.
        asked = accepted.asked
        joined = await services.database.find_join(key, asked.idempotency_key, asked.content)
        if joined is None:
            raise
        return joined
    return await _admitted(services, key, accepted)


async def _admitted(services: Services, key: ApiKey, accepted: _Accepted) -> Joined:
    product, asked = accepted.product, accepted.asked
    without_price: dict[str, ModelName] = {}
    if product.unpriced == "refuse":
        without_price = unpriced.of_join(accepted.join, services.has_price)
    try:
        return await services.database.join_thread(
            key,
            accepted.thread_id,
            accepted.join,
            billable=product.billable,
            idempotency_key=asked.idempotency_key,
            fingerprint=asked.content,
            admission=_admission(services, product, override=asked.override),
            unpriced=tuple(map(str, without_price.values())),
        )
    except UnpricedModel as error:
        raise _model_unpriced(without_price, product) from error


def _model_unpriced(without_price: Mapping[str, ModelName], product: Product) -> UnpricedModel:
    named = ", ".join(f"{name} ({field})" for field, name in without_price.items())
    return UnpricedModel(
        f"No price is known for {named}, and this key has a budget, which cannot hold what has no"
        " price. Use a model that has one.",
        [FieldProblem(field, f"has no price: {name}") for field, name in without_price.items()],
        hint=unpriced.price_hint(product.name),
    )


def _admission(services: Services, product: Product, *, override: bool) -> Admission:
    return Admission(
        reserve_usd=product.reservation_usd,
        reserve_secs=product.reservation_secs,
        waiting_secs=services.join_token_secs + _WAITING_MARGIN_SECS,
        terms=services.products.terms(product),
        override=override,
    )


def _content(join: JoinRequest) -> str:
    """What makes two joins the same: with an agent what they say, without it what they mean."""
    return fingerprint(join.to_json() if join.agent is None else join.said())


def _override(request: Request) -> bool:
    """Whether the call is to be exempt from the budget, for a key that may say so."""
    given = request.headers.getlist(_OVERRIDE_NAME)
    if not given or given == ["false"]:
        return False
    if given != ["true"]:
        problem = FieldProblem(_OVERRIDE_NAME, "must be 'true' or 'false', once")
        raise InvalidInput("The request is not valid.", [problem])
    require_permission(request, OVERRIDE_PERMISSION)
    return True


def _is_over(thread: Thread) -> bool:
    return thread.status.is_final or thread.status in {Status.ENDED, Status.EXTRACTING}
