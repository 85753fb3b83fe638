"""What is waited for after a call, and nothing done before: without a database, on fakes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from flow.domain.calls.ending import Ending, EndReason
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.room_call import Place
from flow.domain.calls.thread import Status, Thread
from flow.domain.webhooks.webhook import Answer, Claimed, Outcome
from flow.errors import CallTakenOver, DatabaseUnavailable
from flow.workflows.executors import Heartbeat
from flow.workflows.finish import FinishCall, Steps
from flow.workflows.process_identity import Identity
from flow.workflows.room_queue import RoomQueue, workflow_id
from flow.workflows.room_watch import SETTLING, RoomWatch
from flow.workflows.sweep import KEPT, UNUSED_SECS, Sweep
from flow.workflows.webhook_delivery import CONCURRENCY, PER_KEY, Deliverer

THREAD = UUID(int=7)
NOW = datetime(2026, 11, 30, tzinfo=UTC)
AWAY = DatabaseUnavailable
HUNG_UP = Ending(EndReason.CALLER_HUNG_UP)
HEARTBEAT_SECS = 3.0
SETTLE_SECS = SETTLING * HEARTBEAT_SECS


def a_thread(status: Status = Status.ENDED, **known: Any) -> Thread:
    told: dict[str, Any] = {
        "id": THREAD,
        "api_key_id": UUID(int=2),
        "team_id": "team_a",
        "product": "voice_bot",
        "billable": True,
        "status": status,
        "join": JoinRequest(),
        "transcript": (),
        "insights": None,
        "usage_stats": {},
        "metadata": {},
        "error": None,
        "end_reason": "caller_hung_up",
        "end_requested": False,
        "created_at": NOW,
        "connected_at": NOW,
        "ended_at": NOW,
        "completed_at": None,
    }
    return Thread(**{**told, **known})


class World:
    """The database, the ledger and the workflows, and what was asked of them in which order.

    ``undrained`` and ``away`` are how often draining fails, and how often the database does.
    """

    def __init__(self, undrained: int = 0, away: int = 0) -> None:
        self.done: list[str] = []
        self.undrained = undrained
        self.away = away
        self.thread = a_thread()

    async def drain(self, thread_id: UUID, timeout_secs: float) -> bool:
        self.undrained -= 1
        self.done.append("not drained" if self.undrained >= 0 else "drained")
        return self.undrained < 0

    async def get_workflow_thread_data(self, thread_id: UUID) -> Thread:
        return self.thread

    async def save_workflow_thread_data(self, thread_id: UUID, **new: Any) -> Thread:
        self._answer(f"save {new['status'].value}")
        return self.thread

    async def save_insights(self, thread_id: UUID, insights: dict[str, Any]) -> Thread:
        self._answer("save insights")
        return self.thread

    async def finish_thread(self, thread_id: UUID, status: Status, **_: Any) -> Thread:
        self._answer(status.value)
        return self.thread

    async def start(self, thread_id: UUID) -> None:
        self._answer("start")

    def _answer(self, what: str) -> None:
        self.away -= 1
        if self.away >= 0:
            raise AWAY
        self.done.append(what)

    def finish(self) -> FinishCall:
        return FinishCall(self, self, self.start)

    def steps(self) -> Steps:
        async def extract(*_: object) -> dict[str, Any]:
            return {"status": "ok"}

        return Steps(self, self, extract, lambda _: None)


WAITED = ["not drained", "not drained", "drained"]


async def test_a_call_is_handed_over_once_its_usage_is_in_the_ledger() -> None:
    world = World(undrained=2)
    assert await world.finish()(THREAD, HUNG_UP)
    assert world.done == ["save ended", *WAITED, "start"]


async def test_a_dead_process_s_call_is_handed_over_once_its_usage_is_in_the_ledger() -> None:
    world = World(undrained=2)
    await world.finish().take_up([THREAD])
    assert world.done == [*WAITED, "start"]


async def test_a_thread_is_settled_once_its_usage_is_in_the_ledger() -> None:
    world = World(undrained=2)
    await world.steps().settle(THREAD)
    assert world.done == [*WAITED, "completed"]


async def test_extracting_is_done_once_its_usage_is_in_the_ledger() -> None:
    world = World(undrained=2)
    await world.steps().extract_insights(THREAD)
    assert world.done == ["save extracting", "save insights", *WAITED]


@pytest.mark.parametrize("work", ["finish", "settle", "extract", "take_up"])
async def test_a_database_that_is_away_is_waited_for_after_a_call(
    work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow.workflows.finish.RETRY_SECS", 0)
    world = World(away=3)
    if work == "finish":
        await world.finish()(THREAD, HUNG_UP)
    elif work == "take_up":
        await world.finish().take_up([THREAD])
    else:
        step = world.steps()
        await (step.settle if work == "settle" else step.extract_insights)(THREAD)
    last = {"finish": "start", "take_up": "start", "settle": "completed", "extract": "drained"}
    assert world.done[-1] == last[work]


class Swept:
    """Threads that are always lost, and the database that is away at times."""

    def __init__(self, away: list[bool]) -> None:
        self._away = away
        self.expired_before: list[datetime] = []
        self.taken_over = 0
        self.forgotten: list[datetime] = []

    async def expire_threads(self, created_before: datetime) -> list[UUID]:
        if self._away.pop(0):
            raise AWAY
        self.expired_before.append(created_before)
        return []

    async def take_over_lost_threads(self, lost_secs: int, missing_secs: int) -> list[UUID]:
        self.taken_over += 1
        return []

    async def get_workflow_thread_data(self, thread_id: UUID) -> Thread:
        raise AssertionError

    async def finish_thread(self, *_: object, **__: object) -> Thread:
        raise AssertionError

    async def start(self, thread_id: UUID) -> None:
        raise AssertionError

    async def is_over(self, thread_id: UUID) -> bool:
        raise AssertionError

    async def forget(self, before: datetime) -> int:
        self.forgotten.append(before)
        return 0


TIMES = [
    pytest.param([False], [0], id="first"),
    pytest.param([False, False], [0, 1], id="second"),
    pytest.param([False, False, True, False, False], [0, 1, 1, 1, 2], id="after-an-outage"),
    pytest.param([True, False, False], [0, 0, 1], id="away-at-the-start"),
]


@pytest.mark.parametrize(("away", "takes"), TIMES)
async def test_a_sweep_takes_nothing_up_before_calls_could_say_that_they_live(
    away: list[bool], takes: list[int]
) -> None:
    swept = Swept(list(away))
    sweep = Sweep(swept, swept, 300)
    taken = []
    for _ in away:
        await sweep.once(NOW)
        taken.append(swept.taken_over)
    assert taken == takes


async def test_a_sweep_gives_a_caller_a_minute_beyond_the_token_s_life() -> None:
    swept = Swept([False, False])
    sweep = Sweep(swept, swept, 300)
    for _ in range(2):
        await sweep.once(NOW)
    assert UNUSED_SECS == 60
    assert swept.expired_before == [NOW - timedelta(seconds=360)] * 2
    assert swept.forgotten == [NOW - KEPT]


class Executors:
    """Somebody is always dead; the database is away at times."""

    def __init__(self, away: list[bool]) -> None:
        self._away = away
        self.buried = 0

    async def beat_executor(self, *_: object) -> list[str]:
        if self._away.pop(0):
            raise AWAY
        return ["a dead one"]

    async def forget_executor(self, executor: str, dead_secs: int) -> bool:
        self.buried += 1
        return True


@pytest.mark.parametrize(("away", "takes"), TIMES)
async def test_nobody_is_taken_for_dead_before_all_could_say_that_they_live(
    away: list[bool], takes: list[int]
) -> None:
    executors: Any = Executors(list(away))
    recovered: list[str] = []

    async def recover(name: str) -> int:
        recovered.append(name)
        return 1

    heartbeat = Heartbeat(executors, Identity("blue-0", "home"), recover)
    buried = []
    for _ in away:
        await heartbeat.once()
        buried.append(executors.buried)
    assert buried == takes
    assert len(recovered) == takes[-1]


CLAIMED = Claimed(
    event_id=uuid4(),
    type="thread.completed",
    api_key_id=uuid4(),
    workflow_thread_id=THREAD,
    url="https://hooks.example.com/",
    attempt=1,
    claim=uuid4(),
    payload="{}",
    secrets=("whsec_x",),
)


class Notes:
    """One event that is due, and notes that never arrive."""

    def __init__(self) -> None:
        self._due = [CLAIMED]
        self.tries = 0

    async def claim(self, **_: object) -> list[Claimed]:
        due, self._due = self._due, []
        return due

    async def note_delivered(self, *_: object) -> bool:
        return self._missed()

    async def note_failed(self, *_: object, **__: object) -> bool:
        return self._missed()

    def _missed(self) -> bool:
        self.tries += 1
        # Somebody else has the event long since.
        assert self.tries < 200
        raise AWAY


OUTCOMES = [Answer(Outcome.DELIVERED, 204), Answer(Outcome.FAILED, 503, "http 503")]


@pytest.mark.parametrize("answer", OUTCOMES, ids=lambda answer: answer.outcome.value)
async def test_what_cannot_be_noted_is_given_up_when_the_claim_is_over(
    answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow.workflows.webhook_delivery.RETRY_NOTE_SECS", 0.01)
    notes: Any = Notes()
    sent: list[Claimed] = []

    async def send(claimed: Claimed) -> Answer:
        sent.append(claimed)
        return answer

    deliverer = Deliverer(notes, send, lease_secs=0.05)
    assert await deliverer.once() == 1
    assert len(sent) == 1
    assert 2 <= notes.tries < 200


async def test_a_call_that_goes_on_elsewhere_is_not_finished_here() -> None:
    world = World()

    async def taken(thread_id: UUID, **_: Any) -> Thread:
        raise CallTakenOver

    assert not await world.finish()(THREAD, HUNG_UP, taken)
    assert world.done == []


class Endless(Notes):
    """There is always more that is due."""

    def __init__(self) -> None:
        super().__init__()
        self.limits: list[tuple[int, int]] = []

    async def claim(self, **asked: Any) -> list[Claimed]:
        self.limits.append((asked["limit"], asked["per_key"]))
        return [CLAIMED] * min(7, asked["limit"])

    async def note_delivered(self, *_: object) -> bool:
        return True


async def test_no_more_is_claimed_than_may_be_sent_at_once() -> None:
    events: Any = Endless()
    free, under_way = asyncio.Event(), 0

    async def send(_: Claimed) -> Answer:
        nonlocal under_way
        under_way += 1
        await free.wait()
        return OUTCOMES[0]

    deliverer = Deliverer(events, send)
    deliverer.start()
    async with asyncio.timeout(5):
        while under_way < CONCURRENCY:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.02)
    assert under_way == CONCURRENCY
    assert events.limits == [(20, PER_KEY), (13, PER_KEY), (6, PER_KEY)]
    closing = asyncio.create_task(deliverer.close())
    await asyncio.sleep(0.01)
    free.set()
    await closing


PLACE = Place(THREAD, UUID(int=2), attempt=1)


class Silent:
    """A call whose bot is silent, until somebody takes it up; the database is away at times."""

    def __init__(self) -> None:
        self.found = [PLACE]
        self.is_away = False
        self.put: list[Place] = []

    async def free_silent(self, silent_secs: int) -> list[Place]:
        if self.is_away:
            raise AWAY
        return self.found

    async def list_left(self, over_secs: int) -> list[Any]:
        return []

    async def forget(self, thread_id: UUID) -> None:
        raise AssertionError

    async def close(self, room: object) -> None:
        raise AssertionError

    async def take_up(self, place: Place) -> None:
        self.put.append(place)


async def test_a_silent_call_is_queued_once_for_as_long_as_it_waits() -> None:
    silent = Silent()
    watch = RoomWatch(silent, silent.take_up, silent.close)
    for now in (0, 2.5, 5):
        await watch.once(now)
    assert silent.put == [PLACE]
    silent.found = []
    await watch.once(7.5)
    silent.found = [PLACE]
    await watch.once(10)
    assert silent.put == [PLACE, PLACE]


@pytest.mark.parametrize(("later", "is_believed"), [(SETTLE_SECS - 0.1, 0), (SETTLE_SECS, 1)])
async def test_after_an_outage_silence_means_nothing_for_a_while(
    later: float, is_believed: int
) -> None:
    silent = Silent()
    watch = RoomWatch(silent, silent.take_up, silent.close, HEARTBEAT_SECS)
    silent.is_away = True
    await watch.once(100)
    silent.is_away = False
    await watch.once(100 + later)
    assert len(silent.put) == is_believed


class Workflows:
    """DBOS as a queue asks it."""

    def __init__(self, *running: str) -> None:
        self._running = running
        self.cancelled: list[str] = []
        self.queued: list[tuple[str, int]] = []

    def list_workflows(self, *, workflow_id_prefix: str, **_: object) -> list[Any]:
        return [
            SimpleNamespace(workflow_id=name)
            for name in self._running
            if name.startswith(workflow_id_prefix)
        ]

    def cancel_workflows(self, ids: list[str]) -> None:
        self.cancelled += ids

    def enqueue(self, options: Any, *_: object) -> None:
        self.queued.append((options["workflow_id"], options["priority"]))


@pytest.mark.parametrize(
    ("place", "cancelled", "priority"),
    [
        pytest.param(replace(PLACE, attempt=0), [], 2, id="a-caller-who-has-yet-to-come"),
        pytest.param(PLACE, [f"room:{THREAD}", f"room:{THREAD}.1"], 1, id="taken-up-anew"),
        pytest.param(replace(PLACE, tries=2), [], 1, id="another-try"),
    ],
)
async def test_a_call_that_is_taken_up_anew_goes_first_and_ends_what_was_before(
    place: Place, cancelled: list[str], priority: int
) -> None:
    now = workflow_id(place)
    client: Any = Workflows(f"room:{THREAD}", f"room:{THREAD}.1", now, f"{now}.1", "room:other")
    await RoomQueue(client).put(place)
    assert client.cancelled == cancelled
    assert client.queued == [(now, priority)]
