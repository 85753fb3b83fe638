"""The tap on WebSockets, on real connections to a server of the test's own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.utils import accept_key

from flow.domain.usage.events import Failure, Outcome, Provenance, Quantities
from flow.metering.taps import socket
from flow.metering.taps.socket import MeteredSocket, metered_connection
from flow.metering.wires.socket import Closing
from tests.watched_sockets import INPUT, World, watched_sockets

Serve = Callable[[ServerConnection], Awaitable[None]]


@pytest.fixture
def world() -> World:
    return watched_sockets()


@asynccontextmanager
async def url_of(server: Serve, **options: Any) -> AsyncIterator[str]:
    async with serve(server, "127.0.0.1", 0, **options) as serving:
        port = next(iter(serving.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}/speak?model=m"


@asynccontextmanager
async def connected(world: World, server: Serve, **options: Any) -> AsyncIterator[ClientConnection]:
    """A metered connection to a server; it is closed at the end."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(url_of(server))
        kind = metered_connection(ClientConnection, world.tap, url)
        yield await stack.enter_async_context(connect(url, create_connection=kind, **options))


async def echo(server: ServerConnection) -> None:
    async for message in server:
        await server.send(message)


async def until_closed(server: ServerConnection) -> None:
    await server.wait_closed()


async def test_messages_are_seen_both_ways_as_they_are(world: World) -> None:
    async with connected(world, echo) as connection:
        for message in ("a text", b"\x00\xff", bytearray(b"ab"), memoryview(b"cd"), ""):
            await connection.send(message)
            assert await connection.recv() == message
    sent = ["a text", b"\x00\xff", b"ab", b"cd", ""]
    assert world.reader.seen == [(way, one) for one in sent for way in ("sent", "received")]
    assert world.reader.url.endswith("/speak?model=m")


async def test_fragments_are_seen_as_the_message_they_are_of(world: World) -> None:
    async def fragments(server: ServerConnection) -> None:
        await server.send(["a ", "text of ", "three ä"])
        await server.send([b"\x00", b"\xff"])
        await server.wait_closed()

    async with connected(world, fragments) as connection:
        assert await connection.recv() == "a text of three ä"
        assert await connection.recv() == b"\x00\xff"
    messages = [message for _, message in world.reader.seen]
    assert messages == ["a text of three ä", b"\x00\xff"]


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_messages_are_seen_as_they_are_before_they_are_compressed(
    world: World, compression: str | None
) -> None:
    text = "the same again and again " * 100
    async with connected(world, echo, compression=compression) as connection:
        assert bool(connection.protocol.extensions) is (compression is not None)
        await connection.send(text)
        await connection.recv()
    assert world.reader.seen == [("sent", text), ("received", text)]


async def test_messages_that_nobody_receives_any_more_are_seen(world: World) -> None:
    async def late(server: ServerConnection) -> None:
        await server.send("begin a")
        await server.recv()
        await server.send("end a")
        await server.close()

    async with connected(world, late) as connection:
        await connection.recv()
        await connection.send("I am leaving")
        await connection.wait_closed()
    assert world.outcomes == [Outcome.OK]


@pytest.mark.parametrize("code", [None, 1011])
async def test_messages_that_come_with_the_handshakes_answer_are_seen(
    world: World, code: int | None
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = re.search(r"Sec-WebSocket-Key: (\S+)", request)
        assert key is not None
        head = Headers(upgrade="websocket", connection="Upgrade")
        head["Sec-WebSocket-Accept"] = accept_key(key[1])
        text = Frame(Opcode.TEXT, b"begin a").serialize(mask=False)
        end = b"" if code is None else Close(code, "").serialize()
        goodbye = Frame(Opcode.CLOSE, end).serialize(mask=False) if code else b""
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\n" + head.serialize() + text + goodbye)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        kind = metered_connection(ClientConnection, world.tap, url)
        async with connect(url, create_connection=kind) as connection:
            assert await connection.recv() == "begin a"
            await connection.wait_closed()
    assert world.reader.seen == [("received", "begin a")]
    assert world.reader.closings == [Closing(code, by_us=False)]
    assert world.outcomes == [Outcome.ERROR]


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 4001])
async def test_the_code_with_which_the_vendor_closes_is_told(world: World, code: int) -> None:
    async def close(server: ServerConnection) -> None:
        await server.close(code)

    async with connected(world, close) as connection:
        await connection.wait_closed()
    assert world.reader.closings == [Closing(code, by_us=False)]


async def test_closing_is_ours_where_we_close_first(world: World) -> None:
    async with connected(world, until_closed) as connection:
        await connection.close()
        await connection.close()
        assert world.reader.closings == [Closing(1000, by_us=True)]


async def test_a_vendor_that_does_not_answer_our_close_does_not_make_it_its_own(
    world: World,
) -> None:
    left = asyncio.Event()

    async def deaf(server: ServerConnection) -> None:
        server.transport.pause_reading()
        await left.wait()
        server.transport.abort()

    async with connected(world, deaf, close_timeout=0.05) as connection:
        await connection.close()
        left.set()
    assert world.reader.closings == [Closing(None, by_us=True)]


async def test_a_connection_that_is_cut_has_no_code(world: World) -> None:
    async def cut(server: ServerConnection) -> None:
        server.transport.abort()

    async with connected(world, cut) as connection:
        await connection.wait_closed()
    assert world.reader.closings == [Closing(None, by_us=False)]


@pytest.mark.parametrize(
    ("code", "outcome", "failure"),
    [
        (1000, Outcome.INTERRUPTED, None),
        (1001, Outcome.INTERRUPTED, None),
        (1011, Outcome.ERROR, Failure("ConnectionClosed", "it was closed with code 1011")),
        (None, Outcome.ERROR, Failure("ConnectionClosed", "it was closed without a word")),
    ],
)
async def test_work_that_is_open_at_the_end_ends_with_the_connection(
    world: World, code: int | None, outcome: Outcome, failure: Failure | None
) -> None:
    async def end(server: ServerConnection) -> None:
        await server.recv()
        if code is None:
            server.transport.abort()
        else:
            await server.close(code)

    async with connected(world, end) as connection:
        await connection.send("begin a")
        await connection.wait_closed()
    (event,) = world.events
    assert (event.outcome, event.failure) == (outcome, failure)
    assert (event.quantities, event.model) == (INPUT.sent, "m")


async def test_several_pieces_of_work_are_told_apart(world: World) -> None:
    async with connected(world, echo) as connection:
        for message in ("begin a", "begin b", "end c", "end b"):
            await connection.send(message)
        assert world.outcomes == [Outcome.OK]
        await connection.send("begin b")
        await connection.send("end b")
    assert world.outcomes == [Outcome.OK, Outcome.OK, Outcome.INTERRUPTED]
    assert world.notebook.open == set()


async def test_work_that_begins_again_under_its_name_has_ended_before(world: World) -> None:
    async with connected(world, until_closed) as connection:
        await connection.send("begin a")
        await connection.send("begin a")
        await connection.send("end a")
    assert world.outcomes == [Outcome.INTERRUPTED, Outcome.OK]


async def test_a_reader_that_fails_does_not_break_the_connection(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    async with connected(world, echo) as connection:
        await connection.send("begin a")
        await connection.send("fail")
        assert [await connection.recv() for _ in range(2)] == ["begin a", "fail"]
        await connection.send("end a")
    assert world.outcomes[-1] is Outcome.OK
    assert "reader_failed" in capsys.readouterr().out


async def test_what_a_reader_could_not_read_is_on_record_once_a_connection(world: World) -> None:
    async with connected(world, echo) as connection:
        for _ in range(3):
            await connection.send("fail")
        assert [await connection.recv() for _ in range(3)] == ["fail"] * 3
    assert [event.provenance for event in world.notebook.events] == [Provenance.UNMETERED]


@pytest.mark.parametrize("said", ["report", None], ids=["a report", "the end"])
async def test_a_close_waits_until_the_vendor_has_reported(world: World, said: str | None) -> None:
    async def reporting(server: ServerConnection) -> None:
        assert await server.recv() == "begin a"
        assert await server.recv() == "ask"
        await asyncio.sleep(0.1)
        if said:
            await server.send("end a")
            await server.send(said)
            await server.wait_closed()
        else:
            await server.close()

    async with connected(world, reporting) as connection:
        await connection.send("begin a")
        await connection.send("ask")
        await connection.close()
    assert world.outcomes == [Outcome.OK if said else Outcome.INTERRUPTED]
    assert world.reader.closings == [Closing(1000, by_us=True)]


async def test_a_close_does_not_wait_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(socket, "REPORT_SECS", 0.1)
    async with connected(world, until_closed) as connection:
        await connection.send("ask")
        async with asyncio.timeout(10):
            await connection.close()
    assert world.reader.closings == [Closing(1000, by_us=True)]
    assert "report_missing" in capsys.readouterr().out


async def test_nobody_waits_for_a_report_that_is_not_to_come(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "REPORT_SECS", 3600)
    async with asyncio.timeout(10), connected(world, until_closed) as connection:
        await connection.send("begin a")


async def test_what_nobody_has_closed_is_counted_when_the_call_is_over(world: World) -> None:
    async with connected(world, until_closed) as connection:
        await connection.send("begin a")
        world.tap.finish()
        assert world.outcomes == [Outcome.INTERRUPTED]
    world.tap.finish()
    assert world.reader.closings == [Closing(None, by_us=True)]
    assert len(world.events) == 1


async def test_what_is_sent_on_a_closed_connection_is_not_seen(world: World) -> None:
    async with connected(world, until_closed) as connection:
        await connection.close()
        with pytest.raises(ConnectionClosed):
            await connection.send("begin a")
    assert world.reader.seen == []


async def test_a_handshake_that_is_refused_is_an_attempt_that_is_free(world: World) -> None:
    async def refuse(server: ServerConnection, request: Request) -> Response:
        return server.respond(429, "too many")

    async with url_of(until_closed, process_request=refuse) as url:
        kind = metered_connection(ClientConnection, world.tap, url)
        with pytest.raises(InvalidStatus) as refused:
            await connect(url, create_connection=kind)
    assert world.readers == []
    world.tap.refused(refused.value)
    world.tap.refused(ConnectionRefusedError("nobody there"))
    assert [event.failure for event in world.events] == [
        Failure("RateLimitError", "HTTP 429", 429),
        Failure("ConnectionRefusedError", "ConnectionRefusedError"),
    ]
    assert {event.quantities for event in world.events} == {Quantities()}
    assert {event.provenance for event in world.events} == {Provenance.MEASURED}


async def test_a_wrapped_connection_shows_what_goes_through_it(world: World) -> None:
    async with url_of(echo) as url, connect(url) as plain:
        wrapped = MeteredSocket(plain, world.tap.opened(url))
        await wrapped.send("begin a")
        assert await wrapped.recv() == "begin a"
        await wrapped.send(bytearray(b"ab"))
        await wrapped.send("end a")
        async for message in wrapped:
            if message == "end a":
                break
        assert wrapped.response is plain.response
        await wrapped.close()
        await wrapped.close()
    assert [message for _, message in world.reader.seen[:4]] == [
        "begin a",
        "begin a",
        b"ab",
        "end a",
    ]
    assert world.reader.closings == [Closing(None, by_us=True)]
    assert world.outcomes == [Outcome.INTERRUPTED, Outcome.OK]


@pytest.mark.parametrize("code", [1000, 1011, None])
@pytest.mark.parametrize("verb", ["recv", "for"])
async def test_a_wrapped_connection_that_ends_tells_its_code(
    world: World, code: int | None, verb: str
) -> None:
    async def end(server: ServerConnection) -> None:
        server.transport.abort() if code is None else await server.close(code)

    async with url_of(end) as url, connect(url) as plain:
        wrapped = MeteredSocket(plain, world.tap.opened(url))
        with suppress(ConnectionClosed):
            if verb == "recv":
                await wrapped.recv()
            async for _ in wrapped:
                pass
    assert world.reader.closings == [Closing(code, by_us=False)]


async def test_what_goes_over_a_connection_once_the_call_is_over_begins_nothing(
    world: World,
) -> None:
    """Its account is closed: who would end the work?"""
    async with connected(world, until_closed) as connection:
        await connection.send("begin a")
        world.tap.finish()
        await connection.send("begin b")
    assert world.outcomes == [Outcome.INTERRUPTED]
    assert world.notebook.open == set()


@pytest.mark.parametrize("leave", ["close", "wait_closed"])
async def test_a_vendor_that_has_much_to_say_is_heard_to_its_report(
    world: World, leave: str
) -> None:
    """Nobody receives any more, and a connection with messages waiting reads no more of them."""

    async def talkative(server: ServerConnection) -> None:
        await server.send("ask")
        await server.recv()
        for _ in range(200):
            await server.send(b"sound")
        await server.send("report")
        await server.close()

    async with connected(world, talkative) as connection:
        await connection.recv()
        await connection.send("I am leaving")
        async with asyncio.timeout(socket.REPORT_SECS / 2):
            await getattr(connection, leave)()
    assert world.reader.seen[-1] == ("received", "report")
