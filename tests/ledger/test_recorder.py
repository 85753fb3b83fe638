"""The recorder against a real ledger: nothing lost, nothing counted twice, nobody kept waiting."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flow.db.database import Database, Recorded
from flow.domain.usage.events import Outcome, Owner, Provenance, UsageEvent
from flow.errors import DatabaseUnavailable
from flow.ledger.recorder import Recorder
from flow.ledger.spool import MAX_LINE_BYTES, Spool
from tests.ledger.conftest import NewOwner, llm_event, priced

Heard = list[tuple[Sequence[UsageEvent], Recorded]]


class Faulty:
    """The real ledger behind a line that fails when told to."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.before: list[Exception] = []
        self.after: list[Exception] = []
        self.poison: set[str] = set()
        self.calls = 0

    async def record_usage(self, events: Sequence[UsageEvent]) -> Recorded:
        self.calls += 1
        if self.before:
            raise self.before.pop(0)
        if any(event.model in self.poison for event in events):
            raise ValueError("cannot take this")
        recorded = await self._database.record_usage(events)
        if self.after:
            raise self.after.pop(0)
        return recorded


@asynccontextmanager
async def recording(
    ledger: Any, directory: Path, heard: Heard | None = None, price: Callable[..., Any] = priced
) -> AsyncIterator[Recorder]:
    def hear(events: Sequence[UsageEvent], recorded: Recorded) -> None:
        if heard is not None:
            heard.append((events, recorded))

    recorder = Recorder(ledger, directory, price=price, on_recorded=hear)
    recorder.start()
    try:
        yield recorder
    finally:
        await recorder.close(10)


async def ledger_of(database: Database, owner: Owner) -> list[dict[str, Any]]:
    return await database.get_thread_usage(owner.workflow_thread_id)


async def test_a_recorded_event_reaches_the_ledger_priced(
    database: Database, new_owner: NewOwner, tmp_path: Path
) -> None:
    owner = await new_owner()
    event = llm_event(owner)
    async with recording(database, tmp_path) as recorder:
        recorder.record(event)
        assert await recorder.drain(owner.workflow_thread_id, 10)
    (row,) = await ledger_of(database, owner)
    assert row["id"] == str(event.id)
    assert Decimal(row["total_cost_usd"]) == Decimal("0.01")


async def test_nothing_is_left_on_disk_once_all_is_acknowledged(
    database: Database, new_owner: NewOwner, tmp_path: Path
) -> None:
    owner = await new_owner()
    async with recording(database, tmp_path) as recorder:
        recorder.record(llm_event(owner))
    assert list(tmp_path.iterdir()) == []


async def test_a_burst_goes_in_few_calls(
    database: Database, new_owner: NewOwner, tmp_path: Path
) -> None:
    owner = await new_owner()
    ledger = Faulty(database)
    async with recording(ledger, tmp_path) as recorder:
        for _ in range(800):
            recorder.record(llm_event(owner))
    assert len(await ledger_of(database, owner)) == 800
    assert ledger.calls <= 4


@pytest.mark.parametrize("most_recent", [0, 1, 30, 2_000])
async def test_what_is_in_memory_and_what_is_on_the_disk_alone_go_once_and_in_order(
    most_recent: int,
    database: Database,
    new_owner: NewOwner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flow.ledger.recorder.MOST_RECENT", most_recent)
    monkeypatch.setattr("flow.ledger.recorder.BATCH", 7)
    monkeypatch.setattr("flow.ledger.recorder.TRIM_BYTES", 2_000)
    owner = await new_owner()
    ledger = Faulty(database)
    ledger.before = [DatabaseUnavailable()]
    heard: Heard = []
    events = [llm_event(owner) for _ in range(100)]
    async with recording(ledger, tmp_path, heard) as recorder:
        recorder.begin(llm_event(owner))  # open all the while
        for n, event in enumerate(events):
            recorder.record(event)
            if n % 40 == 0:
                await asyncio.sleep(0.02)
        assert await recorder.drain(owner.workflow_thread_id, 20)
    assert [event.id for batch, _ in heard for event in batch] == [event.id for event in events]
    assert len(await ledger_of(database, owner)) == 100


@pytest.mark.parametrize("lost", ["request", "answer"])
async def test_an_unavailable_ledger_delays_but_neither_loses_nor_doubles(
    lost: str, database: Database, new_owner: NewOwner, tmp_path: Path
) -> None:
    owner = await new_owner()
    ledger = Faulty(database)
    (ledger.before if lost == "request" else ledger.after).extend(
        [DatabaseUnavailable(), DatabaseUnavailable()]
    )
    heard: Heard = []
    async with recording(ledger, tmp_path, heard) as recorder:
        recorder.record(llm_event(owner))
        assert await recorder.drain(owner.workflow_thread_id, 10)
    assert len(await ledger_of(database, owner)) == 1
    thread = await database.get_workflow_thread_data(owner.workflow_thread_id)
    assert thread.usage_stats["llm_calls"] == 1
    assert len(heard) == 1


async def test_one_event_the_ledger_cannot_take_does_not_hold_up_the_rest(
    database: Database, new_owner: NewOwner, tmp_path: Path
) -> None:
    owner = await new_owner()
    ledger = Faulty(database)
    ledger.poison = {"poison"}
    bad = UsageEvent(**{**_fields(llm_event(owner)), "model": "poison"})
    async with recording(ledger, tmp_path) as recorder:
        recorder.record(llm_event(owner))
        recorder.record(bad)
        recorder.record(llm_event(owner))
        assert await recorder.drain(owner.workflow_thread_id, 10)
    assert len(await ledger_of(database, owner)) == 2
    kept = json.loads((tmp_path / "quarantine.ndjson").read_text())
    assert json.loads(kept["line"])["event"]["id"] == str(bad.id)


async def test_drain_says_when_time_ran_out(
    database: Database, new_owner: NewOwner, tmp_path: Path
) -> None:
    owner = await new_owner()
    ledger = Faulty(database)
    ledger.before = [DatabaseUnavailable()] * 3
    async with recording(ledger, tmp_path) as recorder:
        recorder.record(llm_event(owner))
        assert not await recorder.drain(owner.workflow_thread_id, 0.05)
        assert await recorder.drain(owner.workflow_thread_id, 10)


async def test_what_cannot_be_sent_before_closing_is_sent_by_the_next_process(
    database: Database, new_owner: NewOwner, tmp_path: Path
) -> None:
    owner = await new_owner()
    ledger = Faulty(database)
    ledger.before = [DatabaseUnavailable()] * 100
    recorder = Recorder(ledger, tmp_path, price=priced, on_recorded=lambda *_: None)
    recorder.start()
    recorder.record(llm_event(owner))
    await recorder.close(0.1)
    assert await ledger_of(database, owner) == []
    async with recording(database, tmp_path) as successor:
        assert await successor.drain(owner.workflow_thread_id, 10)
    assert len(await ledger_of(database, owner)) == 1


KILLED = """
import json, os, signal, sys
from pathlib import Path
from flow.domain.usage.events import UsageEvent
from flow.ledger.recorder import Recorder
class Away:
    async def record_usage(self, events): raise AssertionError("never asked")
recorder = Recorder(Away(), Path(sys.argv[1]), price=lambda e: e, on_recorded=lambda *_: None)
for op, event in json.loads(sys.stdin.read()):
    getattr(recorder, op)(UsageEvent.from_json(event))
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_after(directory: Path, *steps: tuple[str, UsageEvent]) -> None:
    """A process that does ``steps`` on a recorder and is killed before anything is flushed."""
    script = json.dumps([(op, event.to_json()) for op, event in steps])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(directory)], input=script.encode(), check=False
    )
    assert done.returncode == -9


async def test_a_process_killed_between_spool_and_flush_loses_nothing(
    database: Database, new_owner: NewOwner, tmp_path: Path
) -> None:
    owner = await new_owner()
    events = [llm_event(owner) for _ in range(3)]
    killed_after(tmp_path, *(("record", event) for event in events))
    async with recording(database, tmp_path) as recorder:
        assert await recorder.drain(owner.workflow_thread_id, 10)
    assert {row["id"] for row in await ledger_of(database, owner)} == {str(e.id) for e in events}
    assert [path.name for path in tmp_path.iterdir()] == []


async def test_a_spool_replayed_after_its_events_arrived_adds_nothing(
    database: Database, new_owner: NewOwner, tmp_path: Path
) -> None:
    owner = await new_owner()
    event = llm_event(owner)
    await database.record_usage([priced(event)])
    killed_after(tmp_path, ("record", event))
    async with recording(database, tmp_path) as recorder:
        assert await recorder.drain(owner.workflow_thread_id, 10)
    assert len(await ledger_of(database, owner)) == 1
    thread = await database.get_workflow_thread_data(owner.workflow_thread_id)
    assert thread.usage_stats["llm_calls"] == 1


async def test_work_that_was_under_way_in_a_killed_process_is_counted_as_estimated(
    database: Database, new_owner: NewOwner, tmp_path: Path
) -> None:
    owner = await new_owner()
    under_way, done, dropped = (llm_event(owner) for _ in range(3))
    killed_after(
        tmp_path,
        ("begin", under_way),
        ("begin", done),
        ("begin", dropped),
        ("record", done),
        ("discard", dropped),
    )
    async with recording(database, tmp_path) as recorder:
        assert await recorder.drain(owner.workflow_thread_id, 10)
    rows = {row["id"]: row for row in await ledger_of(database, owner)}
    assert set(rows) == {str(under_way.id), str(done.id)}
    assert rows[str(done.id)]["provenance"] == Provenance.REPORTED
    assert rows[str(under_way.id)]["provenance"] == Provenance.ESTIMATED
    assert rows[str(under_way.id)]["outcome"] == Outcome.INTERRUPTED


async def test_a_spool_with_a_torn_or_foreign_line_yields_the_rest_and_keeps_the_line(
    database: Database, new_owner: NewOwner, tmp_path: Path
) -> None:
    owner = await new_owner()
    orphan = Spool.create(tmp_path)
    orphan.append("event", {"not": "an event"})
    orphan.append("event", llm_event(owner).to_json())
    path = orphan.path
    orphan.close()
    with path.open("ab") as file:
        file.write(b'{"op":"event","event":{"id":"')
    async with recording(database, tmp_path) as recorder:
        assert await recorder.drain(owner.workflow_thread_id, 10)
    assert len(await ledger_of(database, owner)) == 1
    assert len((tmp_path / "quarantine.ndjson").read_text().splitlines()) == 2


async def test_a_line_without_an_end_goes_to_the_quarantine_cut(
    database: Database, new_owner: NewOwner, tmp_path: Path
) -> None:
    owner = await new_owner()
    orphan = Spool.create(tmp_path)
    orphan.append("event", llm_event(owner).to_json())
    path = orphan.path
    orphan.close()
    with path.open("ab") as file:
        file.write(b"x" * (60 << 20))
    async with recording(database, tmp_path) as recorder:
        assert await recorder.drain(owner.workflow_thread_id, 10)
    assert len(await ledger_of(database, owner)) == 1
    kept = json.loads((tmp_path / "quarantine.ndjson").read_text())
    assert len(kept["line"]) == MAX_LINE_BYTES
    assert str(60 << 20) in kept["reason"]
    assert not path.exists()


async def test_a_spool_that_cannot_be_read_is_left_and_keeps_no_service_from_starting(
    database: Database, new_owner: NewOwner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> None:
        raise OSError(5, "Input/output error")

    orphan = Spool.create(tmp_path)
    orphan.append("event", {"n": 1})
    orphan.close()
    (tmp_path / "0.jsonl").mkdir()
    monkeypatch.setattr(Spool, "read", unreadable)
    recorder = Recorder(database, tmp_path, price=priced, on_recorded=lambda *_: None)
    recorder.start()
    monkeypatch.undo()
    await recorder.close()
    assert orphan.path.exists()
    (again,) = Spool.orphans(tmp_path)
    assert again.path == orphan.path


async def test_an_event_whose_price_cannot_be_found_out_is_recorded_unpriced(
    database: Database, new_owner: NewOwner, tmp_path: Path
) -> None:
    def broken(event: UsageEvent) -> UsageEvent:
        raise RuntimeError("no prices today")

    owner = await new_owner()
    async with recording(database, tmp_path, price=broken) as recorder:
        recorder.record(llm_event(owner))
        assert await recorder.drain(owner.workflow_thread_id, 10)
    (row,) = await ledger_of(database, owner)
    assert row["total_cost_usd"] is None


async def test_when_the_disk_fails_events_still_reach_the_ledger(
    database: Database, new_owner: NewOwner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    owner = await new_owner()
    async with recording(database, tmp_path) as recorder:
        monkeypatch.setattr(Spool, "append", full)
        recorder.record(llm_event(owner))
        recorder.record(llm_event(owner))
        assert await recorder.drain(owner.workflow_thread_id, 10)
    assert len(await ledger_of(database, owner)) == 2


async def test_listeners_that_fail_do_not_stop_the_recorder(
    database: Database, new_owner: NewOwner, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("analytics is broken")

    owner = await new_owner()
    recorder = Recorder(database, tmp_path, price=priced, on_recorded=fail)
    recorder.start()
    for _ in range(2):
        recorder.record(llm_event(owner))
        assert await recorder.drain(owner.workflow_thread_id, 10)
    await recorder.close()
    await asyncio.sleep(0)
    assert len(await ledger_of(database, owner)) == 2


def _fields(event: UsageEvent) -> dict[str, Any]:
    return {name: getattr(event, name) for name in event.__slots__ if name != "id"}
