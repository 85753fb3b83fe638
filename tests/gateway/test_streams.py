"""Streams of all protocols, however they are written, cut, encoded and ended: what comes back is
what was sent, and what it used is in the ledger."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.gateway.conftest import PATIENCE_SECS, Caller
from tests.gateway.streams import (
    CHAT,
    ENCODED,
    INPUT,
    OUTPUT,
    SPOKEN,
    WORDS,
    WRITTEN,
    Spoken,
    cut,
    plain,
)
from tests.gateway.wire import EVENTS, LAST, OK, chunk

pytestmark = pytest.mark.asyncio(loop_scope="module")
WIRED = ("openai", "anthropic")
SETTINGS = {"gateway_silence_secs": 1.0}

USED = {"input_tokens": INPUT, "output_tokens": OUTPUT}
ERRORS: dict[str, Any] = {
    "chat": {"error": {"message": "overloaded", "type": "server_error", "code": None}},
    "cumulative": {"error": {"message": "overloaded", "code": 503}},
    "responses": {"type": "error", "code": "server_error", "message": "overloaded"},
    "messages": {"type": "error", "error": {"type": "overloaded_error", "message": "overloaded"}},
}


async def ask(caller: Caller, spoken: Spoken, **headers: str) -> tuple[httpx.Response, bytes]:
    """The answer, and its body as it came."""
    request = caller.http.build_request("POST", spoken.path, json=spoken.body, headers=headers)
    answer = await caller.http.send(request, stream=True)
    try:
        return answer, b"".join([part async for part in answer.aiter_raw()])
    finally:
        await answer.aclose()


def used(row: dict[str, Any]) -> dict[str, int]:
    return {line["unit"]: int(line["quantity"]) for line in row["lines"]}


def said(row: dict[str, Any]) -> tuple[str, str]:
    return row["outcome"], row["provenance"]


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("protocol", SPOKEN)
async def test_however_it_is_written(caller: Caller, protocol: str, written: str) -> None:
    spoken = SPOKEN[protocol]
    body = WRITTEN[written](spoken.data)
    # A byte at a time, and all at once.
    caller.world.wire.answers = [
        [EVENTS, b"".join(map(chunk, cut(body, 1))), LAST],
        [EVENTS, chunk(body), LAST],
    ]
    for _ in range(2):
        _, got = await ask(caller, spoken)
        assert got == body
    rows = await caller.rows(2)
    assert [said(row) for row in rows] == [("ok", "reported")] * 2
    assert [used(row) for row in rows] == [USED] * 2


@pytest.mark.parametrize("encoded", ENCODED)
@pytest.mark.parametrize("protocol", ["chat", "messages"])
async def test_however_it_is_encoded(caller: Caller, protocol: str, encoded: str) -> None:
    spoken = SPOKEN[protocol]
    encoding, encode = ENCODED[encoded]
    body = encode(plain(spoken.data))
    head = EVENTS.replace(b"\r\n\r\n", f"\r\ncontent-encoding: {encoding}\r\n\r\n".encode())
    caller.world.wire.answers = [
        [head, b"".join(map(chunk, cut(body, size))), LAST] for size in (1, 97)
    ]
    for _ in range(2):
        answer, got = await ask(caller, spoken, **{"accept-encoding": "gzip"})
        assert (got, answer.headers["content-encoding"]) == (body, encoding)
    rows = await caller.rows(2)
    assert [(said(row), used(row)) for row in rows] == [(("ok", "reported"), USED)] * 2


@pytest.mark.parametrize("protocol", SPOKEN)
async def test_an_error_in_the_middle_of_it(caller: Caller, protocol: str) -> None:
    spoken = SPOKEN[protocol]
    places = range(len(spoken.events))
    bodies = [plain([*spoken.data[:place], json.dumps(ERRORS[protocol])]) for place in places]
    caller.world.wire.answers = [[EVENTS, chunk(body), LAST] for body in bodies]
    for body in bodies:
        answer, got = await ask(caller, spoken)
        assert (answer.status_code, got) == (200, body)
    rows = await caller.rows(len(bodies))
    assert {row["outcome"] for row in rows} == {"error"}
    assert {row["failure"]["type"] for row in rows} == {"APIError"}
    assert all(used(row).get("input_tokens", 0) > 0 for row in rows)
    assert all(used(row).get("output_tokens", 0) <= OUTPUT + len(WORDS) for row in rows)


@pytest.mark.parametrize("protocol", SPOKEN)
async def test_a_vendor_that_hangs_up_at_any_byte(caller: Caller, protocol: str) -> None:
    spoken = SPOKEN[protocol]
    body = plain(spoken.data)
    ends = [*range(1, len(body), 41), *range(len(body) - 15, len(body))]
    caller.world.wire.answers = [[EVENTS, chunk(body[:end]), None] for end in ends]
    for end in ends:
        got = bytearray()
        request = caller.http.build_request("POST", spoken.path, json=spoken.body)
        answer = await caller.http.send(request, stream=True)
        with suppress(httpx.RemoteProtocolError):
            async for part in answer.aiter_raw():
                got += part
            pytest.fail("the answer was ended")
        assert bytes(got) == body[:end]
    rows = await caller.rows(len(ends), limit=200)
    assert {row["outcome"] for row in rows} == {"error"}
    assert {row["failure"]["type"] for row in rows} == {"RemoteProtocolError"}
    assert all(used(row).get("input_tokens", 0) > 0 for row in rows)


async def test_a_client_that_hangs_up_at_any_byte(caller: Caller) -> None:
    host, port = caller.world.url.removeprefix("http://").split(":")
    stream = plain(CHAT.data)
    caller.world.wire.always = [EVENTS, *map(chunk, cut(stream, 60)), ...]
    body = json.dumps(CHAT.body).encode()
    request = (
        f"POST {CHAT.path} HTTP/1.1\r\nhost: {host}\r\nx-api-key: {caller.secret}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode() + body

    async def hang_up_after(size: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        await reader.readexactly(size)
        writer.transport.abort()

    sizes = range(1, len(stream) + 300, 17)
    async with asyncio.timeout(PATIENCE_SECS):
        for start in range(0, len(sizes), 10):
            await asyncio.gather(*map(hang_up_after, sizes[start : start + 10]))
        for received in caller.world.wire.requests:
            await received.closed.wait()
    rows = await caller.rows(len(sizes), limit=200)
    assert {said(row) for row in rows} <= {
        ("interrupted", "estimated"),
        ("interrupted", "reported"),
        ("ok", "reported"),
    }
    assert {row["outcome"] for row in rows} >= {"interrupted"}
    assert all(used(row).get("input_tokens", 0) > 0 for row in rows)


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
@pytest.mark.parametrize("protocol", SPOKEN)
async def test_an_answer_that_ends_with_its_connection(
    caller: Caller, protocol: str, version: bytes
) -> None:
    body = plain(SPOKEN[protocol].data)
    head = OK.replace(b"HTTP/1.1", version) + b"content-type: text/event-stream\r\n\r\n"
    caller.world.wire.always = [head, *cut(body, 300), None]
    _, got = await ask(caller, SPOKEN[protocol])
    assert got == body
    row = await caller.row()
    assert (said(row), used(row)) == (("ok", "reported"), USED)


@pytest.mark.parametrize("label", [b"text/html", b"application/octet-stream", b"text/plain", b""])
@pytest.mark.parametrize("protocol", ["chat", "responses", "messages"])
async def test_a_stream_that_is_not_called_one(caller: Caller, protocol: str, label: bytes) -> None:
    body = plain(SPOKEN[protocol].data)
    line = b"content-type: " + label + b"\r\n" if label else b""
    caller.world.wire.always = [
        OK + line + b"transfer-encoding: chunked\r\n\r\n", *map(chunk, cut(body, 300)), LAST
    ]  # fmt: skip
    _, got = await ask(caller, SPOKEN[protocol])
    assert got == body
    row = await caller.row()
    assert (said(row), used(row)) == (("ok", "reported"), USED)


@pytest.mark.parametrize("said_as", ["JSON", "a stream"])
async def test_an_error_in_place_of_a_stream(caller: Caller, said_as: str) -> None:
    body = json.dumps(ERRORS["chat"]).encode()
    head = EVENTS
    if said_as == "JSON":
        head = EVENTS.replace(b"text/event-stream", b"application/json")
    caller.world.wire.always = [head, chunk(body), LAST]
    _, got = await ask(caller, CHAT)
    assert got == body
    row = await caller.row()
    assert said(row) == ("error", "estimated")
    assert row["failure"]["type"] == "APIError"


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "many words of text, of which"},
        {"refusal": "many words of text, of which"},
        {"reasoning_content": "many words of text, of which"},
        {"audio": {"transcript": "many words of text, of which"}},
        {"function_call": {"name": "write", "arguments": "many words of text, of"}},
        {"tool_calls": [{"index": 0, "function": {"name": "many words", "arguments": "of text,"}}]},
        {"tool_calls": [{"index": 0, "custom": {"name": "many words", "input": "of text,"}}]},
    ],
    ids=lambda delta: next(iter(delta)),
)
async def test_all_that_is_generated_counts_where_nobody_reports_it(
    caller: Caller, delta: dict[str, Any]
) -> None:
    event = {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    caller.world.wire.always = [EVENTS, chunk(plain([json.dumps(event)])), None]
    with suppress(httpx.RemoteProtocolError):
        await ask(caller, CHAT)
    row = await caller.row()
    assert said(row) == ("error", "estimated")
    assert 3 <= used(row)["output_tokens"] <= 9
