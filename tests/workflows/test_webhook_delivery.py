"""Webhooks arrive: whatever fails, whoever is killed, however many deliver at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from starlette.types import Message, Receive, Scope, Send
from structlog.testing import capture_logs

from flow.db.database import Database
from flow.db.postgres_transport import PostgresTransport
from flow.domain.calls.thread import Status
from flow.domain.limits.api_key import ApiKey
from flow.domain.webhooks.webhook import ATTEMPTS, PAUSES, Answer, Claimed, Delivery, Outcome, State
from flow.errors import DatabaseUnavailable
from flow.sandbox.faults import Fault
from flow.sandbox.server import Served, gone
from flow.sandbox.webhooks import WebhookReceiver
from flow.vendors.webhook_sender import WebhookSender
from flow.vendors.webhook_signing import new_secret
from flow.workflows.webhook_delivery import Deliverer
from tests.db.making import JOIN, a_key

OK = Answer(Outcome.DELIVERED, 204)
FAILED = Answer(Outcome.FAILED, 503, "http 503")
GONE = Answer(Outcome.GONE, 410, "http 410")
Attempt = Callable[[Claimed], Awaitable[Answer]]


class Clock:
    """A time that a test moves; it begins after everything that the database has stamped."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC) + timedelta(seconds=60)

    def __call__(self) -> datetime:
        return self.at


class Receiving:
    """A receiver that answers with what a test gives it, one after the other, then with 204."""

    def __init__(self, *answers: Answer) -> None:
        self.sent: list[Claimed] = []
        self._answers = list(answers)

    async def __call__(self, claimed: Claimed) -> Answer:
        self.sent.append(claimed)
        return self._answers.pop(0) if self._answers else OK


async def over(database: Database, key: ApiKey, url: str = "https://hooks.example.com/") -> UUID:
    """A thread that has failed, and of which somebody is to be told."""
    join = JOIN.model_copy(update={"webhook_url": url})
    made = await database.join_thread(
        key, uuid4(), join, billable=True, idempotency_key=None, fingerprint="f"
    )
    return (await database.finish_thread(made.thread.id, Status.FAILED)).id


async def only(database: Database) -> Delivery:
    (delivery,) = (await database.webhooks.list()).items
    return delivery


def outcomes(registry: CollectorRegistry) -> dict[str, float]:
    """The attempts counted, by outcome."""
    (metric,) = [one for one in registry.collect() if one.name == "flow_webhook_attempts"]
    totals = [one for one in metric.samples if one.name.endswith("_total")]
    return {one.labels["outcome"]: one.value for one in totals}


@asynccontextmanager
async def delivering(database: Database, send: Attempt, **given: Any) -> AsyncIterator[Deliverer]:
    deliverer = Deliverer(database.webhooks, send, registry=CollectorRegistry(), **given)
    deliverer.start()
    yield deliverer
    await deliverer.close()


async def until(condition: Callable[[], Awaitable[bool]], secs: float = 20) -> None:
    async with asyncio.timeout(secs):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_one_success_is_noted_and_nothing_sent_after_it(database: Database) -> None:
    key, registry, receiving = await a_key(database), CollectorRegistry(), Receiving()
    await over(database, key)
    deliverer = Deliverer(database.webhooks, receiving, registry=registry)
    with capture_logs() as logs:
        assert [await deliverer.once() for _ in range(2)] == [1, 0]
    delivery = await only(database)
    assert (delivery.state, delivery.attempts, delivery.last_status) == (State.DELIVERED, 1, 204)
    assert outcomes(registry) == {"delivered": 1}
    (sent,) = receiving.sent
    assert len(sent.secrets) == 1, "a key's first webhook makes its secret"
    assert sent.secrets[0] == (await database.webhooks.secrets(key.id, new_secret())).current
    assert [log["event"] for log in logs] == ["webhook_delivered"]
    assert sent.secrets[0] not in str(logs)


async def test_retries_follow_the_schedule_and_the_last_failure_is_dead(
    database: Database,
) -> None:
    await over(database, await a_key(database))
    clock, registry = Clock(), CollectorRegistry()
    receiving = Receiving(*[FAILED] * 30)
    deliverer = Deliverer(
        database.webhooks, receiving, registry=registry, clock=clock, chance=lambda: 0.5
    )
    start = clock.at
    waits: list[timedelta] = []
    with capture_logs() as logs:
        while True:
            assert await deliverer.once() == 1
            delivery = await only(database)
            if delivery.next_attempt_at is None:
                break
            waits.append(delivery.next_attempt_at - clock.at)
            clock.at = delivery.next_attempt_at - timedelta(milliseconds=1)
            assert await deliverer.once() == 0, "not before its time"
            clock.at = delivery.next_attempt_at
    assert waits == list(PAUSES)
    assert timedelta(days=3) < clock.at - start < timedelta(days=3, hours=6)
    assert (delivery.state, delivery.attempts) == (State.DEAD, ATTEMPTS)
    assert (delivery.last_status, delivery.last_error) == (503, "http 503")
    assert outcomes(registry) == {"failed": ATTEMPTS - 1, "dead": 1}
    assert logs[-1]["event"] == "webhook_dead"
    assert len({one.event_id for one in receiving.sent}) == 1
    assert len({one.payload for one in receiving.sent}) == 1


@pytest.mark.parametrize("chance", [0.0, 1.0])
async def test_what_failed_together_is_spread(database: Database, chance: float) -> None:
    await over(database, await a_key(database))
    clock = Clock()
    deliverer = Deliverer(
        database.webhooks,
        Receiving(FAILED),
        registry=CollectorRegistry(),
        clock=clock,
        chance=lambda: chance,
    )
    await deliverer.once()
    next_attempt_at = (await only(database)).next_attempt_at
    assert next_attempt_at == clock.at + PAUSES[0] * (0.8 if chance == 0.0 else 1.2)


@pytest.mark.parametrize(
    ("asked", "waited"),
    [
        (timedelta(seconds=1), PAUSES[0]),
        (timedelta(minutes=10), timedelta(minutes=10)),
        (timedelta(days=400), timedelta(days=1)),
        (timedelta(seconds=-30), PAUSES[0]),
    ],
    ids=str,
)
async def test_a_receiver_that_names_a_time_is_given_it_up_to_a_day(
    database: Database, asked: timedelta, waited: timedelta
) -> None:
    await over(database, await a_key(database))
    clock = Clock()
    busy = Answer(Outcome.FAILED, 429, "http 429", asked)
    deliverer = Deliverer(
        database.webhooks,
        Receiving(busy),
        registry=CollectorRegistry(),
        clock=clock,
        chance=lambda: 0.5,
    )
    await deliverer.once()
    assert (await only(database)).next_attempt_at == clock.at + waited


async def test_a_receiver_that_is_gone_is_left_alone_until_a_replay(database: Database) -> None:
    await over(database, await a_key(database))
    clock, receiving = Clock(), Receiving(GONE)
    deliverer = Deliverer(database.webhooks, receiving, registry=CollectorRegistry(), clock=clock)
    assert await deliverer.once() == 1
    dead = await only(database)
    assert (dead.state, dead.attempts, dead.last_status) == (State.DEAD, 1, 410)
    clock.at += timedelta(days=30)
    assert await deliverer.once() == 0
    await database.webhooks.replay(dead.event_id)
    assert await deliverer.once() == 1
    assert (await only(database)).state is State.DELIVERED
    assert receiving.sent[0].event_id == receiving.sent[1].event_id


class Notes:
    """The database's calls, of which some fail."""

    def __init__(self, database: Database, failures: int) -> None:
        self._webhooks = database.webhooks
        self.left = failures

    def __getattr__(self, name: str) -> Any:
        return getattr(self._webhooks, name)

    async def note_delivered(self, *args: Any) -> bool:
        noted = await self._webhooks.note_delivered(*args) if self.left % 2 else False
        if self.left:
            self.left -= 1
            raise DatabaseUnavailable
        return noted or await self._webhooks.note_delivered(*args)


@pytest.mark.parametrize("failures", [1, 2], ids=["answer-lost", "not-reached"])
async def test_a_note_is_repeated_while_the_database_is_away(
    database: Database, failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow.workflows.webhook_delivery.RETRY_NOTE_SECS", 0.01)
    await over(database, await a_key(database))
    receiving, notes = Receiving(), Notes(database, failures)
    deliverer = Deliverer(notes, receiving, registry=CollectorRegistry())
    assert await deliverer.once() == 1
    assert (notes.left, len(receiving.sent)) == (0, 1)
    assert (await only(database)).state is State.DELIVERED


async def test_a_database_that_is_away_is_waited_for(database: Database, postgres_url: str) -> None:
    await over(database, await a_key(database))
    receiving = Receiving()

    class Away:
        def __init__(self) -> None:
            self.left = 2

        def __getattr__(self, name: str) -> Any:
            return getattr(database.webhooks, name)

        async def claim(self, **given: Any) -> Any:
            if self.left:
                self.left -= 1
                raise DatabaseUnavailable
            return await database.webhooks.claim(**given)

    deliverer = Deliverer(Away(), receiving, registry=CollectorRegistry())
    with capture_logs() as logs:
        deliverer.start()
        while not receiving.sent:
            deliverer.nudge()
            await asyncio.sleep(0.01)
        await deliverer.close()
    assert [log["event"] for log in logs].count("webhooks_wait") == 2


async def test_closing_lets_what_is_being_sent_come_to_its_note(database: Database) -> None:
    await over(database, await a_key(database))
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def send(claimed: Claimed) -> Answer:
        begun.set()
        await go_on.wait()
        return OK

    deliverer = Deliverer(database.webhooks, send, registry=CollectorRegistry())
    deliverer.start()
    await begun.wait()
    closing = asyncio.create_task(deliverer.close())
    await asyncio.sleep(0)
    go_on.set()
    await closing
    assert (await only(database)).state is State.DELIVERED


async def test_two_deliverers_race_and_each_event_arrives_once(
    database: Database, postgres_url: str
) -> None:
    keys = [await a_key(database) for _ in range(4)]
    app = WebhookReceiver()
    sender = WebhookSender(allow_private=True)
    other = Database(await PostgresTransport.open(postgres_url))
    async with Served(app) as url:
        with capture_logs():
            async with (
                delivering(database, sender.send),
                delivering(other, sender.send) as second,
            ):
                threads = [await over(database, keys[n % 4], f"{url}/{n}") for n in range(200)]

                async def all_delivered() -> bool:
                    second.nudge()
                    found = (await database.webhooks.list(limit=300)).items
                    return all(one.state is State.DELIVERED for one in found)

                await until(all_delivered, secs=60)
    await sender.aclose()
    await other.close()
    assert Counter(one.path for one in app.received) == {f"/{n}": 1 for n in range(200)}
    assert {one.data["workflow_thread_id"] for one in app.received} == set(map(str, threads))
    assert {one.attempts for one in (await database.webhooks.list(limit=300)).items} == {1}


PROGRAM = """
import asyncio, sys
from prometheus_client import CollectorRegistry
from flow.db.database import Database
from flow.db.postgres_transport import PostgresTransport
from flow.vendors.webhook_sender import WebhookSender
from flow.workflows.webhook_delivery import Deliverer

async def main():
    database = Database(await PostgresTransport.open(sys.argv[1]))
    send = WebhookSender(allow_private=True).send
    deliverer = Deliverer(database.webhooks, send, registry=CollectorRegistry(), lease_secs=1.0)
    deliverer.start()
    await asyncio.sleep(60)

asyncio.run(main())
"""


@asynccontextmanager
async def a_process(database_url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of its own that delivers."""
    nowhere = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, database_url, stdout=nowhere, env=dict(os.environ)
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()


class Mute:
    """A receiver that takes the first message and never says so."""

    def __init__(self, app: WebhookReceiver) -> None:
        self._app = app
        self._is_mute = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_mute, self._is_mute = self._is_mute, False

        async def answer(message: Message) -> None:
            if is_mute:
                await gone(receive)
            await send(message)

        await self._app(scope, receive, answer)


@pytest.mark.parametrize("taken", [False, True], ids=["before-it-was-taken", "after-it-was-taken"])
async def test_what_a_killed_process_was_sending_is_sent_again_under_its_id(
    database: Database, postgres_url: str, taken: bool
) -> None:
    key = await a_key(database)
    app = WebhookReceiver((await database.webhooks.secrets(key.id, new_secret())).current)
    if not taken:
        app.faults.add(Fault(kind="hang", times=1))
    async with Served(Mute(app) if taken else app) as url:
        await over(database, key, f"{url}/hook")

        async def arrived() -> bool:
            return len(app.received if taken else app.arrivals) == 1

        async def delivered() -> bool:
            return (await only(database)).state is State.DELIVERED

        async with a_process(postgres_url) as first:
            await until(arrived)
            first.send_signal(signal.SIGKILL)
            await first.wait()
        assert (await only(database)).delivered_at is None
        async with a_process(postgres_url):
            await until(delivered)
    assert len(app.arrivals) == (await only(database)).attempts == 2
    assert len({one.webhook_id for one in app.arrivals}) == 1
    assert len(app.received) == (2 if taken else 1)


STEPS = st.lists(
    st.sampled_from(["fail", "fail", "gone", "ok", "killed before", "killed after", "replay"]),
    max_size=24,
)


@given(steps=STEPS)
@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_every_event_ends_delivered_or_dead_whatever_happens_on_the_way(
    database: Database, steps: list[str]
) -> None:
    """Failures, receivers that are gone, deliverers killed before or after an event was taken."""
    key, clock = await a_key(database), Clock()
    thread_id = await over(database, key)
    left, taken = list(steps), 0

    async def send(claimed: Claimed) -> Answer:
        nonlocal taken
        step = left.pop(0) if left else "ok"
        if step in {"ok", "killed after"}:
            taken += 1
        if step.startswith("killed"):
            # Nobody is left to note anything.
            raise DatabaseUnavailable
        return {"fail": FAILED, "gone": GONE}.get(step, OK)

    deliverer = Deliverer(
        database.webhooks, send, registry=CollectorRegistry(), clock=clock, chance=lambda: 0.5
    )

    async def mine() -> Delivery:
        (delivery,) = (await database.webhooks.list(api_key_id=key.id)).items
        return delivery

    with capture_logs():
        for _ in range(len(steps) + ATTEMPTS + 1):
            while left and left[0] == "replay":
                left.pop(0)
                await database.webhooks.replay_dead(key.id, now=clock.at)
            await deliverer.once()
            delivery = await mine()
            assert delivery.workflow_thread_id == thread_id
            clock.at = delivery.next_attempt_at or clock.at
    assert delivery.state in {State.DELIVERED, State.DEAD}
    assert (delivery.delivered_at is None) != (delivery.dead_at is None)
    if delivery.state is State.DELIVERED:
        assert taken >= 1
