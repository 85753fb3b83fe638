"""Clients that go away, at any byte: the vendor is hung up on, and what it did is in the ledger."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.gateway.conftest import PATIENCE_SECS, Caller
from tests.gateway.test_bytes import STREAM, delta
from tests.gateway.wire import EVENTS, chunk

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "groq/llama-3.3-70b-versatile"


async def hang_up_after(
    caller: Caller,
    size: int,
    model: str = "groq/llama-3.3-70b-versatile",
    path: str = "/v1/chat/completions",
    said: str = "Tell me something long, please.",
) -> bytes:
    """Send a request, read so many bytes of its answer, and close the connection."""
    host, port = caller.world.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    content = [{"role": "user", "content": said}]
    fields = {"model": model, "stream": True, "max_tokens": 900, "messages": content}
    body = json.dumps(fields).encode()
    writer.write(
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\nx-api-key: {caller.secret}\r\n"
        f"anthropic-version: 2023-06-01\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    await writer.drain()
    read = await reader.readexactly(size) if size else b""
    if not size:
        await begun(caller)
    writer.transport.abort()
    return read


async def begun(caller: Caller) -> Any:
    """The request that has arrived at the vendor."""
    async with asyncio.timeout(PATIENCE_SECS):
        while not caller.world.wire.requests:
            await asyncio.sleep(0.005)
    return caller.world.wire.requests[0]


async def test_before_the_vendor_has_answered(caller: Caller) -> None:
    caller.world.wire.always = [...]
    await hang_up_after(caller, 0)
    async with asyncio.timeout(PATIENCE_SECS):
        await (await begun(caller)).closed.wait()
    row = await caller.row()
    assert (row["outcome"], row["provenance"]) == ("interrupted", "estimated")
    assert {line["unit"] for line in row["lines"]} == {"input_tokens"}


async def test_after_a_request_so_large_that_the_server_has_stopped_reading(caller: Caller) -> None:
    caller.world.wire.always = [...]
    await hang_up_after(caller, 0, said="word " * 60_000)
    async with asyncio.timeout(PATIENCE_SECS):
        await (await begun(caller)).closed.wait()
    assert (await caller.row())["outcome"] == "interrupted"


@pytest.mark.parametrize("size", [1, 150, 400, 401, 402, 403, 450, 700, 1200])
async def test_in_mid_stream_at_any_byte(caller: Caller, size: int) -> None:
    caller.world.wire.always = [EVENTS, *(chunk(delta(f"word {n}, ")) for n in range(40)), ...]
    await hang_up_after(caller, size)
    async with asyncio.timeout(PATIENCE_SECS):
        await (await begun(caller)).closed.wait()
    row = await caller.row()
    assert (row["outcome"], row["provenance"]) == ("interrupted", "estimated")
    used = {line["unit"]: int(line["quantity"]) for line in row["lines"]}
    assert used["input_tokens"] > 5
    assert used.get("output_tokens", 1) <= 4 * 40


async def test_once_all_has_been_said_and_only_the_end_of_the_answer_is_missing(
    caller: Caller,
) -> None:
    caller.world.wire.always = [EVENTS, chunk(STREAM), ...]
    await hang_up_after(caller, len(STREAM))
    async with asyncio.timeout(PATIENCE_SECS):
        await (await begun(caller)).closed.wait()
    row = await caller.row()
    assert (row["outcome"], row["provenance"]) == ("ok", "reported")


@pytest.mark.parametrize(
    ("model", "path"),
    [("gpt-4.1", "/v1/chat/completions"), ("claude-haiku-4-5", "/v1/messages")],
)
@pytest.mark.parametrize("size", [300, 900, 2000])
async def test_what_the_vendor_bills_for_it(
    caller: Caller, model: str, path: str, size: int
) -> None:
    await hang_up_after(caller, size, model, path)
    (row,) = await caller.conserved(1)
    assert row["outcome"] in {"interrupted", "ok"}


async def test_many_at_once(caller: Caller) -> None:
    sizes = [150 + 37 * n for n in range(40)]
    await asyncio.gather(*(hang_up_after(caller, size, "gpt-4.1") for size in sizes))
    await caller.conserved(len(sizes))


async def test_a_body_that_never_comes_leaves_nothing(caller: Caller) -> None:
    host, port = caller.world.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nx-api-key: {caller.secret}\r\n"
        'content-length: 1000\r\n\r\n{"model": '.encode()
    )
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.transport.abort()
    await asyncio.sleep(0.1)
    assert await caller.rows(0) == []
    assert caller.world.wire.requests == []
