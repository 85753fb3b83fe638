"""What Deepgram's WebSockets have in common: the handshake, JSON messages, and close codes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from enum import Enum
from typing import Any
from uuid import uuid4

from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from flow.sandbox.stand_in import exchange_of, hits_of

Message = str | bytes


class CloseReason(Enum):
    """Why Deepgram closes a connection: the code and the reason of its close frame.

    developers.deepgram.com/docs/stt-troubleshooting-websocket-data-and-net-errors and
    .../tts-troubleshooting-websocket-net-and-data-errors
    """

    NOT_TEXT = (1003, "MESSAGE-0000")
    UNREADABLE_DATA = (1008, "DATA-0000")
    NO_DATA = (1011, "NET-0001")


class Refused(Exception):
    """A handshake that Deepgram refuses: nothing is served and nothing billed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def refusal(status: int, message: str, request_id: str) -> Response:
    """An error on the wire: a JSON body, and the same in a header."""
    code = {401: "INVALID_AUTH", 429: "TOO_MANY_REQUESTS"}.get(status, "Bad Request")
    return JSONResponse(
        {"err_code": code, "err_msg": message, "request_id": request_id},
        status,
        headers={"dg-error": message, "dg-request-id": request_id},
    )


class Connection:
    """One accepted WebSocket.

    ``request_id`` is the vendor's own name of it; ``hits`` are the faults that it has.
    """

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self.request_id = str(uuid4())
        self.query: Mapping[str, str] = socket.query_params
        self.exchange = exchange_of(socket)
        self.hits = hits_of(socket)

    async def accept(self) -> None:
        """Answer the handshake."""
        await self._socket.accept(headers=[(b"dg-request-id", self.request_id.encode())])

    async def refuse(self, refused: Refused) -> None:
        """Answer it with an error."""
        answer = refusal(refused.status, str(refused), self.request_id)
        await self._socket.send_denial_response(answer)

    async def send(self, message: Mapping[str, Any] | bytes) -> None:
        """Send one message, unless the connection is closed."""
        if self._socket.application_state is not WebSocketState.CONNECTED:
            return
        with suppress(WebSocketDisconnect):  # the client has just left
            if isinstance(message, bytes):
                await self._socket.send_bytes(message)
            else:
                await self._socket.send_text(json.dumps(message, separators=(",", ":")))

    async def close(self, reason: CloseReason | None = None) -> None:
        """Close it; in peace where there is no reason."""
        code, words = (1000, "") if reason is None else reason.value
        if self._socket.application_state is WebSocketState.CONNECTED:
            with suppress(WebSocketDisconnect):
                await self._socket.close(code, words)

    async def close_without_code(self) -> None:
        """Close it with an empty close frame, as Flux does at the end of a stream."""
        if self._socket.application_state is WebSocketState.CONNECTED:
            with suppress(WebSocketDisconnect):
                await self._socket.send({"type": "websocket.close", "code": None, "reason": ""})

    async def messages(self, timeout_secs: float | None = None) -> AsyncIterator[Message]:
        """What the client sends, until it or the vendor closes.

        Raises:
            TimeoutError: nothing has come for so long.
        """
        while self._socket.application_state is WebSocketState.CONNECTED:
            async with asyncio.timeout(timeout_secs):
                received = await self._socket.receive()
            if received["type"] == "websocket.disconnect":
                return
            text = received.get("text")
            yield received["bytes"] if text is None else text


def parsed(message: Message) -> Mapping[str, Any] | None:
    """The JSON object in a text message; ``None`` for anything else."""
    try:
        value = json.loads(message) if isinstance(message, str) else None
    except ValueError:
        return None
    return value if isinstance(value, Mapping) else None


def number(query: Mapping[str, str], name: str, default: int) -> int:
    """A whole number in the query.

    Raises:
        Refused: it is something else.
    """
    value = query.get(name, str(default))
    if not value.isdecimal() or not int(value):
        raise Refused(400, f"Invalid query string: {name} must be a whole number.")
    return int(value)
