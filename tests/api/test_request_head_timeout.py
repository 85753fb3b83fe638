"""A connection that does not come to the point is ended, and one that talks without end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from flow.api.request_head_timeout import MAX_HEAD_BYTES, PatientProtocol


async def slowly(request: Request) -> PlainTextResponse:
    await asyncio.sleep(0.4)
    return PlainTextResponse((await request.body()).decode() or "nothing")


@asynccontextmanager
async def served() -> AsyncIterator[int]:
    app = Starlette(routes=[Route("/", slowly, methods=["GET", "POST"])])
    options: dict[str, Any] = {"lifespan": "off", "log_config": None, "http": PatientProtocol}
    server = uvicorn.Server(uvicorn.Config(app, port=0, **options))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


async def exchange(port: int, *pieces: bytes, pause: float = 0.05) -> bytes:
    """Send the pieces one after the other; all that came when the other side had closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with suppress(OSError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flow.api.request_head_timeout.HEAD_SECS", 0.2)


START = b"GET / HTTP/1.1\r\nHost: x\r\n"
CLOSE = b"Connection: close\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [(), (b"GE",), (START, b"X-Slow: 1"), (START, *[b"X-Slow: 1\r\n"] * 3)],
    ids=["nothing", "a method", "half a head", "a header now and then"],
)
async def test_a_head_that_does_not_come_is_given_up(hurried: None, pieces: tuple[bytes]) -> None:
    async with served() as port:
        answer = await exchange(port, *pieces)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code": "request_timeout"' in answer


async def test_a_second_request_on_the_connection_is_given_no_more_time(hurried: None) -> None:
    async with served() as port:
        answer = await exchange(port, START + b"\r\n", b"", b"", START, pause=0.2)
    assert answer.count(b"HTTP/1.1 200 ") == 1
    assert answer.count(b"HTTP/1.1 408 ") == 1


async def test_a_request_whose_head_is_there_takes_the_time_it_needs(hurried: None) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n" + CLOSE
    async with served() as port:
        answer = await exchange(port, head, b"", b"", b"", b"", b"", b"slow")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"slow")


async def test_a_head_without_an_end_is_not_kept() -> None:
    async with served() as port:
        answer = await exchange(port, START + b"X-Long: ", b"a" * MAX_HEAD_BYTES)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"code": "headers_too_large"' in answer


async def test_a_large_body_is_no_large_head() -> None:
    size = 4 * MAX_HEAD_BYTES
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n".encode() + CLOSE
    async with served() as port:
        answer = await exchange(port, head + b"a" * size)
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /?" + b"t" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n", 431),
        (START + b"X-Long: " + b"a" * 9_000 + b"\r\n", 431),
        (START + b"Sec-WebSocket-Extensions: \xc3\xa9\r\n", 400),
    ],
    ids=["a long URL", "a long header", "beyond ASCII"],
)
async def test_a_handshake_that_cannot_be_read_is_refused(head: bytes, status: int) -> None:
    upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n"
    async with served() as port:
        answer = await exchange(port, head + upgrade)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
