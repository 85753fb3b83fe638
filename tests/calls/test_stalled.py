"""A process that is stopped in mid-call for so long that its call is given up meanwhile."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import httpx
import psycopg
import pytest
from websockets.asyncio.client import connect

from flow.db.database import Database
from flow.domain.calls.thread import Status
from tests.calls.conftest import SETTLE_SECS, quantity
from tests.calls.processes import flow_serve
from tests.calls.test_call import JOIN, SHORT, stood_in
from tests.workflows.conftest import age

HEARTBEAT_SECS = 1.0
# More than from one sign of life to the next.
STALLED_SECS = 2.0
LAPSED_SECS = 600

T = TypeVar("T")


async def until(found: Callable[[], Awaitable[T | None]]) -> T:
    async with asyncio.timeout(SETTLE_SECS):
        while (what := await found()) is None:
            await asyncio.sleep(0.1)
    return what


def has_lived_on(postgres_url: str, thread_id: UUID) -> bool:
    """Whether the call has given a sign of life after its connection."""
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute(
            "select heartbeat_at > connected_at + interval '1.5 seconds' from workflow_threads"
            " where id = %s",
            [thread_id],
        ).fetchone()
    return found is not None and bool(found[0])


@pytest.mark.parametrize("hung_up", [False, True], ids=["the-caller-stays", "the-caller-hung-up"])
async def test_its_seconds_are_counted_to_its_last_accepted_sign_of_life(
    hung_up: bool, database: Database, postgres_url: str, tmp_path: Path
) -> None:
    async with (
        stood_in(replace(SHORT, lines=())) as standing,
        flow_serve(
            standing,
            postgres_url,
            tmp_path,
            FLOW_WORKFLOWS="off",
            FLOW_HEARTBEAT_SECS=str(HEARTBEAT_SECS),
        ) as process,
        httpx.AsyncClient(base_url=process.url, trust_env=False) as http,
    ):
        key = {"Authorization": f"Bearer {standing.api_key}"}
        joined = (await http.post("/api/bot/join", json=JOIN, headers=key, timeout=30)).json()
        thread_id = UUID(joined["workflow_thread_id"])
        async with connect(joined["connection"]["url"], proxy=None, close_timeout=1) as socket:

            async def lives() -> bool | None:
                return has_lived_on(postgres_url, thread_id) or None

            await until(lives)
            process.signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(STALLED_SECS)
                age(postgres_url, thread_id, LAPSED_SECS)
                assert await database.take_over_lost_threads(0, 0) == [thread_id]
                await database.finish_thread(thread_id, Status.FAILED)
                if hung_up:
                    socket.transport.abort()
            finally:
                process.signal(signal.SIGCONT)

            async def counted() -> dict[str, Any] | None:
                rows = await database.get_thread_usage(thread_id)
                return next((row for row in rows if row["kind"] == "call"), None)

            call = await until(counted)
            thread = await database.get_workflow_thread_data(thread_id)
    assert thread.connected_at is not None
    assert thread.ended_at is not None
    whole = Decimal((thread.ended_at - thread.connected_at).total_seconds())
    assert call["provenance"] == "measured"
    assert abs(quantity(call, "call_seconds") - whole) < 1 < whole
    # What it did afterwards changed nothing about a thread that others had finished.
    assert (thread.status, thread.end_reason) == (Status.FAILED, "process_lost")
    assert (thread.error or {})["code"] == "process_lost"
