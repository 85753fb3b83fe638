"""What follows a call, step by step and over again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from flow.domain.calls.ending import Ending, EndReason
from flow.domain.calls.thread import Status
from flow.workflows.finish import FinishCall, InThisProcess
from tests.workflows.conftest import Ended, Finishes

LOST = {"code": "process_lost", "message": "gone"}
BROKEN = {"code": "vendor_failure", "message": "gone"}


@pytest.mark.parametrize(
    ("error", "status", "asked"),
    [(None, Status.COMPLETED, 1), (LOST, Status.FAILED, 1), (BROKEN, Status.FAILED, 0)],
    ids=["ended-well", "process-lost", "vendor-failed"],
)
async def test_every_step_may_be_repeated_and_asks_once(
    error: dict[str, Any] | None, status: Status, asked: int, finishes: Finishes, ended: Ended
) -> None:
    thread_id = await ended(error)
    for step in finishes.steps.all:
        for _ in range(3):
            await step(thread_id)
    for step in finishes.steps.all:
        await step(thread_id)
    thread = await finishes.thread(thread_id)
    rows = await finishes.database.get_thread_usage(thread_id)
    assert thread.status is status
    assert thread.error == error
    assert finishes.model.asked == len(rows) == asked
    assert (thread.insights or {}).get("data") == ({"answer": 1} if asked else None)
    assert thread.usage_stats["llm_calls"] == asked
    assert {(told.id, told.status) for told in finishes.told} == {(thread_id, status)}
    assert len(thread.transcript) == 2


async def test_insights_stored_first_stay(finishes: Finishes, ended: Ended) -> None:
    thread_id = await ended()
    await finishes.database.save_insights(thread_id, {"status": "ok", "data": {"first": True}})
    await finishes.database.save_insights(thread_id, {"status": "ok", "data": {"first": False}})
    await finishes.steps.extract_insights(thread_id)
    assert (await finishes.thread(thread_id)).insights == {"status": "ok", "data": {"first": True}}
    assert finishes.model.asked == 0


async def test_a_call_completes_when_extracting_breaks(finishes: Finishes, ended: Ended) -> None:
    thread_id = await ended()
    finishes.model.failure = RuntimeError("a mistake of ours")
    for step in finishes.steps.all:
        await step(thread_id)
    thread = await finishes.thread(thread_id)
    assert thread.status is Status.COMPLETED
    assert thread.insights == {"status": "failed", "reason": "internal_error"}


async def test_a_thread_that_went_with_its_key_is_nobodys_trouble(
    finishes: Finishes, ended: Ended, postgres_url: str
) -> None:
    thread_id = await ended()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("delete from api_keys")
    for step in finishes.steps.all:
        await step(thread_id)
    assert finishes.told == []


async def test_a_process_without_a_postgres_of_its_own_finishes_its_calls_by_itself(
    finishes: Finishes, ended: Ended, tmp_path: Path
) -> None:
    """Over Supabase's API alone there is nowhere to keep workflows: the same steps run at once."""
    thread_id = await ended()
    here = InThisProcess(finishes.steps)
    finish = FinishCall(finishes.database, finishes.recorder, here.start)
    await finish(thread_id, Ending(EndReason.CALLER_HUNG_UP))
    await finish(thread_id, Ending(EndReason.CALLER_HUNG_UP))
    assert (await finishes.thread(thread_id)).status is Status.COMPLETED
    assert finishes.model.asked == 1
