"""Clients that go away while the vendor's answer is read on for its own numbers."""

from __future__ import annotations

import asyncio

import pytest

from tests.gateway.conftest import PATIENCE_SECS, Caller
from tests.gateway.test_bytes import USAGE, delta, event
from tests.gateway.test_disconnects import begun, hang_up_after
from tests.gateway.wire import EVENTS, LAST, chunk

pytestmark = pytest.mark.asyncio(loop_scope="module")
SETTINGS = {"interrupted_streams": "drain"}


@pytest.mark.parametrize("size", [0, 200, 900])
async def test_the_rest_is_read_for_the_account(caller: Caller, size: int) -> None:
    words = [chunk(delta(f"word {n}, ")) for n in range(100)]
    end = [chunk(delta("", "stop")), chunk(event(choices=[], usage=USAGE)), LAST]
    caller.world.wire.always = [EVENTS, *words, *end]
    await hang_up_after(caller, size)
    row = await caller.row()
    assert (row["outcome"], row["provenance"]) == ("interrupted", "reported")
    used = {line["unit"]: int(line["quantity"]) for line in row["lines"]}
    assert used == {"input_tokens": 11, "output_tokens": 7}


async def test_but_not_for_ever(caller: Caller) -> None:
    large = chunk(delta("x" * 4_000_000))
    caller.world.wire.always = [EVENTS, chunk(delta("word")), *[large] * 5, ...]
    await hang_up_after(caller, 200)
    async with asyncio.timeout(PATIENCE_SECS):
        await (await begun(caller)).closed.wait()
    row = await caller.row()
    assert (row["outcome"], row["provenance"]) == ("interrupted", "estimated")


async def test_what_the_vendor_bills_for_it(caller: Caller) -> None:
    await hang_up_after(caller, 600, "gpt-4.1")
    (row,) = await caller.conserved(1)
    assert row["provenance"] == "reported"
