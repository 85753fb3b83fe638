"""What ElevenLabs' WebSockets have in common: JSON messages, and errors that close."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from flow.sandbox.bill import Line, WorkKind
from flow.sandbox.stand_in import exchange_of, hits_of

POLICY_VIOLATION = 1008
LONGEST_REASON = 123
"""Bytes that a close frame has room for."""


class Failure(Exception):
    """Ends the connection, with a message that says why.

    Args:
        kind: the vendor's name of it.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Connection:
    """One accepted WebSocket. A fault ``slow_tokens`` delays each message of a result."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self.query: Mapping[str, str] = socket.query_params
        self.exchange = exchange_of(socket)
        slow = hits_of(socket).of("slow_tokens")
        self.result_delay_secs = slow.delay_secs if slow else 0.0
        self._is_left = False

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send one message, unless the connection is closed or the client is gone."""
        if self._is_open:
            with suppress(WebSocketDisconnect):
                await self._socket.send_text(json.dumps(message, separators=(",", ":")))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close it, unless it is closed or the client is gone."""
        self._is_left = True
        if self._is_open:
            with suppress(WebSocketDisconnect):
                await self._socket.close(code, reason[:LONGEST_REASON])

    async def messages(self, timeout_secs: float | None) -> AsyncIterator[Mapping[str, Any] | None]:
        """What the client sends, until it or the vendor closes; ``None`` for no JSON object. What a
        client that is gone had sent before is read to its end.

        Raises:
            TimeoutError: nothing has come for so long.
        """
        while not self._is_left:
            async with asyncio.timeout(timeout_secs):
                received = await self._socket.receive()
            if received["type"] == "websocket.disconnect":
                return
            yield _json_object(received.get("text"))

    async def gone(self) -> None:
        """Return when the client is gone."""
        async for _ in self.messages(None):
            pass

    def line(self, kind: WorkKind, model: str) -> Line:
        """A line for the bill."""
        return Line(
            request_id=self.exchange.request_id,
            kind=kind,
            model=model,
            requested_model=model,
            headers=self.exchange.headers,
            stream=True,
        )

    @property
    def _is_open(self) -> bool:
        return self._socket.application_state is WebSocketState.CONNECTED


def _json_object(text: str | None) -> Mapping[str, Any] | None:
    try:
        value = json.loads(text or "")
    except ValueError:
        return None
    return value if isinstance(value, Mapping) else None


def sample_rate(audio_format: str, coding: str) -> int | None:
    """The rate in a format such as ``pcm_16000``; ``None`` if it is of another coding."""
    name, _, rate = audio_format.partition("_")
    return int(rate) if name == coding and rate.isdecimal() and int(rate) > 0 else None
