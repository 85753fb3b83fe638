"""Calls in rooms over two processes: no process and no key has more at once than it may."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

from flow.db.database import Database
from flow.domain.calls.thread import Status
from tests.calls.conftest import SETTLE_SECS
from tests.calls.test_call import JOIN
from tests.calls.test_rejoin import World, world

EACH, OF_A_KEY, JOINS = 2, 3, 4
# Several looks at the queue.
LONG_ENOUGH_SECS = 2.0


async def test_calls_are_spread_and_wait_where_a_process_or_their_key_has_enough(
    database: Database, postgres_url: str, tmp_path: Path
) -> None:
    limits = {"FLOW_MAX_CALLS": str(EACH), "FLOW_ROOM_CALLS_PER_KEY": str(OF_A_KEY)}
    async with world(database, postgres_url, tmp_path, **limits) as at:
        joined = [await _joined(at) for _ in range(JOINS)]
        held = await _held(at, joined, OF_A_KEY)
        await asyncio.sleep(LONG_ENOUGH_SECS)
        assert await _held(at, joined, OF_A_KEY) == held
        (waiting,) = set(joined) - set(held)
        assert sorted(Counter(held.values()).values()) == [1, EACH]
        await at.http.post(f"/api/bot/{next(iter(held))}/end", timeout=30)
        await at.until(waiting, lambda thread: thread.status is not Status.CREATED)
        for thread_id in joined:
            await at.http.post(f"/api/bot/{thread_id}/end", timeout=30)
            await at.until(thread_id, lambda thread: thread.status.is_final)


async def _joined(at: World) -> UUID:
    request: dict[str, Any] = {**JOIN, "transport": {"type": "daily"}}
    answer = await at.http.post("/api/bot/join", json=request, timeout=30)
    assert answer.status_code == 201, answer.text
    return UUID(answer.json()["workflow_thread_id"])


async def _held(at: World, joined: list[UUID], number: int) -> dict[UUID, str]:
    """Which process has which call, once so many are held."""
    async with asyncio.timeout(SETTLE_SECS):
        while True:
            threads = [await at.database.get_workflow_thread_data(one) for one in joined]
            held = [one.id for one in threads if one.status is not Status.CREATED]
            if len(held) >= number:
                return {thread_id: at.holder(thread_id) for thread_id in held}
            await asyncio.sleep(0.1)
