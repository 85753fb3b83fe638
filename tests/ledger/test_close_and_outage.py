"""What a recorder keeps on the disk: at its end, while the ledger is away, when adopting fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import pytest

from flow.db.database import Recorded
from flow.domain.calls.thread import ThreadTurn
from flow.domain.usage.events import Outcome, Owner, Provenance, UsageEvent
from flow.errors import DatabaseUnavailable
from flow.ledger.recorder import Recorder
from flow.ledger.spool import Spool
from tests.ledger.conftest import llm_event, priced

OWNER = Owner(UUID(int=1), UUID(int=2), "team_a", "voice_bot", True)
THREAD = UUID(int=1)
NO_DISK = OSError(5, "Input/output error")


class Ledger:
    """Takes everything, except while it is away."""

    def __init__(self, away: int = 0) -> None:
        self.away = away
        self.events: list[UsageEvent] = []

    async def record_usage(self, events: Sequence[UsageEvent]) -> Recorded:
        if self.away:
            self.away -= 1
            raise DatabaseUnavailable
        self.events += events
        return Recorded(frozenset(event.id for event in events), frozenset(), {}, {})

    async def save_turns(self, turns: Sequence[ThreadTurn]) -> frozenset[UUID]:
        return frozenset()


def recorder_of(ledger: Ledger, directory: Path) -> Recorder:
    return Recorder(ledger, directory, price=priced, on_recorded=lambda *_: None)


async def started(ledger: Ledger, directory: Path) -> Recorder:
    recorder = recorder_of(ledger, directory)
    recorder.start()
    return recorder


async def test_work_that_is_open_at_the_close_is_recorded_by_the_next_process(
    tmp_path: Path,
) -> None:
    ledger, event = Ledger(), llm_event(OWNER)
    first = await started(ledger, tmp_path)
    first.begin(event)
    first.record(llm_event(OWNER))
    await first.close()
    second = await started(ledger, tmp_path)
    assert await second.drain(THREAD, 5)
    await second.close()
    (cut,) = [one for one in ledger.events if one.id == event.id]
    assert (cut.outcome, cut.provenance) == (Outcome.INTERRUPTED, Provenance.ESTIMATED)
    # What had been sent may come again under its id: the ledger keeps one row of it.
    assert len({one.id for one in ledger.events}) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ends_by", ["record", "discard"])
async def test_work_that_is_over_leaves_nothing(ends_by: str, tmp_path: Path) -> None:
    ledger, event = Ledger(), llm_event(OWNER)
    first = await started(ledger, tmp_path)
    first.begin(event)
    first.begin(event)
    getattr(first, ends_by)(event)
    await first.close()
    assert list(tmp_path.iterdir()) == []


async def test_work_that_was_dropped_in_a_killed_process_is_not_recorded(tmp_path: Path) -> None:
    kept, dropped = llm_event(OWNER), llm_event(OWNER)
    left = recorder_of(Ledger(), tmp_path)
    for event in (kept, dropped):
        left.begin(event)
    left.discard(dropped)
    await left.close()
    ledger = Ledger()
    next_one = await started(ledger, tmp_path)
    assert await next_one.drain(THREAD, 5)
    await next_one.close()
    assert [event.id for event in ledger.events] == [kept.id]


@pytest.mark.parametrize("disk", ["works", "fails"])
async def test_while_the_ledger_is_away_the_disk_is_told_to_keep_what_it_has(
    disk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = asyncio.Event()
    loop = asyncio.get_running_loop()

    def sync(self: Spool) -> None:
        loop.call_soon_threadsafe(synced.set)
        if disk == "fails":
            raise NO_DISK

    monkeypatch.setattr(Spool, "sync", sync)
    ledger = Ledger(away=1)
    recorder = await started(ledger, tmp_path)
    recorder.record(llm_event(OWNER))
    await asyncio.wait_for(synced.wait(), 5)
    assert await recorder.drain(THREAD, 5)
    assert len(ledger.events) == 1
    await recorder.close()


async def test_a_disk_that_does_not_trim_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trim(*_: object, **__: object) -> None:
        raise NO_DISK

    monkeypatch.setattr(Spool, "trim", trim)
    ledger = Ledger()
    recorder = await started(ledger, tmp_path)
    for _ in range(2):
        recorder.record(llm_event(OWNER))
        assert await recorder.drain(THREAD, 5)
    assert len(ledger.events) == 2
    await recorder.close()


async def test_what_could_not_be_adopted_to_the_disk_stays_for_another_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full: what was adopted is in memory alone until the ledger has it."""
    left = recorder_of(Ledger(), tmp_path)
    event = llm_event(OWNER)
    left.record(event)
    await left.close()
    (orphan,) = tmp_path.glob("*.jsonl")
    ledger = Ledger()
    recorder = recorder_of(ledger, tmp_path)
    monkeypatch.setattr(Spool, "append", _full)
    recorder.start()
    assert orphan.exists()
    assert await recorder.drain(THREAD, 5)
    monkeypatch.undo()
    await recorder.close()
    assert [one.id for one in ledger.events] == [event.id]
    assert orphan.exists()


async def test_an_adopted_spool_is_removed_once_all_of_it_is_in_the_own_one(
    tmp_path: Path,
) -> None:
    left = recorder_of(Ledger(), tmp_path)
    left.record(llm_event(OWNER))
    await left.close()
    (orphan,) = tmp_path.glob("*.jsonl")
    recorder = await started(Ledger(), tmp_path)
    assert not orphan.exists()
    await recorder.close()


async def test_what_is_in_memory_alone_goes_once_though_the_first_try_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(away=1)
    recorder = await started(ledger, tmp_path)
    monkeypatch.setattr(Spool, "append", _full)
    events = [llm_event(OWNER) for _ in range(3)]
    for event in events:
        recorder.record(event)
    assert recorder.depth == 3
    assert await recorder.drain(THREAD, 5)
    assert [one.id for one in ledger.events] == [one.id for one in events]
    assert recorder.depth == 0
    await recorder.close()


async def test_a_thread_is_drained_though_another_s_usage_waits(tmp_path: Path) -> None:
    ledger = Ledger(away=1_000)
    recorder = await started(ledger, tmp_path)
    recorder.record(llm_event(OWNER))
    assert await recorder.drain(UUID(int=99), 0.01)
    assert not await recorder.drain(THREAD, 0.01)
    ledger.away = 0
    assert await recorder.drain(THREAD, 10)
    await recorder.close()


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")


class Busy(Ledger):
    """Something else is recorded while a batch is on its way."""

    recorder: Recorder
    later: UsageEvent | None = None

    async def record_usage(self, events: Sequence[UsageEvent]) -> Recorded:
        if self.later is not None:
            later, self.later = self.later, None
            self.recorder.record(later)
        return await super().record_usage(events)


@pytest.mark.parametrize("disk", ["works", "full"])
async def test_what_comes_while_a_batch_is_on_its_way_goes_with_the_next(
    disk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, first = Busy(), llm_event(OWNER)
    ledger.later = later = llm_event(OWNER)
    ledger.recorder = recorder = await started(ledger, tmp_path)
    if disk == "full":
        monkeypatch.setattr(Spool, "append", _full)
    recorder.record(first)
    assert await recorder.drain(THREAD, 5)
    assert [one.id for one in ledger.events] == [first.id, later.id]
    await recorder.close()


async def test_the_pauses_of_an_outage_grow_to_five_seconds_and_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def shortly(secs: float) -> None:
        pauses.append(round(secs, 3))
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", shortly)
    ledger = Ledger()
    recorder = await started(ledger, tmp_path)
    for away in (9, 2):
        ledger.away = away
        recorder.record(llm_event(OWNER))
        assert await recorder.drain(THREAD, 5)
    await recorder.close()
    grown = [pause for pause in pauses if pause >= 0.1]
    assert grown == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 0.1, 0.2]
