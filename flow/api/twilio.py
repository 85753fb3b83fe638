"""Telephone calls by Twilio: its webhook, and the media stream that it then opens.

Twilio strips the query from a stream's URL, so the token travels as a parameter of the stream. It
is made for the one call that Twilio's signed webhook named: a stream of another call is refused,
and no other call can be hung up in its name.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Annotated, get_args
from urllib.parse import parse_qsl
from uuid import UUID
from xml.etree import ElementTree as Xml

import structlog
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from flow.api.connections import (
    base_url,
    require_room,
    require_transport,
    require_waiting,
    socket_url,
    thread_by_token,
)
from flow.api.dependencies import Services, Telephone, services_of
from flow.api.problems import documented
from flow.domain.calls import join_token as tokens
from flow.domain.calls.capacity import Full
from flow.domain.calls.media_stream import MediaStream, is_call_sid, started
from flow.domain.calls.thread import Thread
from flow.errors import FlowError, InvalidInput, NotFound, Refused, Unavailable

router = APIRouter(prefix="/api/bot", tags=["calls"])
log = structlog.get_logger(__name__)

START_SECS = 5.0
STREAM_TOKEN_SECS = 30
MAX_FIELDS = 200

_Token = Annotated[str | None, Query(description="The token of the join.")]
_FORM = "application/x-www-form-urlencoded"
_SIGNATURE = {
    "name": "X-Twilio-Signature",
    "in": "header",
    "required": True,
    "description": "Twilio's signature of the request.",
    "schema": {"type": "string"},
}
_WEBHOOK = {
    "parameters": [_SIGNATURE],
    "requestBody": {
        "required": True,
        "content": {
            _FORM: {
                "schema": {
                    "type": "object",
                    "required": ["CallSid"],
                    "properties": {"CallSid": {"type": "string", "pattern": "^CA[0-9a-f]{32}$"}},
                    "additionalProperties": {"type": "string"},
                }
            }
        },
    },
}
_POLICY, _TRY_LATER = 1008, 1013
_FULL = get_args(Full)


@router.post(
    "/{thread_id:uuid}/twiml",
    response_class=Response,
    responses={
        200: {"content": {"text/xml": {}}, "description": "TwiML that connects the call."},
        **documented(404, 409, 413, 415, 422),
    },
    openapi_extra=_WEBHOOK,
)
async def twiml(request: Request, thread_id: UUID, token: _Token = None) -> Response:
    """Twilio's Voice webhook: what the caller of this thread is to be connected to."""
    services = services_of(request)
    telephone = _telephone(services)
    thread = await thread_by_token(request, thread_id, token or "")
    parameters = await _form(request)
    query = request.scope["query_string"].decode("latin-1")
    url = f"{base_url(request, services)}/api/bot/{thread_id}/twiml?{query}"
    signature = request.headers.get("x-twilio-signature", "")
    if not telephone.signed(signature, url, parameters):
        raise Refused(
            "invalid_signature",
            "This is not signed by Twilio for this URL; FLOW_PUBLIC_URL must be the address that"
            " Twilio calls, and TWILIO_AUTH_TOKEN its account's.",
        )
    call_sid = dict(parameters).get("CallSid", "")
    if not is_call_sid(call_sid):
        raise InvalidInput("Twilio's request does not say which call it is about (CallSid).")
    _require_call(thread)
    require_room(services)
    return Response(_connect(request, services, thread, call_sid), media_type="text/xml")


@router.websocket("/{thread_id:uuid}/twilio")
async def stream(websocket: WebSocket, thread_id: UUID) -> None:
    """Run the call of the thread on this socket, once it has started with a good token."""
    services = services_of(websocket)
    _telephone(services)
    require_room(services)
    await websocket.accept()
    try:
        media = await _started(websocket)
        thread = await thread_by_token(websocket, thread_id, media.token, media.call_sid)
        _require_call(thread)
        await services.calls.run_stream(thread, websocket, media)
    except WebSocketDisconnect:
        log.info("stream_left", workflow_thread_id=str(thread_id))
    except FlowError as error:
        log.info("stream_refused", workflow_thread_id=str(thread_id), code=error.code)
        later = isinstance(error, Unavailable) or error.code in _FULL
        with suppress(WebSocketDisconnect):
            await websocket.close(_TRY_LATER if later else _POLICY, error.code)


async def _started(websocket: WebSocket) -> MediaStream:
    """The start of a stream, which Twilio sends at once and after one other message at most."""
    try:
        async with asyncio.timeout(START_SECS):
            for _ in range(2):
                if found := started(await _text(websocket)):
                    return found
    except TimeoutError:
        raise Refused("request_timeout", "The stream did not start in time.") from None
    raise InvalidInput("The stream does not begin as Twilio's do.")


async def _text(websocket: WebSocket) -> str:
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    return message.get("text") or ""


async def _form(request: Request) -> list[tuple[str, str]]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _FORM:
        raise Refused("unsupported_media_type", f"Send the body as {_FORM}.")
    try:
        text = (await request.body()).decode()
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:
        raise Refused("malformed_request", "The form cannot be read.") from None


def _connect(request: Request, services: Services, thread: Thread, call_sid: str) -> bytes:
    expires_at = services.now() + timedelta(seconds=STREAM_TOKEN_SECS)
    token = tokens.sign(services.secret, thread.id, expires_at, trace=thread.trace, bearer=call_sid)
    response = Xml.Element("Response")
    url = socket_url(base_url(request, services), thread.id, "twilio")
    element = Xml.SubElement(Xml.SubElement(response, "Connect"), "Stream", url=url)
    Xml.SubElement(element, "Parameter", name="token", value=token)
    document: bytes = Xml.tostring(response, encoding="utf-8", xml_declaration=True)
    return document


def _telephone(services: Services) -> Telephone:
    if services.telephone is None:
        raise NotFound("This service takes no telephone calls.")
    return services.telephone


def _require_call(thread: Thread) -> None:
    require_transport(thread, "twilio")
    require_waiting(thread)
