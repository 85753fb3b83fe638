"""The workflow in DBOS: run once, resumed after a stop, recovered by others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from flow.db.connection_url import url_of
from flow.errors import ConfigurationError, DatabaseUnavailable
from flow.workflows.executors import Heartbeat
from flow.workflows.finish_workflow import Executor, Finishing
from flow.workflows.process_identity import Identity
from tests.workflows.conftest import Ended, Finishes

PATIENCE_SECS = 30.0


class Recorded:
    """Two steps that say when they run; the second can be held up."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, UUID]] = []
        self.free = asyncio.Event()
        self.free.set()

    async def first(self, thread_id: UUID) -> None:
        self.ran.append(("first", thread_id))

    async def second(self, thread_id: UUID) -> None:
        self.ran.append(("second", thread_id))
        await self.free.wait()

    async def until(self, *names: str) -> None:
        async with asyncio.timeout(PATIENCE_SECS):
            while [name for name, _ in self.ran] != list(names):
                await asyncio.sleep(0.02)


@pytest.fixture
def url(postgres_url: str) -> str:
    return url_of(postgres_url, connect_timeout=3)


@pytest.fixture
async def finishing(url: str) -> AsyncIterator[Finishing]:
    finishing = await Finishing.open(url)
    yield finishing
    await finishing.close()


@asynccontextmanager
async def running(url: str, steps: Recorded | Any, name: str = "a-0") -> AsyncIterator[Executor]:
    every = steps.all if hasattr(steps, "all") else (steps.first, steps.second)
    executor = await Executor.launch(url, name, every)
    try:
        yield executor
    finally:
        await executor.close()


async def test_a_thread_is_finished_once_however_often_it_is_asked_for(
    url: str, finishing: Finishing, finishes: Finishes, ended: Ended
) -> None:
    thread_id = await ended()
    async with running(url, finishes.steps):
        await asyncio.gather(*(finishing.start(thread_id) for _ in range(5)))
        assert await finishing.settled(PATIENCE_SECS)
        await finishing.start(thread_id)
        assert await finishing.is_over(thread_id)
    assert (await finishes.thread(thread_id)).status == "completed"
    assert finishes.model.asked == len(finishes.told) == 1


async def test_a_stopped_workflow_goes_on_where_it_was_in_the_next_process(
    url: str, finishing: Finishing
) -> None:
    steps, thread_id = Recorded(), uuid4()
    steps.free.clear()
    async with running(url, steps):
        await finishing.start(thread_id)
        await steps.until("first", "second")
    steps.free.set()
    async with running(url, steps):
        assert await finishing.settled(PATIENCE_SECS)
    assert [name for name, _ in steps.ran] == ["first", "second", "second"]


async def test_the_living_take_up_what_the_dead_had_begun(
    url: str, finishing: Finishing, finishes: Finishes
) -> None:
    steps, thread_id = Recorded(), uuid4()
    steps.free.clear()
    async with running(url, steps, "dead-0"):
        await Heartbeat(finishes.database, Identity("dead-0", "a"), nobody).once()
        await finishing.start(thread_id)
        await steps.until("first", "second")
    steps.free.set()
    async with running(url, steps, "alive-0") as alive:
        assert not await finishing.settled(2.0)
        assert await alive.recover("never-0") == 0
        assert await alive.recover("dead-0") == 1
        assert await alive.recover("dead-0") == 0
        assert await finishing.settled(PATIENCE_SECS)
    assert [name for name, _ in steps.ran] == ["first", "second", "second"]


async def test_what_is_left_of_old_workflows_is_deleted(
    url: str, finishing: Finishing, finishes: Finishes, ended: Ended
) -> None:
    thread_id = await ended()
    async with running(url, finishes.steps):
        await finishing.start(thread_id)
        assert await finishing.settled(PATIENCE_SECS)
        now = datetime.now(UTC)
        assert await finishing.forget(now - timedelta(hours=1)) == 0
        assert await finishing.forget(now + timedelta(hours=1)) == 1
        assert await finishing.forget(now + timedelta(hours=1)) == 0
        await finishing.start(thread_id)
        assert await finishing.settled(PATIENCE_SECS)
    assert finishes.model.asked == 1


async def nobody(executor: str) -> int:
    return 0


async def test_one_process_runs_one_executor(url: str) -> None:
    async with running(url, Recorded()):
        with pytest.raises(ConfigurationError):
            await Executor.launch(url, "b-0", ())


async def test_a_database_that_is_away_is_said_to_be(postgres_url: str) -> None:
    nowhere = url_of("host=127.0.0.1 port=1 user=x dbname=x", connect_timeout=1)
    finishing = await Finishing.open(nowhere)
    with pytest.raises(DatabaseUnavailable):
        await finishing.start(uuid4())
    await finishing.close()
    with pytest.raises(DatabaseUnavailable):
        await Executor.launch(nowhere, "a-0", ())


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("postgresql://u:p%40ss@h:6543/d", "postgresql://u:p%40ss@/d?host=h&port=6543"),
        ("host=/tmp/a b user=u", "ConfigurationError"),
        ("host='/tmp/a b' user=u", "postgresql://u@/u?host=%2Ftmp%2Fa+b"),
        ("postgresql://u@/d?host=/run/x", "postgresql://u@/d?host=%2Frun%2Fx"),
        ("no connection string", "ConfigurationError"),
    ],
)
def test_a_connection_string_of_either_form_becomes_a_url(address: str, url: str) -> None:
    assert outcome(lambda: url_of(address)) == url


def outcome(work: Callable[[], str]) -> str:
    try:
        return work()
    except ConfigurationError as error:
        return type(error).__name__
