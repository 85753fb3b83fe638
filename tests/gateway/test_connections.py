"""Connections on both sides that are used in ways that few clients and vendors use them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from flow.gateway import client
from tests.gateway.conftest import PATIENCE_SECS, Caller
from tests.gateway.test_bytes import ANSWER, BODY, delta
from tests.gateway.wire import EVENTS, LAST, chunk, whole

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/v1/chat/completions"


@asynccontextmanager
async def connected(
    caller: Caller,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = caller.world.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(PATIENCE_SECS):
            yield reader, writer
    finally:
        writer.transport.abort()


def head(caller: Caller, *lines: str) -> bytes:
    fields = [f"POST {PATH} HTTP/1.1", "host: flow", f"x-api-key: {caller.secret}", *lines]
    return "\r\n".join([*fields, "", ""]).encode()


async def answer_in(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The head of an answer that says its length, and its body."""
    said = (await reader.readuntil(b"\r\n\r\n")).lower()
    size = int(said.partition(b"content-length: ")[2].split(b"\r\n")[0])
    return said, await reader.readexactly(size)


async def test_a_client_that_asks_before_it_sends(caller: Caller) -> None:
    caller.world.wire.always = [whole(ANSWER)]
    async with connected(caller) as (reader, writer):
        writer.write(head(caller, f"content-length: {len(BODY)}", "expect: 100-continue"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await answer_in(reader))[1] == ANSWER
    assert "expect" not in caller.world.wire.requests[0].headers
    await caller.row()


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_body_in_chunks(caller: Caller, size: int) -> None:
    caller.world.wire.always = [whole(ANSWER)]
    async with connected(caller) as (reader, writer):
        writer.write(head(caller, "transfer-encoding: chunked"))
        for at in range(0, len(BODY), size):
            writer.write(chunk(BODY[at : at + size]))
            await asyncio.sleep(0)
        writer.write(LAST)
        assert (await answer_in(reader))[1] == ANSWER
    (sent,) = caller.world.wire.requests
    assert sent.body == BODY.replace(b"groq/llama-3.3-70b", b"llama-3.3-70b")
    assert "transfer-encoding" not in sent.headers
    await caller.row()


async def test_requests_one_after_another_without_waiting(caller: Caller) -> None:
    caller.world.wire.always = [whole(ANSWER)]
    one = head(caller, f"content-length: {len(BODY)}") + BODY
    async with connected(caller) as (reader, writer):
        writer.write(one * 5)
        for _ in range(5):
            assert (await answer_in(reader))[1] == ANSWER
    assert {row["outcome"] for row in await caller.rows(5)} == {"ok"}


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"])
async def test_methods_that_ask_for_no_work(caller: Caller, method: str) -> None:
    answer = await caller.http.request(method, PATH)
    assert answer.status_code == 405
    assert "POST" in answer.headers["allow"]
    assert (await caller.http.request("HEAD", "/v1/models")).status_code == 200
    assert await caller.rows(0) == []


async def test_a_client_that_stops_reading_does_not_hold_the_vendor_for_ever(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "STALLED_SECS", 0.3)
    part = chunk(delta("x" * 500_000))
    caller.world.wire.always = [EVENTS, *[part] * 40, LAST]
    async with connected(caller) as (_, writer):
        writer.write(head(caller, f"content-length: {len(BODY)}") + BODY)
        row = await caller.row()
        await caller.world.wire.requests[0].closed.wait()
    assert (row["outcome"], row["provenance"]) == ("interrupted", "estimated")


async def test_a_vendor_that_answers_before_it_has_read_the_request(caller: Caller) -> None:
    """As one does to whom a body is too large: what it says is passed on, and it is asked once."""
    said = b'{"error": {"message": "Too large."}}'
    refusal = whole(said).replace(b"200 OK", b"413 Content Too Large")
    # It reads none of the body, and hangs up after a while.
    caller.world.wire.reads_bodies = False
    caller.world.wire.always = [refusal, *[b""] * 200]
    large: Any = {"model": "groq/m", "messages": [], "padding": "x" * 20_000_000}
    answer = await caller.http.post(PATH, content=json.dumps(large))
    assert (answer.status_code, answer.content) == (413, said)
    row = await caller.row()
    assert row["failure"]["http_status"] == 413


async def test_a_huge_tool_call_in_pieces_and_at_once(caller: Caller) -> None:
    arguments = json.dumps({"text": "words of some kind " * 55_000})
    pieces = [arguments[at : at + 200] for at in range(0, len(arguments), 200)]
    calls = [
        {"index": 0, "function": {"arguments": one}} | ({"id": "c"} if not n else {})
        for n, one in enumerate(pieces)
    ]
    events = [
        json.dumps({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}) for call in calls
    ]
    stream = "".join(f"data: {one}\n\n" for one in events).encode()
    whole_call = json.dumps(
        {"choices": [{"index": 0, "delta": {"tool_calls": [calls[0] | {"function": {
            "name": "write", "arguments": arguments}}]}}]}
    )  # fmt: skip
    at_once = f"data: {whole_call}\n\n".encode()
    caller.world.wire.answers = [
        [EVENTS, *(chunk(stream[at : at + 50_000]) for at in range(0, len(stream), 50_000)), LAST],
        [EVENTS, chunk(at_once), LAST],
    ]
    for body in (stream, at_once):
        answer = await caller.http.post(PATH, content=BODY)
        assert answer.content == body
    rows = await caller.rows(2)
    for row in rows:
        used = {line["unit"]: int(line["quantity"]) for line in row["lines"]}
        assert used["output_tokens"] == pytest.approx(220_000, rel=0.05)
