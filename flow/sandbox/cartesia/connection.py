"""What Cartesia's WebSockets have in common: messages, errors, and the end of idle ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from flow.sandbox.bill import Line, WorkKind
from flow.sandbox.stand_in import exchange_of, hits_of

DOCS_URL = "https://docs.cartesia.ai"
NORMAL = 1000
"""The code of every close of the vendor's own; it documents none."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What Cartesia says when something cannot be done, over HTTP and in messages alike."""

    status: int
    code: str
    title: str
    message: str

    def to_json(self, request_id: str) -> dict[str, Any]:
        """The fields that both have."""
        return {
            "title": self.title,
            "message": self.message,
            "error_code": self.code,
            "status_code": self.status,
            "doc_url": DOCS_URL,
            "request_id": request_id,
        }

    def response(self, request_id: str) -> Response:
        """The answer to a request that is refused."""
        headers = {"X-Request-ID": request_id}
        return JSONResponse(self.to_json(request_id), self.status, headers=headers)


class Refused(Exception):
    """Something that is asked for is not done."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


UNKNOWN_MODEL = Problem(
    400,
    "model_not_found",
    "Invalid model",
    "The model is not valid, make sure it is a valid model ID.",
)


def invalid(field: str) -> Problem:
    """A field is not as it has to be."""
    said = f"The field {field!r} is missing or invalid."
    return Problem(400, "invalid_request", "Invalid request", said)


class Connection:
    """One accepted WebSocket.

    A fault ``slow_tokens`` delays each piece of a result, and ``error_chunk`` fails after so many.
    """

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self.query: Mapping[str, str] = socket.query_params
        self.exchange = exchange_of(socket)
        self.request_id = self.exchange.request_id
        hits = hits_of(socket)
        slow, failing = hits.of("slow_tokens"), hits.of("error_chunk")
        self.result_delay_secs = slow.delay_secs if slow else 0.0
        self.fails_after = failing.chunks if failing else None

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send one message, unless the connection is closed, or lost."""
        if self._is_open:
            with suppress(WebSocketDisconnect):
                await self._socket.send_text(json.dumps(message, separators=(",", ":")))

    async def send_error(self, problem: Problem, **fields: Any) -> None:
        """Say what is wrong; ``fields`` are those that an endpoint has beside the common ones."""
        await self.send({"type": "error", **problem.to_json(self.request_id), **fields})

    async def close(self) -> None:
        """Close it in peace, unless it is closed."""
        if self._is_open:
            with suppress(WebSocketDisconnect):
                await self._socket.close(NORMAL)

    async def messages(self, idle_secs: float) -> AsyncIterator[str | bytes]:
        """What the client sends, until one side closes. The vendor does when nothing has come for
        ``idle_secs``."""
        while self._is_open:
            try:
                async with asyncio.timeout(idle_secs):
                    received = await self._socket.receive()
            except TimeoutError:
                await self.close()
                return
            if received["type"] == "websocket.disconnect":
                return
            text = received.get("text")
            yield received["bytes"] if text is None else text

    def line(self, kind: WorkKind, model: str, billed_by: str) -> Line:
        """A line for the bill, which charges for one quantity alone."""
        return Line(
            request_id=self.request_id,
            kind=kind,
            model=model,
            requested_model=model,
            headers=self.exchange.headers,
            stream=True,
            billed_by=(billed_by,),
        )

    @property
    def _is_open(self) -> bool:
        return self._socket.application_state is WebSocketState.CONNECTED


def json_object(message: str | bytes) -> Mapping[str, Any]:
    """The JSON object in a message; an empty one where there is none."""
    try:
        value = json.loads(message)
    except ValueError:
        return {}
    return value if isinstance(value, Mapping) else {}
