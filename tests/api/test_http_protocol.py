"""A connection that does not come to the point is ended, and one that talks without end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from flow.api.http_protocol import MAX_HEAD_BYTES, PatientProtocol


async def slowly(request: Request) -> PlainTextResponse:
    await asyncio.sleep(0.4)
    body = (await request.body()).decode() or "nothing"
    said = request.headers.get("x-say")
    return PlainTextResponse(body, headers={"x-said": said} if said else None)


@asynccontextmanager
async def served(app: Starlette | None = None) -> AsyncIterator[int]:
    app = app or Starlette(routes=[Route("/", slowly, methods=["GET", "POST"])])
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
    monkeypatch.setattr("flow.api.http_protocol.HEAD_SECS", 0.2)


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
    "head",
    [
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nhOST: a\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n",
        b"GET / HTTP/1.1\r\nHost: a/b\r\n",
        b"GET / HTTP/1.1\r\nHost: a, b\r\nHost:\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n",
    ],
    ids=["none", "two", "two-of-one", "two-in-1.0", "a-path", "two-values", "a-space"],
)
@pytest.mark.parametrize("upgrade", [False, True], ids=["request", "websocket"])
async def test_a_request_names_one_host(head: bytes, upgrade: bool) -> None:
    rest = b"Connection: close\r\n\r\n"
    if upgrade:
        rest = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n"
    async with served() as port:
        answer = await exchange(port, head + rest)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert b'"code": "malformed_request"' in answer


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.0\r\n",
        b"GET / HTTP/1.1\r\nHost:\r\n",
        b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n",
        b"GET / HTTP/1.1\r\nHost: flow.example.com:8000\r\n",
    ],
)
async def test_a_host_may_be_missing_where_it_may(head: bytes) -> None:
    async with served() as port:
        answer = await exchange(port, head + CLOSE)
    assert answer.startswith(b"HTTP/1.1 200 ")


async def pieces(request: Request) -> StreamingResponse:
    async def said() -> AsyncIterator[bytes]:
        for piece in (b"data: one\n\n", b"", b"data: two\n\n"):
            yield piece

    known = {"content-length": "22"} if "length" in request.query_params else {}
    return StreamingResponse(said(), headers=known)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("query", [b"", b"?length"])
async def test_only_a_client_that_knows_chunks_is_sent_any(version: bytes, query: bytes) -> None:
    async with served(Starlette(routes=[Route("/", pieces)])) as port:
        asked = b"GET /" + query + b" HTTP/" + version + b"\r\nHost: x\r\n"
        head, body = (await exchange(port, asked + CLOSE)).split(b"\r\n\r\n", 1)
    has_chunks = version == b"1.1" and not query
    assert (b"transfer-encoding: chunked" in head) is has_chunks
    assert b"connection: close" in head
    if has_chunks:
        assert body == b"b\r\ndata: one\n\n\r\nb\r\ndata: two\n\n\r\n0\r\n\r\n"
    else:
        assert body == b"data: one\n\ndata: two\n\n"


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + CLOSE


@pytest.mark.parametrize(
    "pieces",
    [
        (b"4;x=" + b"a" * 300_000 + b"\r\nslow\r\n0\r\n\r\n",),
        (b"4;x=", *[b"a" * 3_000] * 5, b"\r\nslow\r\n0\r\n\r\n"),
        (b"".join(b"1;x=%s\r\na\r\n" % (b"a" * 200) for _ in range(1_000)) + b"0\r\n\r\n",),
        (b"4\r\nslow\r\n0\r\nX-Long: " + b"a" * 300_000 + b"\r\n\r\n",),
        (b"4\r\nslow\r\nnone\r\n",),
    ],
    ids=["at-once", "in-pieces", "in-every-chunk", "in-the-trailer", "no-size"],
)
async def test_what_stands_between_chunks_is_bounded(pieces: tuple[bytes]) -> None:
    async with served() as port:
        answer = await exchange(port, CHUNKED, *pieces)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert b'"code": "malformed_request"' in answer


@pytest.mark.parametrize("size", [1, 7, 8_191, 8_192, 8_193])
async def test_chunks_of_any_size_are_taken_and_trailers_are_no_headers(size: int) -> None:
    body = (b"slow! " * 5_000)[: 20_000 if size > 1 else 4_000]
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x;a=b\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    async with served() as port:
        answer = await exchange(port, CHUNKED, chunks + b"0\r\nX-Say: trailer\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.partition(b"\r\n\r\n")[2] == body
    assert b"x-said" not in answer


@pytest.mark.parametrize(
    "tail", [b"", b"\0nonsense\r\n\r\n", START + b"X-Long: " + b"a" * MAX_HEAD_BYTES]
)
def test_nothing_is_written_to_a_caller_who_has_gone_with_more_to_answer(tail: bytes) -> None:
    """On the event loop of production, which refuses to."""
    failed: list[BaseException] = []

    async def answers(request: Request) -> PlainTextResponse:
        await asyncio.sleep(0.2)
        return PlainTextResponse("late")

    class Watched(Starlette):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            try:
                await super().__call__(scope, receive, send)
            except Exception as error:
                failed.append(error)

    async def leave() -> None:
        async with served(Watched(routes=[Route("/", answers)])) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write((START + b"\r\n") * 3 + tail)
            await asyncio.sleep(0.05)
            writer.transport.abort()
            await asyncio.sleep(0.5)

    uvloop.run(leave())
    assert failed == []


async def test_many_requests_at_once_are_all_answered() -> None:
    """Their heads together are longer than one may be."""
    head = START + b"X-Padding: " + b"a" * 500 + b"\r\n"
    many = 3 * MAX_HEAD_BYTES // len(head)
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse("nothing"))])
    async with served(app) as port:
        answer = await exchange(port, (head + b"\r\n") * many + head + CLOSE)
    assert answer.count(b"HTTP/1.1 200 ") == many + 1


async def test_a_second_request_that_is_malformed_is_not_answered_within_the_first() -> None:
    async with served() as port:
        answer = await exchange(port, START + b"\r\n" + b"GET / HTTP/1.1\r\n\r\n")
    assert answer.count(b"HTTP/1.1 400") == 0


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
