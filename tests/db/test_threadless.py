"""Usage that belongs to no thread: requests to the gateway, over both transports."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from flow.db.database import Database
from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.budget import Tier
from flow.domain.limits.quota import Terms
from flow.domain.products.save_mode import SaveMode
from flow.domain.usage.events import Cost, Owner, UsageEvent
from flow.errors import InvalidInput
from tests.db.making import IDS, a_key, a_request, a_thread, an_event, an_owner_of

TERMS = Terms(buckets={"ai_credits": ["gateway"]})


def costing(key: ApiKey, usd: str, **given: Any) -> UsageEvent:
    """A request at this cost, now."""
    cost = Cost(input_tokens=Decimal(usd))
    return a_request(key, cost=cost, occurred_at=datetime.now(UTC), **given)


async def test_a_request_counts_for_its_key_and_team_once_and_for_no_thread(
    database: Database,
) -> None:
    team = f"team_{uuid4().hex}"
    key = await a_key(database, team)
    await database.operating.set_budget(key.id, Decimal(10))
    thread = await a_thread(database, key)
    events = [costing(key, "8"), costing(key, "0.5", owner=_unbilled(key))]
    recorded = await database.record_usage([*events, an_event(thread, cost=None)])
    assert (len(recorded.new), recorded.rejected) == (3, {})
    assert set(recorded.threads) == {thread.id}
    again = await database.record_usage(events[::-1])
    assert (again.new, again.duplicates) == (frozenset(), {event.id for event in events})
    assert again.threads == {}

    budget = await database.get_budget(key.id)
    assert budget is not None
    assert (budget.spent_usd, budget.tier) == (Decimal("8.5"), Tier.WARN)
    limits, _ = await database.get_limits(key.id, TERMS)
    assert [one.used for one in limits if one.resource == "ai_credits"] == [Decimal(800)]
    today = datetime.now(UTC).date()
    report = await database.get_usage_stats_by_api_key_id(
        key.id, from_=today, to=today, group_by=["product"]
    )
    assert [(row["product"], row["events"]) for row in report] == [("gateway", 2)]
    assert (report[0]["total_cost_usd"], report[0]["billable_cost_usd"]) == ("8.5", "8")
    assert await database.get_thread_usage(thread.id) != []
    stats = (await database.get_workflow_thread_data(thread.id)).usage_stats
    assert (stats["llm_calls"], stats["total_cost_usd"]) == (1, 0)


def _unbilled(key: ApiKey) -> Owner:
    return an_owner_of(key, billable=False)


async def test_a_request_comes_back_with_its_ids(direct: Database, sql: psycopg.Connection) -> None:
    event = a_request(await a_key(direct))
    await direct.record_usage([event])
    kept = sql.execute("select flow.event_json(e) from usage_events e").fetchone() or ({},)
    assert UsageEvent.from_json(kept[0]) == event
    assert event.ids == IDS


async def test_a_keys_requests_are_listed_newest_first_page_by_page(database: Database) -> None:
    key, other = await a_key(database), await a_key(database)
    at = datetime(2026, 11, 21, tzinfo=UTC)
    events = [a_request(key, occurred_at=at + timedelta(seconds=n // 2)) for n in range(5)]
    free = a_request(key, owner=replace(an_owner_of(key), product="trial"), occurred_at=at)
    thread = await a_thread(database, key)
    await database.record_usage([*events, free, a_request(other), an_event(thread)])
    found, cursor = [], None
    while True:
        page = await database.list_requests(key.id, limit=2, cursor=cursor, product="gateway")
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    expected = sorted(events, key=lambda event: (event.occurred_at, str(event.id)), reverse=True)
    assert [UsageEvent.from_json(row).id for row in found] == [event.id for event in expected]
    assert {row["session_id"] for row in found} == {IDS.session_id}
    assert len((await database.list_requests(key.id)).items) == 6
    with pytest.raises(InvalidInput):
        await database.list_requests(key.id, limit=201)


async def test_a_keys_standing_is_its_budget_its_save_mode_and_all_limits(
    database: Database,
) -> None:
    key = await a_key(database, f"team_{uuid4().hex}")
    standing = await database.get_key_standing(key.id, TERMS)
    assert (standing.budget, standing.save_mode) == (None, None)
    await database.operating.set_budget(key.id, Decimal(10))
    await database.operating.set_save_mode(key.id, SaveMode.ON)
    await database.record_usage([costing(key, "9")])
    standing = await database.get_key_standing(key.id, TERMS)
    assert standing.budget is not None
    assert (standing.budget.tier, standing.save_mode) == (Tier.WARN, SaveMode.ON)
    assert [one.used for one in standing.limits if one.resource == "ai_credits"] == [900]


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ({"api_key_id": uuid4()}, "there is no API key"),
        ({"team_id": "another"}, "contradicts the key"),
    ],
    ids=["key", "team"],
)
async def test_a_request_names_a_key_there_is_and_its_team(
    database: Database, lie: dict[str, Any], reason: str
) -> None:
    key = await a_key(database)
    event = a_request(key)
    wrong = replace(event, owner=replace(event.owner, **lie))
    recorded = await database.record_usage([wrong, sound := a_request(key)])
    assert (recorded.new, set(recorded.rejected)) == ({sound.id}, {wrong.id})
    assert reason in recorded.rejected[wrong.id]


async def test_an_id_is_one_events_own_with_a_thread_or_without(database: Database) -> None:
    key, other = await a_key(database), await a_key(database)
    thread = await a_thread(database, key)
    taken, free = an_event(thread), a_request(key)
    await database.record_usage([taken, free])
    twins = [
        replace(free, owner=thread.owner),
        replace(free, owner=replace(free.owner, api_key_id=other.id)),
        a_request(key, id=taken.id),
    ]
    reasons = ["of no thread", "of another key", f"of thread {thread.id}"]
    for twin, reason in zip(twins, reasons, strict=True):
        recorded = await database.record_usage([twin])
        assert (recorded.new, recorded.duplicates) == (frozenset(), frozenset())
        assert reason in recorded.rejected[twin.id]
    assert (await database.record_usage([taken, free])).duplicates == {taken.id, free.id}


async def test_the_same_requests_from_many_senders_at_once_count_once(
    direct: Database,
) -> None:
    key = await a_key(direct)
    thread = await a_thread(direct, key)
    events = [costing(key, "1") for _ in range(20)]
    mixed = [*events, *(an_event(thread, cost=None) for _ in range(10))]
    outcomes = await asyncio.gather(*(direct.record_usage(mixed[n:] + mixed[:n]) for n in range(8)))
    assert sum(len(outcome.new) for outcome in outcomes) == 30
    await direct.operating.set_budget(key.id, Decimal(100))
    budget = await direct.get_budget(key.id)
    assert budget is not None
    assert budget.spent_usd == 20


async def test_a_request_that_reaches_a_threshold_is_told_where_the_keys_events_go(
    direct: Database, sql: psycopg.Connection
) -> None:
    key = await a_key(direct)
    await direct.operating.set_budget(key.id, Decimal(10))
    await direct.webhooks.set_url(key.id, "https://example.com/hook")
    await direct.record_usage([costing(key, "9")])
    told = sql.execute(
        "select type, workflow_thread_id, url from webhook_events e"
        " join webhook_deliveries d on d.event_id = e.id"
    ).fetchall()
    assert told == [("budget.warn", None, "https://example.com/hook")]
