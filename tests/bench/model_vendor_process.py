"""A vendor of chat completions that costs next to nothing: it has its answers ready, whole and
streamed, and reads of a request no more than which of them it is to have.

A request of the user ``held`` gets the first piece of a stream and no more.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import cast

import uvloop

from tests.bench.processes import say, task_given, until_dismissed

PIECES = 20
_USAGE = {"prompt_tokens": 19, "completion_tokens": 3 * PIECES, "total_tokens": 19 + 3 * PIECES}
_KNOWN = {"id": "chatcmpl-bench", "created": 1, "model": "gpt-4.1-2025-04-14"}


def _whole() -> bytes:
    message = {"role": "assistant", "content": "word " * PIECES}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = json.dumps(
        {**_KNOWN, "object": "chat.completion", "choices": [choice], "usage": _USAGE}
    ).encode()
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _event(delta: dict[str, str], **more: object) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": None}]
    said = {**_KNOWN, "object": "chat.completion.chunk", "choices": choices, **more}
    data = b"data: " + json.dumps(said).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_FIRST = _HEAD + _event({"role": "assistant", "content": "word "})
_DONE = b"data: [DONE]\n\n"
_REST = (
    b"".join(_event({"content": "word "}) for _ in range(PIECES - 1))
    + _event({}, choices=[], usage=_USAGE)
    + b"%x\r\n%s\r\n0\r\n\r\n" % (len(_DONE), _DONE)
)
_WHOLE = _whole()


class Vendor(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer, when the request is whole."""
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0] or 0)
        if not separator or len(body) < length:
            return
        self._received = b""
        if b'"stream": true' not in body and b'"stream":true' not in body:
            self._transport.write(_WHOLE)
            return
        self._transport.write(_FIRST)
        if b'"held"' not in body:
            # On its way by itself, as a vendor's first piece is.
            asyncio.get_running_loop().call_soon(self._transport.write, _REST)


async def main() -> None:
    """Serve until nobody needs it any more."""
    task_given()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Vendor, "127.0.0.1", 0)
    say({"port": server.sockets[0].getsockname()[1], "pid": os.getpid()})
    await until_dismissed()


if __name__ == "__main__":
    uvloop.run(main())
