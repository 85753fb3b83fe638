"""A process's clock decides nothing: the ledger dates usage by the database's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flow.db.database import Database, Recorded
from flow.domain.limits.budget import Tier
from flow.domain.usage.events import Cost, UsageEvent
from flow.errors import Refused
from flow.ledger.recorder import Recorder
from tests.db.making import a_join, a_key, a_request, a_thread, an_event

DAYS = timedelta(days=40)
COST = Cost(input_tokens=Decimal(10))
NEAR = timedelta(minutes=1)
ROLLUPS = """
select
  (select array_agg((occurred_at at time zone 'UTC')::date) from usage_events
    where api_key_id = %(key)s),
  (select array_agg(day) from usage_daily where api_key_id = %(key)s),
  (select array_agg(month) from usage_monthly where api_key_id = %(key)s)
"""


class OffClock:
    """The ledger as a process with a wrong clock reaches it."""

    def __init__(self, database: Database, ahead: timedelta) -> None:
        self._database = database
        self._ahead = ahead
        self.save_turns = database.save_turns
        self.save_tool_calls = database.save_tool_calls

    async def record_usage(self, events: Sequence[UsageEvent]) -> Recorded:
        return await self._database.record_usage(events, datetime.now(UTC) + self._ahead)


@pytest.mark.parametrize("ahead", [DAYS, -DAYS], ids=["ahead", "behind"])
@pytest.mark.parametrize("has_thread", [True, False], ids=["call", "gateway"])
async def test_a_wrong_clock_books_no_cost_past_this_months_budget(
    direct: Database,
    sql: psycopg.Connection,
    tmp_path: Path,
    ahead: timedelta,
    has_thread: bool,
) -> None:
    key = await a_key(direct)
    await direct.operating.set_budget(key.id, Decimal(10))
    wrong = datetime.now(UTC) + ahead
    given: dict[str, Any] = {"occurred_at": wrong, "cost": COST}
    event = (
        an_event(await a_thread(direct, key), **given) if has_thread else a_request(key, **given)
    )
    told: list[UsageEvent] = []
    recorder = Recorder(
        OffClock(direct, ahead),
        tmp_path,
        price=lambda one: one,
        on_recorded=lambda events, _: told.extend(events),
    )
    recorder.record(event)
    recorder.start()
    await recorder.close()

    budget = await direct.get_budget(key.id)
    assert budget is not None
    assert (budget.tier, budget.spent_usd) == (Tier.EXCEEDED, 10)
    with pytest.raises(Refused):
        await a_join(direct, key, "1")
    (published,) = told
    assert abs(published.occurred_at - datetime.now(UTC)) < NEAR
    query = "select occurred_at, stated_at from usage_events where api_key_id = %s"
    assert sql.execute(query, [key.id]).fetchone() == (published.occurred_at, wrong)
    days = sql.execute(ROLLUPS, {"key": key.id}).fetchone()
    today = published.occurred_at.date()
    assert days == ([today], [today], [today.replace(day=1)])


@pytest.mark.parametrize("ahead", [DAYS, -DAYS], ids=["ahead", "behind"])
async def test_a_carriers_time_stays_within_its_call_where_the_process_is_off(
    direct: Database, ahead: timedelta
) -> None:
    thread = await a_thread(direct, await a_key(direct))
    event = an_event(thread, occurred_at=datetime.now(UTC))
    await direct.record_usage([event], datetime.now(UTC) + ahead)
    (row,) = await direct.get_thread_usage(thread.id)
    assert thread.created_at <= datetime.fromisoformat(row["occurred_at"]) <= datetime.now(UTC)


async def test_an_event_sent_again_keeps_its_first_time_and_tells_it(database: Database) -> None:
    key = await a_key(database)
    event = a_request(key, occurred_at=datetime.now(UTC) + DAYS)
    first = await database.record_usage([event])
    again = await database.record_usage([event], datetime.now(UTC) + DAYS)
    assert (first.new, again.new, again.duplicates) == ({event.id}, set(), {event.id})
    assert first.dated == again.dated
    assert first.dated[event.id] <= datetime.now(UTC)


@pytest.mark.parametrize("late_by", [timedelta(seconds=5), DAYS], ids=str)
async def test_a_spool_that_arrives_late_keeps_its_times(
    direct: Database, late_by: timedelta
) -> None:
    key = await a_key(direct)
    event = a_request(key, occurred_at=datetime.now(UTC) - late_by)
    recorded = await direct.record_usage([event], datetime.now(UTC) - timedelta(seconds=20))
    (row,) = (await direct.list_requests(key.id, limit=1)).items
    assert datetime.fromisoformat(row["occurred_at"]) == event.occurred_at
    assert recorded.dated == {}


async def test_a_clock_set_right_before_the_spool_is_sent_leaves_nothing_in_the_future(
    direct: Database,
) -> None:
    key = await a_key(direct)
    await direct.operating.set_budget(key.id, Decimal(10))
    await direct.record_usage([a_request(key, cost=COST, occurred_at=datetime.now(UTC) + DAYS)])
    budget = await direct.get_budget(key.id)
    assert budget is not None
    assert budget.tier is Tier.EXCEEDED
    (row,) = (await direct.list_requests(key.id, limit=1)).items
    assert datetime.fromisoformat(row["occurred_at"]) <= datetime.now(UTC)
