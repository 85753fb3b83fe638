"""One name, one living process: who may have it, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from flow.db.database import Database
from flow.domain.calls.host import HostReport, HostState
from flow.errors import ConfigurationError
from flow.workflows.executors import DEAD_SECS, Heartbeat, claimed, nothing_to_recover
from flow.workflows.process_identity import Identity

NAME = "blue-0"


def heartbeat(database: Database, own: Identity) -> Heartbeat:
    return Heartbeat(database, own, nothing_to_recover)


def age(postgres_url: str, secs: int) -> None:
    """Let so much time pass since the last sign of life."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "update workflow_executors set heartbeat_at = heartbeat_at - make_interval(secs => %s)",
            (secs,),
        )


@asynccontextmanager
async def beating(database: Database, own: Identity) -> AsyncIterator[None]:
    """It lives."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(0.02)
            await heartbeat(database, own).once()

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def killed(database: Database, own: Identity) -> None:
    """It had the name, and released nothing."""
    assert await database.claim_executor(own.name, own.home, own.instance, DEAD_SECS) is None


async def test_a_name_is_refused_while_another_host_with_it_lives(database: Database) -> None:
    first, second = Identity(NAME, "a"), Identity(NAME, "b")
    async with claimed(database, first), beating(database, first):
        with pytest.raises(ConfigurationError) as refusal:
            async with claimed(database, second, retry_secs=0.01):
                pass
    assert NAME in str(refusal.value)
    assert "last heard of at 20" in str(refusal.value)
    assert "name of its own" in str(refusal.value)


async def test_one_that_was_killed_has_its_name_at_once_in_its_own_folder(
    database: Database,
) -> None:
    await killed(database, Identity(NAME, "a"))
    with capture_logs() as logged:
        async with asyncio.timeout(5), claimed(database, Identity(NAME, "a"), retry_secs=60):
            pass
    assert logged == []


async def test_elsewhere_the_name_of_a_dead_host_is_waited_for(
    database: Database, postgres_url: str
) -> None:
    await killed(database, Identity(NAME, "a"))
    age(postgres_url, DEAD_SECS - 3)
    with capture_logs() as logged:
        async with asyncio.timeout(20), claimed(database, Identity(NAME, "b"), retry_secs=0.05):
            pass
    assert _of_names(logged) == ["executor_name_in_use"]


async def test_a_host_that_stopped_leaves_its_name_at_once(database: Database) -> None:
    async with claimed(database, Identity(NAME, "a")):
        pass
    async with asyncio.timeout(5), claimed(database, Identity(NAME, "b"), retry_secs=60):
        pass


async def test_a_host_that_comes_back_from_a_stall_hears_that_its_name_is_gone(
    database: Database, postgres_url: str
) -> None:
    first, second = Identity(NAME, "a"), Identity(NAME, "b")
    async with claimed(database, first):
        age(postgres_url, DEAD_SECS + 1)
        async with claimed(database, second):
            with capture_logs() as logged:
                await heartbeat(database, first).once()
            assert _of_names(logged) == ["executor_name_lost"]
            await heartbeat(database, second).once()
        assert not await database.release_executor(NAME, first.instance)


async def test_the_dead_are_named_to_the_living_until_they_are_forgotten(
    database: Database,
) -> None:
    a, b = Identity("a", "1"), Identity("b", "2")

    async def beat(own: Identity, dead_secs: int) -> list[str] | None:
        return await database.beat_executor(own.name, own.home, own.instance, dead_secs)

    assert await beat(a, 60) == []
    assert await beat(b, 60) == []
    assert await beat(b, -1) == ["a", "b"]
    assert not await database.forget_executor("a", 60)
    assert await database.forget_executor("a", -1)
    assert await beat(b, -1) == ["b"]


async def test_each_sign_of_life_says_how_the_process_is(
    database: Database, postgres_url: str
) -> None:
    report = HostReport("1.2.3", 1, 20, False, True, 0, 0.0)
    own = Identity(NAME, "a")
    async with claimed(database, own):
        beating = Heartbeat(database, own, nothing_to_recover, lambda: report)
        for calls, spool_oldest_secs in [(1, 0.0), (2, 7.5)]:
            report = replace(report, calls=calls, spool_oldest_secs=spool_oldest_secs)
            await beating.once()
            (host,) = await database.operating.list_hosts()
            assert (host.name, host.state, host.report) == (NAME, HostState.ALIVE, report)
        age(postgres_url, 61)
        (host,) = await database.operating.list_hosts()
        assert (host.state, round(host.silent_secs)) == (HostState.SILENT, 61)
    (host,) = await database.operating.list_hosts()
    assert host.state is HostState.STOPPED


def _of_names(logged: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was logged of executors' names: threads of other tests may log as well."""
    return [line["event"] for line in logged if line["event"].startswith("executor_name_")]
