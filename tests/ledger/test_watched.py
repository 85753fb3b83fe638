"""How long events wait for the ledger, and what is said of those it does not take."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prometheus_client import CollectorRegistry

from flow.db.database import Database, Recorded
from flow.domain.usage.events import UsageEvent
from flow.errors import DatabaseUnavailable
from flow.ledger.recorder import Recorder
from flow.telemetry.ledger_lag import FlushWatch
from flow.telemetry.metric_definitions import Metrics
from tests.ledger.conftest import NewOwner, llm_event, priced
from tests.ledger.test_recorder import Faulty


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A recorder over the real ledger behind a faulty line, with its metrics."""

    def __init__(self, ledger: Any, directory: Path) -> None:
        self.clock = Clock()
        self.registry = CollectorRegistry()
        self.watch = FlushWatch(Metrics(self.registry), self.clock)
        self.recorder = Recorder(
            ledger, directory, price=priced, on_recorded=_ignore, watch=self.watch
        )

    def __getitem__(self, name: str) -> float | None:
        return self.registry.get_sample_value(name)


def _ignore(_events: Sequence[UsageEvent], _recorded: Recorded) -> None: ...


async def test_the_wait_is_from_the_record_to_the_commit(
    database: Database, new_owner: NewOwner, tmp_path: Path
) -> None:
    owner, line = await new_owner(), Faulty(database)
    line.before = [DatabaseUnavailable(), DatabaseUnavailable()]
    watched = Watched(line, tmp_path)
    watched.recorder.record(llm_event(owner))
    watched.clock.now += 7
    watched.recorder.record(llm_event(owner))
    assert watched.watch.oldest_secs == 7
    watched.recorder.start()
    assert await watched.recorder.drain(owner.workflow_thread_id, 30)
    await watched.recorder.close()
    assert watched["flow_flush_lag_seconds_count"] == 2
    assert watched["flow_flush_lag_seconds_sum"] == 7
    assert watched["flow_flush_failures_total"] == 2
    assert watched["flow_rejected_events_total"] == 0
    assert watched.watch.oldest_secs == 0


async def test_what_the_ledger_does_not_take_is_counted_and_waits_no_longer(
    database: Database, new_owner: NewOwner, tmp_path: Path
) -> None:
    owner, line = await new_owner(), Faulty(database)
    line.poison = {"poison"}
    watched = Watched(line, tmp_path)
    poisoned = replace(llm_event(owner), model="poison")
    unknown = llm_event(replace(await new_owner(), workflow_thread_id=uuid4()))
    for event in (llm_event(owner), poisoned, unknown):
        watched.recorder.record(event)
    watched.clock.now += 1
    watched.recorder.start()
    assert await watched.recorder.drain(owner.workflow_thread_id, 30)
    await watched.recorder.close()
    assert watched["flow_rejected_events_total"] == 2
    assert watched.watch.oldest_secs == 0


async def test_a_line_nobody_can_read_does_not_wait_for_ever(
    database: Database, new_owner: NewOwner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow.ledger.recorder.MOST_RECENT", 0)
    owner = await new_owner()
    watched = Watched(Faulty(database), tmp_path)
    watched.recorder.record(llm_event(owner))
    (spool,) = tmp_path.glob("*.jsonl")
    size = spool.stat().st_size
    with spool.open("r+b") as file:
        file.write(b"x" * (size - 1))
    watched.clock.now += 5
    watched.recorder.record(second := llm_event(owner))
    watched.recorder.start()
    async with asyncio.timeout(20):
        while watched.watch.oldest_secs:
            await asyncio.sleep(0.05)
    await watched.recorder.close(1)
    readable = await database.get_thread_usage(owner.workflow_thread_id)
    assert [row["id"] for row in readable] == [str(second.id)]


def test_of_many_that_wait_the_oldest_is_known() -> None:
    clock = Clock()
    watch = FlushWatch(Metrics(CollectorRegistry()), clock, most=3)
    for number in range(10):
        watch.recorded(UUID(int=number))
        clock.now += 1
    assert watch.oldest_secs == 10
    watch.committed([UUID(int=0)], is_all=False)
    assert watch.oldest_secs == 9
    watch.committed([UUID(int=number) for number in range(1, 10)], is_all=True)
    assert watch.oldest_secs == 0
