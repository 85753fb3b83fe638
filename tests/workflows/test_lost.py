"""Threads whose process is gone: who takes them up, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest

from flow.db.database import Database
from flow.domain.calls.thread import Status
from flow.domain.usage.events import Kind, Provenance, Quantities, UsageEvent
from flow.errors import DatabaseUnavailable
from flow.workflows.sweep import LOST_SECS, MISSING_SECS, Sweep
from tests.workflows.conftest import Ended, age, in_call

NOW = datetime.now(UTC)


@dataclass
class Started:
    """Workflows as a sweep sees them."""

    ids: list[UUID] = field(default_factory=list)
    over: bool = False
    away: bool = False

    async def start(self, thread_id: UUID) -> None:
        if self.away:
            raise DatabaseUnavailable
        self.ids.append(thread_id)

    async def is_over(self, thread_id: UUID) -> bool:
        return self.over

    async def forget(self, before: datetime) -> int:
        return 0


async def account(database: Database, thread_id: UUID) -> None:
    """Bring the call's own seconds to the ledger, as a replayed spool does."""
    owner = (await database.get_workflow_thread_data(thread_id)).owner
    call = UsageEvent(
        owner=owner,
        kind=Kind.CALL,
        source="bot",
        provider="flow",
        model="call",
        quantities=Quantities(call_seconds=Decimal(3)),
        provenance=Provenance.ESTIMATED,
    )
    await database.record_usage([call])


async def swept(database: Database, started: Started, times: int = 2) -> Started:
    """The first sweep of a process takes up nothing: calls may yet say that they live."""
    sweep = Sweep(database, started, 300)
    for _ in range(times):
        await sweep.once(NOW)
    return started


@pytest.mark.parametrize(
    ("lapsed_secs", "accounted", "taken"),
    [
        (-30, True, False),
        (LOST_SECS - 10, True, False),
        (LOST_SECS + 10, True, True),
        (LOST_SECS + 10, False, False),
        (MISSING_SECS + 10, False, True),
    ],
    ids=["alive", "late", "lost", "its-usage-may-come", "its-usage-stayed-away"],
)
async def test_a_lost_call_is_ended_and_finished_once_its_usage_had_time_to_come(
    lapsed_secs: int, accounted: bool, taken: bool, database: Database, postgres_url: str
) -> None:
    thread_id = await in_call(database)
    if accounted:
        await account(database, thread_id)
    age(postgres_url, thread_id, lapsed_secs)
    started = await swept(database, Started(), times=3)
    thread = await database.get_workflow_thread_data(thread_id)
    assert started.ids == ([thread_id] if taken else [])
    assert thread.status is (Status.ENDED if taken else Status.IN_CALL)
    assert (thread.error or {}).get("code") == ("process_lost" if taken else None)
    assert thread.end_reason == ("process_lost" if taken else None)
    assert len(thread.transcript) == 2


async def test_a_lost_call_ended_when_it_was_last_heard_of(
    database: Database, postgres_url: str
) -> None:
    thread_id = await in_call(database)
    age(postgres_url, thread_id, MISSING_SECS + 10)
    before = datetime.now(UTC)
    await swept(database, Started())
    thread = await database.get_workflow_thread_data(thread_id)
    assert thread.ended_at is not None
    assert thread.ended_at <= before + timedelta(seconds=1)


async def test_a_call_that_ended_well_is_only_handed_over_again(
    database: Database, ended: Ended, postgres_url: str
) -> None:
    thread_id = await ended()
    await account(database, thread_id)
    age(postgres_url, thread_id, LOST_SECS + 10)
    started = await swept(database, Started())
    thread = await database.get_workflow_thread_data(thread_id)
    assert started.ids == [thread_id]
    assert (thread.status, thread.error, thread.end_reason) == (
        Status.ENDED,
        None,
        "caller_hung_up",
    )


async def test_a_process_that_was_started_again_takes_up_its_own_threads_at_once(
    database: Database,
) -> None:
    mine, others = await in_call(database, "host-0/1"), await in_call(database, "host-01/1")
    assert await database.take_over_threads_of("host-0") == [mine]
    assert (await database.get_workflow_thread_data(mine)).status is Status.ENDED
    assert (await database.get_workflow_thread_data(others)).status is Status.IN_CALL


async def test_a_thread_whose_workflow_ended_without_finishing_it_fails(
    database: Database, ended: Ended, postgres_url: str
) -> None:
    thread_id = await ended()
    await account(database, thread_id)
    age(postgres_url, thread_id, LOST_SECS + 10)
    await swept(database, Started(over=True))
    thread = await database.get_workflow_thread_data(thread_id)
    assert thread.status is Status.FAILED
    assert (thread.error or {})["code"] == "finish_failed"


async def test_a_sweep_survives_workflows_that_cannot_be_reached(
    database: Database, ended: Ended, postgres_url: str
) -> None:
    thread_id = await ended()
    await account(database, thread_id)
    age(postgres_url, thread_id, LOST_SECS + 10)
    started = await swept(database, Started(away=True))
    assert started.ids == []
    started.away = False
    age(postgres_url, thread_id, LOST_SECS + 10)
    assert (await swept(database, started)).ids == [thread_id]


async def test_a_lost_call_s_end_is_its_last_sign_of_life_and_not_when_it_was_found(
    database: Database, postgres_url: str
) -> None:
    thread_id = await in_call(database)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        found = connection.execute(
            "update workflow_threads set connected_at = now() - interval '900 s',"
            " heartbeat_at = now() - interval '600 s', lease_until = now() - interval '500 s'"
            " where id = %s returning heartbeat_at",
            (thread_id,),
        ).fetchone()
    await swept(database, Started())
    thread = await database.get_workflow_thread_data(thread_id)
    assert found is not None
    assert thread.ended_at == found[0]
