"""How long a connection may take to say what it wants, how much it may say, and in what form.

uvicorn waits for ever for the head of a request, and keeps all that comes of it: whoever opens
connections and sends a byte now and then holds every file the process may open, and one header
without an end takes its memory. Bodies are given their time by
`flow.api.body_limits`, idle connections and WebSockets by the server's own options.

A request must name one host (RFC 9112, section 3.2): where several are named, a proxy may have
looked at another than we do. What comes between a body's chunks is bounded, and what comes after
the last one is no header (RFC 9112, sections 7.1.1 and 7.1.2). A client of HTTP/1.0 is sent no
chunks.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_SECS = 15.0
# More than the application takes (`flow.api.body_limits`), which refuses with all its headers on.
MAX_HEAD_BYTES = 64 * 1024
# The WebSocket library reads the head once more, and drops the connection without a word when a
# line is longer than 8,192 bytes, or answers 500 to a key it cannot decode.
MAX_LINE_BYTES = 8_000
# A chunk's size, its line ends and a short extension; and once a request, trailers.
MAX_CHUNK_FRAMING_BYTES = 32
MAX_FRAMING_BYTES = 4 * 1024
# Who is refused may still be sending. Closing at once would take the answer away again
# (RFC 9112, section 9.6), so what comes is read for a while and thrown away.
LINGER_SECS = 2.0
MAX_LINGER_BYTES = 1024 * 1024
# What arrived at once is looked at in pieces: a body may begin in the middle of one.
PIECE_BYTES = 8 * 1024
ABORT = "flow.abort"
"""The extension of a scope by which the application cuts its connection."""
ON_LEFT = "flow.on_left"
"""The extension by which it has something called when the client goes away."""

_HOST = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=%:\[\]]*")


class _Problem(NamedTuple):
    status: int
    code: str
    detail: str


class _RefusedError(Exception):
    """Makes the parser stop in the middle of what it was fed."""


class _UntilClosed(int):
    """The length of a body that ends with its connection, where uvicorn counts one down to 0."""

    def __lt__(self, _: object) -> bool:
        return False

    def __sub__(self, _: int) -> _UntilClosed:
        return self


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's HTTP, for requests whose head comes within `HEAD_SECS` and `MAX_HEAD_BYTES`."""

    _waiting: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _running: RequestResponseCycle | None = None
    _problem: _Problem | None = None
    _lingering: asyncio.TimerHandle | None = None
    _lingered_bytes = 0
    _is_chunked = False
    _chunks = 0
    _framing_bytes = 0
    _body_bytes = 0
    _on_left: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody is there, and has yet to say something."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        self._wait_no_more()
        if self._lingering is not None:
            self._lingering.cancel()
        self._nobody_listens()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some more of what is said."""
        for start in range(0, len(data), PIECE_BYTES):
            if self._lingering is not None:
                self._throw_away(len(data) - start)
                return
            self._receive(data[start : start + PIECE_BYTES])
            if self.transport.is_closing() or self.transport.get_protocol() is not self:
                return

    def on_message_begin(self) -> None:
        """The first byte of a request is there; a connection may bring one after another."""
        self._wait()
        self._head_bytes = 0
        self._is_chunked = False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; what comes after the body is none."""
        if self._waiting is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._wait_no_more()
        hosts = [value for name, value in self.headers if name == b"host"]
        needed = self.parser.get_http_version() != "1.0"
        if len(hosts) > 1 or (needed and not hosts) or not all(map(_HOST.fullmatch, hosts)):
            self._stop("The request must have one Host header.")
        self._is_chunked = any(name == b"transfer-encoding" for name, _ in self.headers)
        self._chunks = self._framing_bytes = self._body_bytes = 0
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """A chunk of a body begins."""
        self._chunks += 1

    def on_body(self, body: bytes) -> None:
        """Some of a request's body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is there with its body."""
        self._is_chunked = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is sent: what its client does now is nobody's business."""
        self._on_left = None
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser could not read, or was made to stop at."""
        self._refuse(*(self._problem or _Problem(400, "malformed_request", msg)))

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

    def _receive(self, piece: bytes) -> None:
        was_chunked, body_bytes = self._is_chunked, self._body_bytes
        super().data_received(piece)
        if self._lingering is not None or self.transport.is_closing():
            return
        if was_chunked and self._is_chunked:
            self._framing_bytes += len(piece) - (self._body_bytes - body_bytes)
            if self._framing_bytes > MAX_FRAMING_BYTES + self._chunks * MAX_CHUNK_FRAMING_BYTES:
                detail = "There is too much between the chunks of the body."
                self._refuse(400, "malformed_request", detail)
        if self._waiting is None:
            self._head_bytes = 0
            return
        self._head_bytes += len(piece)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, "headers_too_large", "The head of the request is too large.")

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(HEAD_SECS, self._give_up)

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._refuse(408, "request_timeout", "The head of the request took too long to arrive.")

    def _stop(self, detail: str) -> None:
        self._problem = _Problem(400, "malformed_request", detail)
        raise _RefusedError

    def _refuse(self, status: int, code: str, detail: str) -> None:
        self._wait_no_more()
        # Behind the answer to a request before it, or in the middle of one, this would be taken
        # for a part of that.
        answers = self._may_answer()
        if answers:
            self.transport.write(_problem(status, code, detail))
        self._nobody_listens()
        if answers and self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
            self._lingering = self.loop.call_later(LINGER_SECS, self.transport.close)
        else:
            self.transport.close()

    def _throw_away(self, size: int) -> None:
        self._lingered_bytes += size
        if self._lingered_bytes > MAX_LINGER_BYTES:
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running, self._on_left = cycle, None
        # The first for a stream whose reader takes nothing: closing would wait for it. The second
        # for whoever would else have a task wait in `receive` for as long as the request takes.
        cycle.scope["extensions"] = {
            ABORT: {"call": self.transport.abort},
            ON_LEFT: {"call": self._tell_when_left},
        }
        if cycle.scope["http_version"] == "1.0":
            # It knows no chunks (RFC 9112, section 6.1), which uvicorn would send it all the same.
            cycle.chunked_encoding = False
            cycle.expected_content_length = _UntilClosed()
        super()._start_asgi_task(cycle, app)

    def _tell_when_left(self, on_left: Callable[[], None]) -> None:
        """Call this when the client of the request that is being answered goes away, or soon if it
        has. What it sends beyond its request must not keep its leaving from being seen."""
        self._on_left = on_left
        self.flow.resume_reading()
        if self._running is None or self._running.disconnected:
            self.loop.call_soon(on_left)

    def _nobody_listens(self) -> None:
        """Tell the request that is being answered, which need not be the last that has arrived.

        uvicorn tells the last one only; the answer to another would be written to what is closed.
        """
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
            if self._on_left is not None:
                self._on_left()

    def _may_answer(self) -> bool:
        if self.cycle is None or self.cycle.response_complete:  # type: ignore[redundant-expr]
            return True
        # The request that is refused is the one that runs, and its body is on the way.
        return self._is_chunked and not self.cycle.response_started and not self.pipeline


def _problem(status: int, code: str, detail: str) -> bytes:
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}
    text = json.dumps(body)
    return (
        f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\n"
        f"content-length: {len(text)}\r\nconnection: close\r\n\r\n{text}"
    ).encode()
