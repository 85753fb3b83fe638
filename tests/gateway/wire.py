"""A vendor whose every byte a test decides: what it sends, in which pieces, and when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import EllipsisType

# Each connection is used once, and says so: one that is closed without a word may be used again.
OK = b"HTTP/1.1 200 OK\r\nconnection: close\r\n"
JSON = OK + b"content-type: application/json\r\n"
EVENTS = OK + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def whole(body: bytes, head: bytes = JSON) -> bytes:
    """A whole answer."""
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


def chunk(data: bytes) -> bytes:
    """A chunk of a body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST = b"0\r\n\r\n"


@dataclass
class Received:
    """A request as it arrived."""

    line: str
    headers: dict[str, str]
    body: bytes
    sent: int = 0
    """How many bytes of the answer the connection has taken."""
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the gateway has closed the connection under the answer."""


Piece = bytes | None | EllipsisType


class Wire:
    """Answers each request with the pieces that are next; ``None`` stands for hanging up, and
    ``...`` for waiting until the other side does. ``reads_bodies``: it does so before it answers.
    """

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.answers: list[Sequence[bytes | ellipsis | None]] = []  # noqa: F821
        self.always: Sequence[bytes | ellipsis | None] | None = None  # noqa: F821
        self.reads_bodies = True
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def clear(self) -> None:
        self.requests, self.answers, self.always = [], [], None
        self.reads_bodies = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._one(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(
            one.lower().split(": ", 1)[:1] + one.split(": ", 1)[1:] for one in rest if one
        )
        size = int(headers.get("content-length", 0)) if self.reads_bodies else 0
        body = await reader.readexactly(size)
        received = Received(line, headers, body)
        self.requests.append(received)
        pieces = self.answers.pop(0) if self.answers else self.always
        assert pieces is not None, "nobody said what to answer"
        watch = asyncio.ensure_future(reader.read(1))
        watch.add_done_callback(lambda _: received.closed.set())
        for piece in pieces:
            if piece is None:
                watch.cancel()
                return
            if piece is ...:
                await received.closed.wait()
                return
            writer.write(piece)
            await writer.drain()
            received.sent += len(piece)
            # So that no two pieces go into one segment.
            await asyncio.sleep(0.001)
        watch.cancel()
