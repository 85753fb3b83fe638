"""What a key spends in a month, the tier of its budget, and who is told when."""

from __future__ import annotations

import asyncio
import calendar
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from flow.db import rows
from flow.db.database import Database
from flow.db.postgres_transport import PostgresTransport
from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.budget import Budget, Standing, Tier
from flow.domain.limits.quota import Terms
from flow.domain.products.save_mode import SaveMode
from flow.domain.usage.events import Cost
from flow.errors import InvalidInput, NotFound
from tests.db.making import a_join, a_key, a_thread, an_event, spend

EXAMPLES = settings(
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TIERS = list(Tier)[:4]


async def spent(database: Database, cap: str | None, *costs: str, **given: Any) -> ApiKey:
    """A key with this budget that has spent so much."""
    key = await a_key(database)
    await database.operating.set_budget(key.id, None if cap is None else Decimal(cap))
    thread = await a_thread(database, key)
    for usd in costs:
        await spend(database, thread, usd, **given)
    return key


async def budget_of(database: Database, key: ApiKey, now: datetime | None = None) -> Budget:
    budget = await database.get_budget(key.id, now)
    assert budget is not None
    return budget


@pytest.mark.parametrize(
    ("cap", "usd", "tier", "remaining"),
    [
        ("10", "0", "ok", "10"),
        ("10", "8.499999999999999999", "ok", "1.500000000000000001"),
        ("10", "8.5", "warn", "1.5"),
        ("10", "9.499999999999999999", "warn", "0.500000000000000001"),
        ("10", "9.5", "engage", "0.5"),
        ("10", "9.999999999999999999", "engage", "0.000000000000000001"),
        ("10", "10", "exceeded", "0"),
        ("10", "12.5", "exceeded", "0"),
        ("0.000001", "0.00000084999999", "ok", "0.00000015000001"),
        ("0.000001", "0.00000085", "warn", "0.00000015"),
        ("0.1", "0.095", "engage", "0.005"),
    ],
)
async def test_the_tier_of_what_is_spent(
    direct: Database, cap: str, usd: str, tier: str, remaining: str
) -> None:
    budget = await budget_of(direct, await spent(direct, cap, usd))
    assert budget.tier == tier
    assert (budget.cap_usd, budget.spent_usd) == (Decimal(cap), Decimal(usd))
    assert (budget.remaining_usd, budget.reserved_usd) == (Decimal(remaining), 0)


async def test_a_budget_over_both_transports(database: Database) -> None:
    key = await spent(database, "10", "9.5", "0.000000000000000001")
    budget = await budget_of(database, key)
    assert (budget.tier, budget.spent_usd) == (Tier.ENGAGE, Decimal("9.500000000000000001"))
    assert (await database.operating.set_budget(key.id, Decimal("9"))).budget.tier is Tier.EXCEEDED
    until = datetime.now(UTC) + timedelta(hours=1)
    assert (await database.operating.set_budget_override(key.id, until)).override_until == until
    assert (await budget_of(database, key)).tier is Tier.OVERRIDE
    assert (await database.operating.set_save_mode(key.id, SaveMode.ON)).save_mode is SaveMode.ON
    thread = await a_thread(database, key)
    assert await database.get_thread_standing(thread.id) == Standing(Tier.OVERRIDE, SaveMode.ON)
    await database.operating.set_budget(key.id, None)
    assert await database.get_budget(key.id) is None


@pytest.mark.parametrize("cap", [None, "0", "-0.01", "-Infinity"])
async def test_without_a_cap_there_is_no_budget_and_no_tier(
    direct: Database, sql: psycopg.Connection, cap: str | None
) -> None:
    key = await spent(direct, cap, "1000")
    assert await direct.get_budget(key.id) is None
    joined = await a_join(direct, key, "5")
    assert joined.budget is None
    assert await direct.get_thread_standing(joined.thread.id) == Standing(None, None)
    account = (await direct.operating.get_api_key(str(key.id))).budget
    assert (account.tier, account.cap_usd, account.spent_usd) == (None, None, Decimal(1000))
    assert sql.execute("select count(*) from webhook_events").fetchone() == (0,)


@pytest.mark.parametrize("cap", ["NaN", "Infinity", "1e12"])
async def test_a_cap_that_is_no_amount_is_refused(direct: Database, cap: str) -> None:
    key = await spent(direct, "10")
    with pytest.raises(InvalidInput):
        await direct.operating.set_budget(key.id, Decimal(cap))
    assert (await budget_of(direct, key)).cap_usd == 10


async def test_nothing_is_set_for_a_key_there_is_not(direct: Database) -> None:
    for done in (
        direct.operating.set_budget(uuid4(), Decimal(1)),
        direct.operating.set_budget_override(uuid4(), None),
        direct.operating.set_save_mode(uuid4(), SaveMode.ON),
        direct.get_thread_standing(uuid4()),
    ):
        with pytest.raises(NotFound):
            await done


async def test_what_is_not_billed_is_spent_all_the_same(direct: Database) -> None:
    key = await spent(direct, "10", "1")
    free = await a_thread(direct, key, billable=False, product="playground")
    await spend(direct, free, "2")
    await direct.record_usage([an_event(free, cost=None, occurred_at=datetime.now(UTC))])
    assert (await budget_of(direct, key)).spent_usd == 3


amounts = st.decimals(0, 40, places=9)


@given(cap=st.decimals(Decimal("0.000000001"), 100, places=9), costs=st.lists(amounts, max_size=5))
@EXAMPLES
async def test_the_tier_is_that_of_the_exact_share_and_never_falls_with_spending(
    direct: Database, cap: Decimal, costs: list[Decimal]
) -> None:
    key = await spent(direct, str(cap))
    thread = await a_thread(direct, key)
    seen = [Tier.OK]
    for n in range(len(costs)):
        standing = (await spend(direct, thread, str(costs[n]))).threads[thread.id].standing
        share = sum(map(Fraction, costs[: n + 1]), Fraction(0)) / Fraction(cap)
        passed = [share >= Fraction(edge, 100) for edge in (85, 95, 100)]
        assert standing.tier is TIERS[sum(passed)]
        assert standing.tier is (await budget_of(direct, key)).tier
        seen.append(standing.tier)
    assert seen == sorted(seen, key=TIERS.index)


@pytest.fixture(params=["UTC", "Pacific/Kiritimati", "America/Los_Angeles"])
async def abroad(request: pytest.FixtureRequest, postgres_url: str) -> AsyncIterator[Database]:
    """A database whose sessions live in some time zone."""
    url = make_conninfo(postgres_url, options=f"-c timezone={request.param}")
    database = Database(await PostgresTransport.open(url))
    yield database
    await database.close()


LAST = datetime(2025, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
FIRST = datetime(2026, 1, 1, tzinfo=UTC)


async def test_a_month_is_of_utc_wherever_the_session_is(abroad: Database) -> None:
    key = await spent(abroad, "10")
    thread = await a_thread(abroad, key)
    await spend(abroad, thread, "1", occurred_at=LAST)
    await spend(abroad, thread, "0.25", occurred_at=FIRST)
    old, new = await budget_of(abroad, key, LAST), await budget_of(abroad, key, FIRST)
    assert (old.spent_usd, old.resets_at) == (1, FIRST)
    assert (new.spent_usd, new.resets_at) == (Decimal("0.25"), datetime(2026, 2, 1, tzinfo=UTC))
    (limit,) = [s for s in (await abroad.get_limits(key.id, Terms(), LAST))[0] if s.scope == "key"]
    assert (limit.used, limit.resets_at) == (1, FIRST)


@pytest.mark.parametrize(
    ("now", "days"),
    [("2026-02-28", 28), ("2024-02-29", 29), ("2026-04-30", 30), ("2025-12-31", 31)],
)
async def test_a_budget_starts_anew_when_the_month_ends(
    direct: Database, now: str, days: int
) -> None:
    last = datetime.fromisoformat(f"{now}T23:59:59.999999+00:00")
    assert calendar.monthrange(last.year, last.month)[1] == days
    key = await spent(direct, "1", "1", occurred_at=last)
    full = await budget_of(direct, key, last)
    assert (full.tier, full.resets_at) == (Tier.EXCEEDED, last + timedelta(microseconds=1))
    assert (await budget_of(direct, key, full.resets_at)).tier is Tier.OK


async def test_late_usage_belongs_to_the_month_it_was_made_in(
    direct: Database, sql: psycopg.Connection
) -> None:
    key = await spent(direct, "1")
    thread = await a_thread(direct, key)
    month_start = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    late = month_start - timedelta(microseconds=1)
    recorded = await spend(direct, thread, "2", occurred_at=late)
    assert recorded.threads[thread.id].standing.tier is Tier.OK
    assert (await budget_of(direct, key)).spent_usd == 0
    assert (await budget_of(direct, key, late)).tier is Tier.EXCEEDED
    month = late.date().replace(day=1)
    assert notes(sql, key) == [("budget.exceeded", month), ("budget.warn", month)]


async def test_a_key_takes_its_spending_along_to_another_team(direct: Database) -> None:
    key = await spent(direct, "10", "3")
    moved = await direct.resolve_api_key(key.unkey_key_id, f"team_{uuid4().hex}", key.name)
    await spend(direct, await a_thread(direct, moved), "4")
    assert (await budget_of(direct, moved)).spent_usd == 7


def notes(sql: psycopg.Connection, key: ApiKey) -> list[tuple[Any, ...]]:
    """What the key's owner is told: event and month."""
    query = "select type, period from webhook_events where api_key_id = %s order by 1, 2"
    return sql.execute(query, [key.id]).fetchall()


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([8.4], []),
        ([8.4, 0.1], ["warn"]),
        ([8.5, 1, 0.4], ["warn"]),
        ([9, 1], ["exceeded", "warn"]),
        ([25], ["exceeded", "warn"]),
        ([5, "cap 5"], ["exceeded", "warn"]),
        ([5, "cap 5.5"], ["warn"]),
        ([5, "cap 5.5", "cap 5"], ["exceeded", "warn"]),
        ([10, "cap 20", 10, "cap 1"], ["exceeded", "warn"]),
        ([8, "cap 0", 8], []),
        (["cap 0", 50, "cap 55"], ["warn"]),
        ([0, 8], []),
    ],
    ids=str,
)
async def test_each_threshold_of_a_month_is_told_once(
    direct: Database, sql: psycopg.Connection, steps: list[Any], told: list[str]
) -> None:
    key = await spent(direct, "10")
    thread = await a_thread(direct, key)
    for step in steps:
        if isinstance(step, str):
            await direct.operating.set_budget(key.id, Decimal(step.removeprefix("cap ")))
        else:
            await spend(direct, thread, str(step))
    assert [kind.removeprefix("budget.") for kind, _ in notes(sql, key)] == told


async def test_an_event_says_how_the_budget_stood(
    direct: Database, sql: psycopg.Connection
) -> None:
    key = await spent(direct, "10")
    thread = await a_thread(direct, key)
    await spend(direct, thread, "8.6", occurred_at=LAST)
    query = "select type, workflow_thread_id, team_id, data from webhook_events"
    assert sql.execute(query).fetchall() == [
        (
            "budget.warn",
            thread.id,
            "team_1",
            {
                "api_key_id": str(key.id),
                "team_id": "team_1",
                "period": "2025-12",
                "tier": "warn",
                "scope": "key",
                "cap_usd": "10",
                "spent_usd": "8.6",
                "resets_at": "2026-01-01T00:00:00+00:00",
            },
        )
    ]


async def test_batches_at_once_tell_each_threshold_once(
    direct: Database, sql: psycopg.Connection
) -> None:
    keys = [await spent(direct, "10") for _ in range(4)]
    threads = [await a_thread(direct, key) for key in keys]
    now = datetime.now(UTC)

    async def send(turn: int) -> None:
        order = threads[turn % 4 :] + threads[: turn % 4]
        cost = Cost(output_tokens=Decimal(1))
        await direct.record_usage([an_event(t, cost=cost, occurred_at=now) for t in order])

    await asyncio.gather(*(send(turn) for turn in range(12)))
    for key in keys:
        assert [kind for kind, _ in notes(sql, key)] == ["budget.exceeded", "budget.warn"]
        assert (await budget_of(direct, key)).spent_usd == 12


async def test_a_cap_lowered_while_usage_is_recorded_is_told(
    direct: Database, sql: psycopg.Connection, postgres_url: str
) -> None:
    key = await spent(direct, "100", "0.00001")
    event = an_event(await a_thread(direct, key), occurred_at=datetime.now(UTC))
    with psycopg.connect(postgres_url) as recording:
        statement = "select record_usage(jsonb_build_array(%s::jsonb))"
        recording.execute(statement, [json.dumps(rows.event_json(event))])
        setting = asyncio.create_task(direct.operating.set_budget(key.id, Decimal("0.0001")))
        # It either waits for the recording, or is done without having seen it.
        await asyncio.wait([setting], timeout=0.5)
        recording.commit()
    assert (await setting).budget.tier is Tier.EXCEEDED
    assert [kind for kind, _ in notes(sql, key)] == ["budget.exceeded", "budget.warn"]


async def test_a_standing_comes_with_every_recording(direct: Database) -> None:
    key = await spent(direct, "10", "9")
    calm, exempt = await a_thread(direct, key), (await a_join(direct, key, override=True)).thread
    await direct.operating.set_save_mode(key.id, SaveMode.AUTO)
    now = datetime.now(UTC)
    events = [an_event(one, occurred_at=now, cost=None) for one in (calm, exempt)]
    recorded = await direct.record_usage(events)
    assert recorded.threads[calm.id].standing == Standing(Tier.WARN, SaveMode.AUTO)
    assert recorded.threads[exempt.id].standing == Standing(Tier.OVERRIDE, SaveMode.AUTO)
    again = await direct.record_usage(events)
    assert again.threads[calm.id].standing == Standing(Tier.WARN, SaveMode.AUTO)
    await direct.operating.set_budget_override(key.id, datetime.now(UTC) + timedelta(seconds=60))
    for one in (calm, exempt):
        assert (await direct.get_thread_standing(one.id)).tier is Tier.OVERRIDE
    await direct.operating.set_budget_override(key.id, datetime.now(UTC) - timedelta(seconds=1))
    assert await direct.get_thread_standing(calm.id) == Standing(Tier.WARN, SaveMode.AUTO)


async def test_a_teams_budget_is_told_to_every_key_with_a_url_and_each_threshold_once(
    direct: Database, sql: psycopg.Connection
) -> None:
    keys = [await a_key(direct, "team_told") for _ in range(3)]
    for key in keys[:2]:
        sql.execute("update api_keys set webhook_url = 'https://a.example' where id = %s", [key.id])
    await direct.operating.set_team_quota("team_told", "budget_usd", Decimal(10))
    threads = [await a_thread(direct, key) for key in keys]
    for thread, usd in zip(threads, ("5", "4", "2"), strict=True):
        await spend(direct, thread, usd)
    query = "select api_key_id, type, scope, data ->> 'spent_usd' from webhook_events"
    told = {tuple(row) for row in sql.execute(query.encode()).fetchall()}
    assert told == {
        (key.id, kind, "team", spent)
        for key in keys[:2]
        for kind, spent in (("budget.warn", "9"), ("budget.exceeded", "11"))
    }


@pytest.mark.parametrize("resource", ["budget_usd", "ai_credits"])
async def test_a_running_call_learns_that_its_teams_limit_is_used_up(
    direct: Database, resource: str
) -> None:
    key = await a_key(direct, f"team_{uuid4().hex}")
    await direct.operating.set_team_quota(key.team_id, resource, Decimal(100))
    terms = Terms({"ai_credits": ["voice_bot"]})
    thread = (await a_join(direct, key, "0.01", terms=terms)).thread
    other = await a_thread(direct, await a_key(direct, key.team_id))
    assert (await direct.get_thread_standing(thread.id)).tier in (Tier.OK, None)
    recorded = await spend(direct, other, "101")
    assert (await direct.get_thread_standing(thread.id)).tier is Tier.EXCEEDED
    recorded = await spend(direct, thread, "0.01")
    assert recorded.threads[thread.id].standing.tier is Tier.EXCEEDED
