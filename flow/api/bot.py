"""Starting, connecting and ending a call."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from flow.api.auth import caller_of
from flow.api.bodies import read, takes
from flow.api.exact_json import ExactJSONResponse
from flow.api.problems import documented
from flow.api.services import Services, services_of
from flow.domain import token as tokens
from flow.domain.join import JoinRequest
from flow.domain.thread import Status, Thread
from flow.errors import Conflict, FieldProblem, IllegalTransition, InvalidInput, Refused

router = APIRouter(prefix="/api/bot", tags=["calls"])

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253})|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")

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
}


class Connection(BaseModel):
    """Where and until when to connect; the URL holds the token."""

    type: Literal["websocket", "webrtc"]
    url: str = Field(
        examples=[
            "wss://flow.example.com/api/bot/0b6d1a52-8a5e-4f0f-9d0f-5b8f3c0f2a11/ws?token=..."
        ]
    )
    expires_at: datetime


class Budget(BaseModel):
    """What the key may still spend this month; nothing limits it while ``cap_usd`` is null."""

    tier: Literal["ok"] = "ok"
    cap_usd: None = None
    remaining_usd: None = None


class JoinAnswer(BaseModel):
    """A thread that was made, or the one made before under the same idempotency key."""

    workflow_thread_id: UUID
    status: Status
    product: str = Field(examples=["voice_bot"])
    connection: Connection | None = Field(
        description="How to connect; null when a repeated join finds its call under way or over."
    )
    budget: Budget
    posthog_trace_id: UUID


class EndAnswer(BaseModel):
    """The thread as it is now; ``end_requested`` while the call is still hanging up."""

    workflow_thread_id: UUID
    status: Status
    end_requested: bool


class Offer(BaseModel):
    """A SmallWebRTC offer; ``pc_id`` names the connection that is negotiated again."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    sdp: Annotated[str, Field(min_length=1, max_length=200_000)]
    type: Literal["offer"]
    pc_id: Annotated[str, Field(max_length=128)] | None = None
    restart_pc: bool | None = None
    request_data: Any = Field(default=None, alias="requestData")


class SdpAnswer(BaseModel):
    """The answer to an offer."""

    sdp: str
    type: Literal["answer"]
    pc_id: str


class Candidate(BaseModel):
    """One ICE candidate of the caller."""

    model_config = ConfigDict(extra="forbid")

    candidate: Annotated[str, Field(max_length=4096)]
    sdp_mid: Annotated[str, Field(max_length=128)]
    sdp_mline_index: Annotated[int, Field(ge=0, le=1000)]


class Candidates(BaseModel):
    """ICE candidates found since the offer."""

    model_config = ConfigDict(extra="forbid")

    pc_id: Annotated[str, Field(max_length=128)]
    candidates: Annotated[list[Candidate], Field(max_length=256)]


_IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}")
_IDEMPOTENCY_HEADER = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Repeating a join under the same key gives the same thread.",
    "schema": {"type": "string", "pattern": rf"^{_IDEMPOTENCY_KEY.pattern}$"},
}
_Token = Annotated[
    str | None, Query(description="The token of the join; without it, the API key is needed.")
]


@router.post(
    "/join",
    status_code=201,
    response_model=JoinAnswer,
    responses={
        200: {"model": JoinAnswer, "description": "This join was made before."},
        **documented(400, 401, 403, 409, 413, 415, 422, 429, 503),
    },
    openapi_extra={"parameters": [_IDEMPOTENCY_HEADER], **takes(JoinRequest, _JOIN_EXAMPLES)},
)
async def join(request: Request) -> Response:
    """Make a thread and say how to connect to its bot. Nothing runs until somebody connects."""
    services, key = services_of(request), caller_of(request)
    idempotency_key = _idempotency_key(request)
    body = await read(request, JoinRequest)
    accepted = services.calls.check(body)
    _require_room(services)
    joined = await services.database.join_thread(
        key,
        uuid4(),
        accepted.to_json(),
        billable=services.calls.is_billable(accepted.product),
        idempotency_key=idempotency_key,
        fingerprint=fingerprint(body) if idempotency_key is not None else "",
    )
    thread = joined.thread
    answer = JoinAnswer.model_construct(
        workflow_thread_id=thread.id,
        status=thread.status,
        product=thread.product,
        connection=_connection(request, services, thread),
        budget=Budget(),
        posthog_trace_id=thread.id,
    )
    if joined.replayed:
        return ExactJSONResponse(answer, headers={"idempotent-replayed": "true"})
    return ExactJSONResponse(answer, status_code=201)


@router.websocket("/{thread_id:uuid}/ws")
async def connect(websocket: WebSocket, thread_id: UUID) -> None:
    """Run the call of the thread on this socket, for whoever holds its token."""
    services = services_of(websocket)
    _check_token(services, websocket.query_params.get("token", ""), thread_id)
    thread = await services.database.get_workflow_thread_data(thread_id)
    _require_transport(thread, "websocket")
    _require_waiting(thread)
    _require_room(services)
    await services.calls.run_websocket(thread, websocket)


@router.post(
    "/{thread_id:uuid}/offer",
    response_model=SdpAnswer,
    responses=documented(400, 401, 404, 409, 413, 415, 422, 503),
    openapi_extra=takes(Offer),
)
async def offer(request: Request, thread_id: UUID, token: _Token = None) -> Response:
    """Answer a SmallWebRTC offer: the call starts, or goes on over a renewed connection."""
    services, body = services_of(request), await read(request, Offer)
    thread = await _thread_of(request, services, thread_id, token)
    _require_transport(thread, "webrtc")
    renewed = body.pc_id is not None and thread.status in {Status.CONNECTING, Status.IN_CALL}
    if not renewed:
        _require_waiting(thread)
        _require_room(services)
    answer = await services.calls.offer(thread, body.model_dump(exclude_none=True))
    return ExactJSONResponse(answer)


@router.patch(
    "/{thread_id:uuid}/offer",
    status_code=204,
    responses=documented(400, 401, 404, 409, 413, 415, 422, 503),
    openapi_extra=takes(Candidates),
)
async def ice(request: Request, thread_id: UUID, token: _Token = None) -> Response:
    """Take ICE candidates that were found after the offer was sent."""
    services, body = services_of(request), await read(request, Candidates)
    thread = await _thread_of(request, services, thread_id, token)
    _require_transport(thread, "webrtc")
    await services.calls.ice(thread.id, body.model_dump())
    return Response(status_code=204)


@router.post(
    "/{thread_id:uuid}/end",
    response_model=EndAnswer,
    responses=documented(401, 403, 404, 429, 503),
)
async def end(request: Request, thread_id: UUID) -> Response:
    """Hang up, wherever the call runs. Ending a call that is over changes nothing."""
    services, key = services_of(request), caller_of(request)
    thread = await services.database.get_workflow_thread_data(thread_id, key.id)
    if thread.status is Status.CREATED:
        thread = await _cancel(services, thread)
    if not _is_over(thread) and not await services.calls.end(thread_id):
        thread = await services.database.save_workflow_thread_data(thread_id, end_requested=True)
    answer = EndAnswer(
        workflow_thread_id=thread.id, status=thread.status, end_requested=not _is_over(thread)
    )
    return ExactJSONResponse(answer)


def fingerprint(join: JoinRequest) -> str:
    """What makes two joins the same: their content, however it was spelt."""
    canonical = json.dumps(join.to_json(), sort_keys=True, separators=(",", ":"))
    return sha256(canonical.encode()).hexdigest()


def _idempotency_key(request: Request) -> str | None:
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    if len(given) > 1 or not _IDEMPOTENCY_KEY.fullmatch(given[0]):
        problem = FieldProblem("Idempotency-Key", "must be 1 to 255 printable characters, once")
        raise InvalidInput("The request is not valid.", [problem])
    return given[0]


async def _cancel(services: Services, thread: Thread) -> Thread:
    try:
        return await services.database.finish_thread(thread.id, Status.CANCELLED)
    except IllegalTransition:
        # Somebody connected in between: there is a call to hang up after all.
        return await services.database.get_workflow_thread_data(thread.id)


def _is_over(thread: Thread) -> bool:
    return thread.status.is_final or thread.status in {Status.ENDED, Status.EXTRACTING}


async def _thread_of(
    request: Request, services: Services, thread_id: UUID, token: str | None
) -> Thread:
    if token is None:
        key_id = caller_of(request).id
        return await services.database.get_workflow_thread_data(thread_id, key_id)
    _check_token(services, token, thread_id)
    return await services.database.get_workflow_thread_data(thread_id)


def _check_token(services: Services, token: str, thread_id: UUID) -> None:
    tokens.check(services.secret, token, thread_id, services.now())


def _require_room(services: Services) -> None:
    if not services.calls.has_room:
        raise Refused("at_capacity", "This server runs as many calls as it can.", 5)


def _require_waiting(thread: Thread) -> None:
    if thread.status is not Status.CREATED:
        raise Conflict(
            f"The thread is {thread.status}; only one that is created can be connected to.",
            "not_connectable",
        )


def _require_transport(thread: Thread, wanted: str) -> None:
    transport = _transport(thread)
    if transport != wanted:
        raise Conflict(f"The thread was joined for {transport}, not {wanted}.", "wrong_transport")


def _transport(thread: Thread) -> str:
    transport: str = thread.join["transport"]["type"]
    return transport


def _connection(request: Request, services: Services, thread: Thread) -> Connection | None:
    if thread.status is not Status.CREATED:
        return None
    expires_at = (services.now() + timedelta(seconds=services.join_token_secs)).replace(
        microsecond=0
    )
    base = services.public_url or _own_url(request)
    token = tokens.sign(services.secret, thread.id, expires_at)
    if _transport(thread) == "websocket":
        url = f"ws{base.removeprefix('http')}/api/bot/{thread.id}/ws?token={token}"
        return Connection(type="websocket", url=url, expires_at=expires_at)
    url = f"{base}/api/bot/{thread.id}/offer?token={token}"
    return Connection(type="webrtc", url=url, expires_at=expires_at)


def _own_url(connection: HTTPConnection) -> str:
    """Where the caller reached us; a Host header that is no host is not repeated."""
    host = connection.headers.get("host", "")
    if not _HOST.fullmatch(host):
        name, port = connection.scope.get("server") or ("localhost", None)
        host = f"{name}:{port}" if port else name
    return f"{connection.scope['scheme']}://{host}{connection.scope.get('root_path', '')}"
