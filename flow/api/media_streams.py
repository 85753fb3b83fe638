"""Telephone calls: the webhook of a carrier, and the media stream that it then opens.

Carriers strip the query from a stream's URL, so the token travels in the stream's first messages.
It is made for the one call that the signed webhook named: a stream of another call is refused, and
no other call can be hung up in its name.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated, get_args
from uuid import UUID

import structlog
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from flow.api.call_connections import (
    require_room,
    require_transport,
    require_waiting,
    thread_by_token,
)
from flow.api.carrier_answers import connect, keep_stray, say
from flow.api.carrier_requests import carrier_request
from flow.api.dependencies import MediaStreamCalls, services_of
from flow.api.problems import documented
from flow.domain.calls.capacity import Full
from flow.domain.calls.media_stream import MediaStream
from flow.domain.calls.spoken import Sentence
from flow.domain.calls.thread import Thread
from flow.errors import FlowError, InvalidInput, Refused, Unavailable

log = structlog.get_logger(__name__)

START_SECS = 5.0

_Token = Annotated[str | None, Query(description="The token of the join.")]
_POLICY, _TRY_LATER = 1008, 1013
_FULL = get_args(Full)


def media_stream_router(calls: MediaStreamCalls) -> APIRouter:
    """The routes of one carrier: its webhook and its media streams."""
    router = APIRouter(prefix="/api/bot", tags=["calls"])

    @router.post(
        f"/{{thread_id:uuid}}/{calls.webhook}",
        name=f"{calls.name}_webhook",
        response_class=Response,
        responses={
            200: {"content": {"text/xml": {}}, "description": "XML that connects the call."},
            **documented(404, 409, 413, 415, 422),
        },
        openapi_extra=dict(calls.webhook_openapi),
    )
    async def webhook(request: Request, thread_id: UUID, token: _Token = None) -> Response:
        """A carrier's webhook: what the caller of this thread is to be connected to."""
        return await _connect(calls, request, thread_id, token or "")

    @router.websocket(f"/{{thread_id:uuid}}/{calls.name}")
    async def stream(websocket: WebSocket, thread_id: UUID) -> None:
        """Run the call of the thread on this socket, once it has started with a good token."""
        await _run(calls, websocket, thread_id)

    return router


async def _connect(
    calls: MediaStreamCalls, request: Request, thread_id: UUID, token: str
) -> Response:
    services = services_of(request)
    thread = await thread_by_token(request, thread_id, token)
    call = calls.call_of(await carrier_request(request, services))
    try:
        _require_call(calls, thread)
        require_room(services)
        return await connect(calls, request, thread, call)
    except FlowError as error:
        if thread.join.transport.to is None:
            raise
        # Somebody has answered a call of ours, and would hear the carrier's own error.
        log.warning("callee_not_connected", workflow_thread_id=str(thread_id), code=error.code)
        with suppress(Unavailable):
            await keep_stray(services, calls, thread, call)
        return say(calls, Sentence.UNAVAILABLE, thread.join.bot.language)


async def _run(calls: MediaStreamCalls, websocket: WebSocket, thread_id: UUID) -> None:
    require_room(services_of(websocket))
    await websocket.accept()
    try:
        media = await _started(calls, websocket)
        thread = await thread_by_token(websocket, thread_id, media.token, media.call_id)
        _require_call(calls, thread)
        await calls.run(thread, websocket, media)
    except WebSocketDisconnect:
        log.info("stream_left", workflow_thread_id=str(thread_id))
    except FlowError as error:
        log.info("stream_refused", workflow_thread_id=str(thread_id), code=error.code)
        later = isinstance(error, Unavailable) or error.code in _FULL
        with suppress(WebSocketDisconnect):
            await websocket.close(_TRY_LATER if later else _POLICY, error.code)


async def _started(calls: MediaStreamCalls, websocket: WebSocket) -> MediaStream:
    """The start of a stream, which comes at once and after one other message at most."""
    try:
        async with asyncio.timeout(START_SECS):
            for _ in range(2):
                if found := calls.started(await _text(websocket)):
                    return found
    except TimeoutError:
        raise Refused("request_timeout", "The stream did not start in time.") from None
    raise InvalidInput(f"The stream does not begin as those of {calls.name} do.")


async def _text(websocket: WebSocket) -> str:
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    return message.get("text") or ""


def _require_call(calls: MediaStreamCalls, thread: Thread) -> None:
    require_transport(thread, {calls.name: calls})
    require_waiting(thread)
