"""Service processes that die: what they leave is brought to its end by others, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from flow.db.database import Database
from flow.domain.calls.thread import Status, Thread
from flow.sandbox.all_vendors import Vendors
from flow.sandbox.callers.caller import call
from flow.sandbox.callers.conversation import CallerEvent, EventKind
from flow.sandbox.faults import Fault
from flow.sandbox.reconcile import reconcile
from tests.calls.holding import held_at, somebody_waits
from tests.calls.own_bots import OWN, by_bot
from tests.calls.processes import flow_serve, flow_worker
from tests.calls.test_call import JOIN, LONG, SHORT, stood_in

SETTLE_SECS = 90.0
ENDS = "new.status = 'ended' and old.status = 'in_call'"
INSIGHTS = "new.insights is distinct from old.insights"
SETTLES = "new.status in ('completed', 'failed')"


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a call: the database, the vendors' bill, and the thread."""

    database: Database
    standing: Vendors
    thread_id: UUID

    async def settled(self) -> Thread:
        async with asyncio.timeout(SETTLE_SECS):
            while True:
                thread = await self.database.get_workflow_thread_data(self.thread_id)
                if thread.status.is_final:
                    return thread
                await asyncio.sleep(0.1)

    async def conserved(self) -> list[dict[str, Any]]:
        """The ledger's rows once they agree with the bill, which the last spool may yet bring."""
        async with asyncio.timeout(SETTLE_SECS):
            lines = await self.standing.openai.bill.settled()
        async with asyncio.timeout(SETTLE_SECS):
            while True:
                rows = await self.database.get_thread_usage(self.thread_id)
                thread = await self.database.get_workflow_thread_data(self.thread_id)
                if all(one.agrees for one in reconcile(rows, lines)):
                    break
                await asyncio.sleep(0.2)
        # A call whose process was killed before its first sign of life has no seconds.
        assert {row["kind"] for row in rows if row["total_cost_usd"] is None} <= {"call"}
        total = sum((Decimal(row["total_cost_usd"] or 0) for row in rows), Decimal(0))
        assert Decimal(thread.usage_stats["total_cost_usd"]) == total > 0
        assert len({row["id"] for row in rows}) == len(rows)
        return rows

    @property
    def asked_for_insights(self) -> int:
        return sum(
            line.kind == "llm" and line.requested_model == "gpt-4.1-mini"
            for line in self.standing.openai.bill.lines
        )


@pytest.mark.parametrize(
    ("speaking_secs", "bot"),
    [(0.2, None), (3.0, None), (3.0, "usual")],
    ids=["at-once", "in-mid-reply", "a-bot-of-ones-own"],
)
async def test_a_call_whose_process_is_killed_is_finished_by_the_next(
    speaking_secs: float, bot: str | None, database: Database, postgres_url: str, tmp_path: Path
) -> None:
    script = replace(LONG, token_secs=0.05)
    loop = asyncio.get_running_loop()
    thread_id = ""
    async with stood_in(script) as standing:
        async with flow_serve(standing, postgres_url, tmp_path, FLOW_BOTS=OWN) as first:
            said = False

            def hear(event: CallerEvent) -> None:
                nonlocal said, thread_id
                if event.kind is EventKind.JOINED:
                    thread_id = event.detail
                said = said or event.kind is EventKind.LINE_ENDED
                if said and event.kind is EventKind.BOT_STARTED:
                    loop.call_later(speaking_secs, first.kill)

            with suppress(Exception):
                join = by_bot(JOIN, bot)
                await call(first.url, standing.api_key, script, join=join, on_progress=hear)
        left = Left(database, standing, UUID(thread_id))
        async with flow_serve(standing, postgres_url, tmp_path):
            thread = await left.settled()
            rows = await left.conserved()
    assert thread.status is Status.FAILED
    assert (thread.error or {})["code"] == thread.end_reason == "process_lost"
    assert [turn.role for turn in thread.transcript][:2] == ["assistant", "user"]
    assert thread.insights is not None
    assert thread.insights["status"] == "ok"
    assert left.asked_for_insights == 1
    assert {row["kind"] for row in rows} == {"llm", "tts", "stt", "call"}
    (generation,) = [r for r in rows if r["kind"] == "llm" and r["source"] == "bot"]
    assert (generation["provenance"], generation["outcome"]) == ("estimated", "interrupted")


@asynccontextmanager
async def killed_after_a_call(
    change: str, database: Database, postgres_url: str, folder: Path
) -> AsyncIterator[Left]:
    """A short call whose process is killed while an update of its thread is held up."""
    async with stood_in(SHORT) as standing:
        with held_at(postgres_url, change):
            async with flow_serve(standing, postgres_url, folder) as first:
                report = await call(first.url, standing.api_key, SHORT, join=JOIN)
                await somebody_waits(postgres_url)
                await first.killed()
        yield Left(database, standing, UUID(report.workflow_thread_id))


@pytest.mark.parametrize(
    ("change", "status", "asked"),
    [
        pytest.param(ENDS, Status.FAILED, 1, id="while-its-end-is-noted"),
        pytest.param(INSIGHTS, Status.COMPLETED, 2, id="between-asking-and-storing"),
    ],
)
async def test_a_process_killed_in_a_step_leaves_it_to_the_next(
    change: str,
    status: Status,
    asked: int,
    database: Database,
    postgres_url: str,
    tmp_path: Path,
) -> None:
    """An answer that was stored nowhere is asked for again; both are in the account."""
    async with (
        killed_after_a_call(change, database, postgres_url, tmp_path) as left,
        flow_serve(left.standing, postgres_url, tmp_path),
    ):
        thread = await left.settled()
        rows = await left.conserved()
    assert thread.status is status
    assert len(thread.transcript) == 3
    assert thread.insights is not None
    assert thread.insights["status"] == "ok"
    assert left.asked_for_insights == asked
    assert sum(row["source"] == "insights" for row in rows) == asked


async def test_insights_that_were_stored_are_not_asked_for_again(
    database: Database, postgres_url: str, tmp_path: Path
) -> None:
    """The process dies when they are stored and DBOS has yet to hear that the step is done."""
    async with stood_in(SHORT) as standing:
        standing.openai.faults.add(Fault(kind="delay", delay_secs=3.0, route="*/chat/*", skip=1))
        async with flow_serve(standing, postgres_url, tmp_path) as first:
            with psycopg.connect(postgres_url) as connection:
                report = await call(first.url, standing.api_key, SHORT, join=JOIN)
                connection.execute("lock table dbos.operation_outputs in exclusive mode")
                left = Left(database, standing, UUID(report.workflow_thread_id))
                async with asyncio.timeout(SETTLE_SECS):
                    while not (await database.get_workflow_thread_data(left.thread_id)).insights:
                        await asyncio.sleep(0.05)
                await first.killed()
        async with flow_serve(standing, postgres_url, tmp_path):
            thread = await left.settled()
            await left.conserved()
    assert thread.status is Status.COMPLETED
    assert left.asked_for_insights == 1


async def test_another_host_recovers_what_a_dead_one_had_begun(
    database: Database, postgres_url: str, tmp_path: Path
) -> None:
    """With ``flow worker``, whose data folder is its own; the minutes are let pass at once."""
    async with killed_after_a_call(SETTLES, database, postgres_url, tmp_path / "dead") as left:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(
                "update workflow_executors set heartbeat_at = now() - interval '10 minutes'"
            )
        folder = tmp_path / "living"
        async with flow_worker(left.standing, postgres_url, folder, FLOW_HEARTBEAT_SECS="1"):
            thread = await left.settled()
            await left.conserved()
    assert thread.status is Status.COMPLETED
    assert left.asked_for_insights == 1


async def test_a_worker_finishes_the_calls_of_a_process_that_only_serves(
    database: Database, postgres_url: str, tmp_path: Path
) -> None:
    async with (
        stood_in(SHORT) as standing,
        flow_worker(standing, postgres_url, tmp_path),
        flow_serve(standing, postgres_url, tmp_path, FLOW_WORKFLOWS="off") as serving,
    ):
        report = await call(serving.url, standing.api_key, SHORT, join=JOIN)
        left = Left(database, standing, UUID(report.workflow_thread_id))
        thread = await left.settled()
        await left.conserved()
    assert thread.status is Status.COMPLETED
    assert left.asked_for_insights == 1
