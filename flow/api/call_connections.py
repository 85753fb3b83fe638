"""Connecting to a call: the way there, and what is at its end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from flow.api.auth import caller_of
from flow.api.dependencies import Services, services_of, transport_of
from flow.api.exact_json import ExactJSONResponse, rfc3339
from flow.api.problems import documented
from flow.api.request_bodies import read, takes
from flow.api.request_context import context_of
from flow.domain.calls import join_token as tokens
from flow.domain.calls.join_request import Transport
from flow.domain.calls.thread import Status, Thread
from flow.domain.calls.trace_parent import TraceParent
from flow.domain.calls.transport_spec import CallAddress
from flow.errors import Conflict

router = APIRouter(prefix="/api/bot", tags=["calls"])

Kind = TypeVar("Kind")

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253})|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")
Token = Annotated[
    str | None, Query(description="The token of the join; without it, the API key is needed.")
]
Way = dict[str, Any]
"""A `Connection` as it is answered."""


class Connection(BaseModel):
    """Where and until when to connect; the URL holds the token.

    Of a telephone call, ``twiml_url`` holds it: that is what Twilio is to be given as the call's
    webhook, and ``url`` is where its media stream then goes. In a room the bot is waiting: ``url``
    is a Daily room's or a LiveKit server's, and ``token`` lets the caller in (absent where the
    caller named the room). ``connect_params``, where the join asks for RTVI, is what ``connect()``
    of Pipecat's clients takes as it is. A transport may have further fields.
    """

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="The transport of the join.")
    url: str = Field(
        examples=[
            "wss://flow.example.com/api/bot/0b6d1a52-8a5e-4f0f-9d0f-5b8f3c0f2a11/ws?token=..."
        ],
        description="Where to connect.",
    )
    twiml_url: str | None = Field(
        default=None, description="What Twilio is to be given; of a telephone call."
    )
    room: str | None = Field(default=None, description="The room's name; of a call in a room.")
    token: str | None = Field(default=None, description="What lets the caller into the room.")
    connect_params: dict[str, Any] | None = Field(
        default=None,
        description="What `connect()` of Pipecat's clients takes, as it is; of a call with RTVI.",
        examples=[{"webrtcRequestParams": {"endpoint": "https://..."}}],
    )
    expires_at: datetime = Field(description="Until when the token can be used.")


class Offer(BaseModel):
    """A SmallWebRTC offer; ``pc_id`` names the connection that is negotiated again."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    sdp: Annotated[str, Field(min_length=1, max_length=200_000)] = Field(
        description="The caller's session description."
    )
    type: Literal["offer"] = Field(description="Always `offer`.")
    pc_id: Annotated[str, Field(max_length=128)] | None = Field(
        default=None, description="The connection to negotiate again; left out for the first offer."
    )
    restart_pc: bool | None = Field(
        default=None, description="Whether to begin a new connection in place of that one."
    )
    request_data: Any = Field(
        default=None,
        alias="requestData",
        description="Taken, as Pipecat's clients send it, and not used.",
    )


class SdpAnswer(BaseModel):
    """The answer to an offer."""

    sdp: str = Field(description="The bot's session description.")
    type: Literal["answer"] = Field(description="Always `answer`.")
    pc_id: str = Field(description="Names the connection in later offers and candidates.")


class Candidate(BaseModel):
    """One ICE candidate of the caller."""

    model_config = ConfigDict(extra="forbid")

    candidate: Annotated[str, Field(max_length=4096)] = Field(
        description="The candidate, as the browser gives it."
    )
    sdp_mid: Annotated[str, Field(max_length=128)] = Field(
        description="The media description that it is for."
    )
    sdp_mline_index: Annotated[int, Field(ge=0, le=1000)] = Field(
        description="The place of that description."
    )


class Candidates(BaseModel):
    """ICE candidates found since the offer."""

    model_config = ConfigDict(extra="forbid")

    pc_id: Annotated[str, Field(max_length=128)] = Field(
        description="The connection, as the answer named it."
    )
    candidates: Annotated[list[Candidate], Field(max_length=256)] = Field(
        description="All that are new."
    )


@router.websocket("/{thread_id:uuid}/ws")
async def connect(websocket: WebSocket, thread_id: UUID) -> None:
    """Run the call of the thread on this socket, for whoever holds its token."""
    services = services_of(websocket)
    token = websocket.query_params.get("token", "")
    thread = await thread_by_token(websocket, thread_id, token)
    calls = require_transport(thread, services.transports.sockets)
    require_waiting(thread)
    require_room(services)
    await calls.run(thread, websocket)


@router.post(
    "/{thread_id:uuid}/offer",
    response_model=SdpAnswer,
    responses=documented(404, 409, 413, 415, 422),
    openapi_extra=takes(Offer),
)
async def offer(request: Request, thread_id: UUID, token: Token = None) -> Response:
    """Answer a SmallWebRTC offer: the call starts, or goes on over a renewed connection."""
    return await answer_offer(request, thread_id, token)


async def answer_offer(request: Request, thread_id: UUID, token: str | None) -> Response:
    """Answer the offer in a request, for the key of the request or the token of the join."""
    services, body = services_of(request), await read(request, Offer)
    thread = await thread_of(request, thread_id, token)
    calls = require_transport(thread, services.transports.offers)
    renewed = body.pc_id is not None and thread.status in {Status.CONNECTING, Status.IN_CALL}
    if not renewed:
        require_waiting(thread)
        require_room(services)
    answer = await calls.offer(thread, body.model_dump(exclude_none=True))
    return ExactJSONResponse(answer)


@router.patch(
    "/{thread_id:uuid}/offer",
    status_code=204,
    responses=documented(404, 409, 413, 415, 422),
    openapi_extra=takes(Candidates),
)
async def ice(request: Request, thread_id: UUID, token: Token = None) -> Response:
    """Take ICE candidates that were found after the offer was sent."""
    return await take_candidates(request, thread_id, token)


async def take_candidates(request: Request, thread_id: UUID, token: str | None) -> Response:
    """Take the candidates in a request, as `answer_offer` does an offer."""
    services, body = services_of(request), await read(request, Candidates)
    thread = await thread_of(request, thread_id, token)
    calls = require_transport(thread, services.transports.offers)
    await calls.ice(thread.id, body.model_dump())
    return Response(status_code=204)


def connection(request: Request, services: Services, thread: Thread) -> Way | None:
    """The `Connection` to a thread, with a new token; `None` once it waits for nobody."""
    if thread.status is not Status.CREATED:
        return None
    expires_at = services.now() + timedelta(seconds=services.join_token_secs)
    expires_at = expires_at.replace(microsecond=0)
    trace = context_of(request.scope).trace
    token = tokens.sign(services.secret, thread.id, expires_at, trace=trace)
    spec = services.transports.spec_of(thread)
    assert spec.connection is not None, "rooms say themselves how to get there"
    shown = spec.connection(CallAddress(base_url(request, services), thread.id, token))
    return {"type": spec.name, "expires_at": rfc3339(expires_at), **shown}


def connect_params(services: Services, transport: Transport, way: Way) -> dict[str, Any]:
    """What ``connect()`` of Pipecat's clients takes, of a way over a transport that they have."""
    made = services.transports.specs[transport.type].connect_params
    assert made is not None, "a join for another transport has no RTVI"
    return made(way)


def base_url(request: HTTPConnection, services: Services) -> str:
    """Where callers reach this service, without a trailing slash."""
    return services.public_url or _own_url(request)


def _own_url(request: HTTPConnection) -> str:
    """Where the caller reached us; a Host header that is no host is not repeated."""
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        name, port = request.scope.get("server") or ("localhost", None)
        host = f"{name}:{port}" if port else name
    return f"{request.scope['scheme']}://{host}{request.scope.get('root_path', '')}"


def require_room(services: Services) -> None:
    """Raise `Refused`, ``at_capacity`` or ``shutting_down``, when no more calls are taken here."""
    services.calls.capacity.require_room()


async def thread_of(request: Request, thread_id: UUID, token: str | None) -> Thread:
    """The thread of a request that brings its join's token, or a key whose thread it is.

    A token lets nobody in once it has expired; whoever is in the call may go on using it.

    Raises:
        Refused: it is no such token, or has expired before anybody connected.
        NotFound: the thread is gone, or another key's.
    """
    if token is not None:
        thread = await thread_by_token(request, thread_id, token, may_have_expired=True)
        if thread.status is Status.CREATED:
            tokens.check(services_of(request).secret, token, thread_id, services_of(request).now())
        return thread
    context_of(request.scope).workflow_thread_id = thread_id
    database = services_of(request).database
    thread = await database.get_workflow_thread_data(thread_id, caller_of(request).id)
    return _in_trace(thread, request, None)


async def thread_by_token(
    request: HTTPConnection,
    thread_id: UUID,
    token: str,
    bearer: str = "",
    *,
    may_have_expired: bool = False,
) -> Thread:
    """The thread whose join gave this token, lately enough, in the trace of that join.

    Raises:
        Refused: it is no such token.
        NotFound: the thread is gone.
    """
    services = services_of(request)
    now = None if may_have_expired else services.now()
    trace = tokens.check(services.secret, token, thread_id, now, bearer)
    context_of(request.scope).workflow_thread_id = thread_id
    thread = await services.database.get_workflow_thread_data(thread_id)
    return _in_trace(thread, request, trace)


def _in_trace(thread: Thread, request: HTTPConnection, joined: TraceParent | None) -> Thread:
    """The thread in the trace of its join, or where that had none in that of whoever connects."""
    own = TraceParent.from_header(request.headers.get("traceparent", ""))
    return replace(thread, trace=joined or own)


def require_waiting(thread: Thread) -> None:
    """Raise `Conflict`, code ``not_connectable``, when somebody has connected, or nobody may."""
    if thread.status is not Status.CREATED:
        raise not_connectable(thread)


def not_connectable(thread: Thread) -> Conflict:
    """Nobody can connect to a thread any more."""
    return Conflict(
        f"The thread is {thread.status}; only one that is created can be connected to.",
        "not_connectable",
    )


def require_transport(thread: Thread, calls: Mapping[str, Kind]) -> Kind:
    """Where the thread's call begins, if it is over one of these transports.

    Raises:
        Conflict: code ``wrong_transport``: it was joined for another.
    """
    transport = transport_of(thread)
    if (found := calls.get(transport)) is None:
        wanted = " or ".join(calls)
        raise Conflict(f"The thread was joined for {transport}, not {wanted}.", "wrong_transport")
    return found
