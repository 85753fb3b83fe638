"""How long a connection may take to say what it wants, and how much it may say.

uvicorn waits for ever for the head of a request, and keeps all that comes of it: whoever opens
connections and sends a byte now and then holds every file the process may open, and one header
without an end takes its memory. Bodies are given their time by
`flow.api.request_size`, idle connections and WebSockets by the server's own options.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECS = 15.0
# More than the application takes (`flow.api.request_size`), which refuses with all its headers on.
MAX_HEAD_BYTES = 64 * 1024
# The WebSocket library reads the head once more, and drops the connection without a word when a
# line is longer than 8,192 bytes, or answers 500 to a key it cannot decode.
MAX_LINE_BYTES = 8_000


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's HTTP, for requests whose head comes within `HEAD_SECS` and `MAX_HEAD_BYTES`."""

    _waiting: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody is there, and has yet to say something."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some more of what is said."""
        super().data_received(data)
        if self._waiting is None:
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, "headers_too_large", "The head of the request is too large.")

    def on_message_begin(self) -> None:
        """The first byte of a request is there; a connection may bring one after another."""
        self._wait()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._wait_no_more()
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        """The head asks for a WebSocket: refuse here what the WebSocket's own code cannot."""
        lines = [self.url, *(name + value for name, value in self.headers)]
        about = (value for name, value in self.headers if name.startswith(b"sec-websocket-"))
        if any(len(line) > MAX_LINE_BYTES for line in lines):
            self._refuse(431, "headers_too_large", "A line of the request's head is too long.")
        elif not all(value.isascii() for value in about):
            self._refuse(400, "malformed_request", "The WebSocket headers are not ASCII.")
        else:
            super().handle_websocket_upgrade()

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(HEAD_SECS, self._give_up)

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._refuse(408, "request_timeout", "The head of the request took too long to arrive.")

    def _refuse(self, status: int, code: str, detail: str) -> None:
        self._wait_no_more()
        # Behind the answer to a request before it, this would be taken for a part of that.
        answered = self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]
        if answered:
            self.transport.write(_problem(status, code, detail))
        self.transport.close()


def _problem(status: int, code: str, detail: str) -> bytes:
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}
    text = json.dumps(body)
    return (
        f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\n"
        f"content-length: {len(text)}\r\nconnection: close\r\n\r\n{text}"
    ).encode()
