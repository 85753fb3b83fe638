"""What a team may use over all its keys: credits, seconds of calls, and calls at once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flow.db.database import Database
from flow.domain.calls.thread import Status, Thread
from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.quota import LimitState, Terms
from flow.domain.usage.events import Cost, Kind, Quantities
from flow.errors import InvalidInput, Refused
from tests.db.making import a_join, a_key, a_thread, an_event, move, spend

CREDITS = Terms({"ai_credits": ["voice_bot", "survey"], "gold": ["gold_bot"]})
FEB = datetime(2026, 2, 14, 12, tzinfo=UTC)
MARCH = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def team() -> str:
    """A team nobody else has."""
    return f"team_{uuid4().hex}"


async def limit(
    database: Database, key: ApiKey, resource: str, now: datetime | None = None
) -> LimitState:
    """How far the key's team has got with a resource."""
    states, _ = await database.get_limits(key.id, CREDITS, now)
    (state,) = [s for s in states if s.resource == resource and s.scope == "team"]
    return state


async def refused(database: Database, key: ApiKey, *args: Any, **given: Any) -> Refused:
    """Why a join is refused; it made no thread."""
    before = await database.list_workflow_threads(key.id, limit=200)
    with pytest.raises(Refused) as refusal:
        await a_join(database, key, *args, **given)
    assert await database.list_workflow_threads(key.id, limit=200) == before
    return refusal.value


def of_call(thread: Thread, secs: str, at: datetime = FEB) -> Any:
    """The event that a call's length is recorded by."""
    quantities = Quantities(call_seconds=Decimal(secs))
    return an_event(thread, kind=Kind.CALL, quantities=quantities, cost=None, occurred_at=at)


@pytest.mark.parametrize(
    ("quota", "spent", "held", "reserve", "then_held"),
    [
        ("100", "0", [], "0.25", "25"),
        ("100", "0.5", ["0.25"], "0.25", "50"),
        ("100", "0.5", ["0.25"], "0.2500000001", None),
        ("100", "0.9999999999", [], "0.25", "0.00000001"),
        ("100", "1", [], "0", None),
        ("0.5", "0.004999", [], "1", "0.0001"),
        ("0", "0", [], "0", None),
        (None, "1000", ["5"], "0.25", "525"),
    ],
)
async def test_a_join_fits_into_the_teams_credits(
    direct: Database,
    team: str,
    quota: str | None,
    spent: str,
    held: list[str],
    reserve: str,
    then_held: str | None,
) -> None:
    key, sibling = await a_key(direct, team), await a_key(direct, team)
    done = await a_thread(direct, sibling)
    await spend(direct, done, spent)
    await direct.finish_thread(done.id, Status.CANCELLED)
    await direct.operating.set_team_quota(team, "ai_credits", quota and Decimal(quota))
    for usd in held:
        await a_join(direct, sibling, usd, terms=CREDITS)
    if then_held is None:
        refusal = await refused(direct, key, reserve, terms=CREDITS)
        assert refusal.code == "quota_exceeded"
    else:
        await a_join(direct, key, reserve, terms=CREDITS)
        state = await limit(direct, key, "ai_credits")
        assert (state.used, state.reserved) == (Decimal(spent) * 100, Decimal(then_held))


async def test_quotas_over_both_transports(database: Database, team: str) -> None:
    key = await a_key(database, team)
    assert await database.operating.list_team_quotas(team, CREDITS) == []
    thread = await a_thread(database, key, product="gold_bot")
    await database.operating.set_team_quota(team, "gold", Decimal("12.5"))
    await database.operating.set_team_quota(team, "call_seconds", Decimal(0))
    await spend(database, thread, "0.0400000000000000001")
    found = await database.operating.list_team_quotas(team, CREDITS)
    assert [(of, s.resource, s.used, s.limit) for of, s in found] == [
        (team, "call_seconds", 0, 0),
        (team, "gold", Decimal("4.00000000000000001"), Decimal("12.5")),
    ]
    refusal = await refused(database, key, terms=CREDITS, product="gold_bot")
    assert refusal.limit is not None
    assert (refusal.code, refusal.limit["resource"]) == ("quota_exceeded", "call_seconds")
    await database.operating.set_team_quota(team, "call_seconds", None)
    await a_join(database, key, terms=CREDITS, product="gold_bot")
    assert len(await database.operating.list_team_quotas(team, CREDITS)) == 1


@pytest.mark.parametrize(
    ("product", "billable", "is_refused"),
    [
        ("voice_bot", True, True),
        ("survey", True, True),
        ("voice_bot", False, False),
        ("gold_bot", True, False),
        ("of_no_bucket", True, False),
    ],
)
async def test_credits_limit_the_billable_products_of_their_bucket(
    direct: Database, team: str, product: str, billable: bool, is_refused: bool
) -> None:
    key = await a_key(direct, team)
    await direct.operating.set_team_quota(team, "ai_credits", Decimal(10))
    await spend(direct, await a_thread(direct, key), "0.10")
    given: dict[str, Any] = {"terms": CREDITS, "product": product, "billable": billable}
    if is_refused:
        await refused(direct, key, **given)
    else:
        await a_join(direct, key, "1", **given)
        assert (await limit(direct, key, "ai_credits")).reserved == 0


async def test_a_limit_of_another_product_refuses_nothing(direct: Database, team: str) -> None:
    key = await a_key(direct, team)
    terms = Terms(concurrency={"voice_bot": 1, "survey": 1})
    products = ("voice_bot", "survey", "gold_bot")
    joined = [await a_join(direct, key, terms=terms, product=product) for product in products]
    assert [one.thread.product for one in joined] == list(products)


async def test_insights_free_of_charge_cost_no_credits(direct: Database, team: str) -> None:
    thread = await a_thread(direct, key := await a_key(direct, team))
    owner = thread.owner
    free = replace(thread.owner, billable=False)
    await direct.operating.set_budget(key.id, Decimal(10))
    await spend(direct, thread, "1", owner=owner)
    recorded = await spend(direct, thread, "2", owner=free, source="insights")
    assert recorded.threads[thread.id].usage_stats["billable_cost_usd"] == 1
    assert recorded.threads[thread.id].usage_stats["total_cost_usd"] == 3
    assert (await limit(direct, key, "ai_credits")).used == 100
    budget = await direct.get_budget(key.id)
    assert budget is not None
    assert budget.spent_usd == 3
    rows = await direct.get_thread_usage(thread.id)
    assert sorted((row["source"], row["billable"]) for row in rows) == [
        ("bot", True),
        ("insights", False),
    ]


@pytest.mark.parametrize(
    ("thread_billable", "event_billable", "source", "is_taken"),
    [
        (True, True, "bot", True),
        (True, False, "insights", True),
        (True, False, "bot", False),
        (True, False, "gateway", False),
        (False, False, "insights", True),
        (False, True, "insights", False),
        (False, True, "bot", False),
    ],
)
async def test_nothing_but_insights_may_be_free_on_a_call_that_is_not(
    direct: Database, thread_billable: bool, event_billable: bool, source: str, is_taken: bool
) -> None:
    thread = await a_thread(direct, await a_key(direct), billable=thread_billable)
    owner = replace(thread.owner, billable=event_billable)
    event = an_event(thread, owner=owner, source=source)
    recorded = await direct.record_usage([event])
    assert recorded.new == ({event.id} if is_taken else set())
    assert set(recorded.rejected) == (set() if is_taken else {event.id})


@pytest.mark.parametrize("field", ["api_key_id", "team_id", "product"])
async def test_insights_differ_in_nothing_else_from_their_call(
    direct: Database, field: str
) -> None:
    thread = await a_thread(direct, await a_key(direct))
    told = uuid4() if field == "api_key_id" else "another"
    owner = replace(thread.owner, **{field: told, "billable": False})
    event = an_event(thread, owner=owner, source="insights")
    assert set((await direct.record_usage([event])).rejected) == {event.id}


async def test_seconds_of_a_call_are_told_from_the_clock_until_they_are_recorded(
    direct: Database, team: str
) -> None:
    key, sibling = await a_key(direct, team), await a_key(direct, team)
    thread = (await a_join(direct, sibling, reserve_secs=60)).thread
    waiting = await limit(direct, key, "call_seconds")
    assert (waiting.used, waiting.reserved) == (0, 60)
    thread = await move(direct, thread, Status.IN_CALL)
    assert thread.connected_at is not None
    for elapsed, used, held in [(0, "0", "60"), (12.5, "12.5", "47.5"), (44, "44", "16")]:
        at = thread.connected_at + timedelta(seconds=elapsed)
        state = await limit(direct, key, "call_seconds", at)
        assert (state.used, state.reserved) == (Decimal(used), Decimal(held))
    thread = await direct.save_workflow_thread_data(thread.id, status=Status.ENDED)
    assert thread.ended_at is not None
    assert thread.connected_at is not None
    lasted = Decimal(str((thread.ended_at - thread.connected_at).total_seconds()))
    ended = await limit(direct, key, "call_seconds", thread.ended_at + timedelta(seconds=40))
    assert (ended.used, ended.reserved) == (lasted, 0)
    await direct.record_usage([of_call(thread, "33.25", datetime.now(UTC))])
    for _ in range(2):
        settled = await limit(direct, key, "call_seconds")
        assert (settled.used, settled.reserved) == (Decimal("33.25"), 0)
        await direct.finish_thread(thread.id, Status.FAILED)


@pytest.mark.parametrize(
    ("quota", "settled", "held", "reserve", "then_held"),
    [
        ("600", "100", [60, 60], 60, "180"),
        ("600", "480", [60], 60, "120"),
        ("600", "480.001", [60], 60, None),
        ("600", "599.5", [], 60, "0.5"),
        ("600", "600", [], 0, None),
        ("0", "0", [], 60, None),
    ],
)
async def test_a_join_fits_into_the_teams_seconds(
    direct: Database,
    team: str,
    quota: str,
    settled: str,
    held: list[int],
    reserve: int,
    then_held: str | None,
) -> None:
    key, sibling = await a_key(direct, team), await a_key(direct, team)
    done = await a_thread(direct, sibling, product="playground", billable=False)
    await direct.record_usage([of_call(done, settled)])
    await direct.finish_thread(done.id, Status.CANCELLED)
    await direct.operating.set_team_quota(team, "call_seconds", Decimal(quota))
    for secs in held:
        await a_join(direct, sibling, reserve_secs=secs, now=FEB)
    if then_held is None:
        refusal = await refused(direct, key, reserve_secs=reserve, now=FEB)
        assert refusal.code == "quota_exceeded"
    else:
        await a_join(direct, key, reserve_secs=reserve, now=FEB)
        state = await limit(direct, key, "call_seconds", FEB)
        assert (state.used, state.reserved) == (Decimal(settled), Decimal(then_held))


async def test_a_refusal_says_whether_to_wait_for_a_call_or_for_the_month(
    direct: Database, team: str
) -> None:
    key = await a_key(direct, team)
    await direct.operating.set_team_quota(team, "call_seconds", Decimal(60))
    thread = (await a_join(direct, key, reserve_secs=60, now=FEB)).thread
    held_up = await refused(direct, key, reserve_secs=60, now=FEB)
    assert held_up.retry_after_secs == 5
    await direct.record_usage([of_call(thread, "60")])
    used_up = await refused(direct, key, reserve_secs=60, now=MARCH - timedelta(seconds=90))
    assert (used_up.code, used_up.retry_after_secs) == ("quota_exceeded", 90)
    assert used_up.limit is not None
    assert used_up.limit["resets_at"] == MARCH
    await a_join(direct, key, reserve_secs=60, now=MARCH)


AT_ONCE = {Status.CREATED, Status.CONNECTING, Status.IN_CALL}


@pytest.mark.parametrize("status", Status)
async def test_calls_at_once_are_those_up_to_the_hang_up(
    direct: Database, team: str, status: Status
) -> None:
    key, sibling = await a_key(direct, team), await a_key(direct, team)
    await direct.operating.set_team_quota(team, "concurrent_calls", Decimal(1))
    thread = (await a_join(direct, sibling)).thread
    await move(direct, thread, status)
    assert (await limit(direct, key, "concurrent_calls")).used == (status in AT_ONCE)
    if status in AT_ONCE:
        refusal = await refused(direct, key)
        assert (refusal.code, refusal.retry_after_secs) == ("concurrency_exceeded", 5)
    else:
        await a_join(direct, key)


@pytest.mark.parametrize(("quota", "allowed"), [("0", 0), ("0.5", 0), ("2", 2), ("2.9", 2)])
async def test_no_more_calls_at_once_than_the_quota(
    direct: Database, team: str, quota: str, allowed: int
) -> None:
    key = await a_key(direct, team)
    await direct.operating.set_team_quota(team, "concurrent_calls", Decimal(quota))
    for _ in range(allowed):
        await a_join(direct, key)
    await refused(direct, key)


async def test_a_call_that_lapsed_is_not_one_at_once(
    direct: Database, sql: psycopg.Connection, team: str
) -> None:
    key = await a_key(direct, team)
    await direct.operating.set_team_quota(team, "concurrent_calls", Decimal(1))
    await a_join(direct, key, reserve_secs=60)
    sql.execute("update workflow_threads set lease_until = now()")
    assert (await limit(direct, key, "call_seconds")).reserved == 0
    await a_join(direct, key)


async def test_a_key_leaves_what_it_used_with_its_team(direct: Database, team: str) -> None:
    key, sibling = await a_key(direct, team), await a_key(direct, team)
    thread = (await a_join(direct, key, "0.5", reserve_secs=30)).thread
    await spend(direct, thread, "0.2")
    moved = await direct.resolve_api_key(key.unkey_key_id, f"{team}_2", key.name)
    for resource, used, held in [
        ("ai_credits", 20, 30),
        ("call_seconds", 0, 30),
        ("concurrent_calls", 1, 0),
    ]:
        old, new = await limit(direct, sibling, resource), await limit(direct, moved, resource)
        assert (old.used, old.reserved) == (used, held)
        assert (new.used, new.reserved) == (0, 0)
    late = await spend(direct, thread, "0.1")
    assert late.threads[thread.id].usage_stats["total_cost_usd"] == Decimal("0.3")
    assert (await limit(direct, sibling, "ai_credits")).used == 30


async def test_a_team_is_counted_whole_with_and_without_a_quota(
    direct: Database, team: str
) -> None:
    key, sibling = await a_key(direct, team), await a_key(direct, team)
    await spend(direct, await a_thread(direct, sibling), "0.2")
    without = await limit(direct, key, "ai_credits")
    await direct.operating.set_team_quota(team, "ai_credits", Decimal(100))
    with_quota = await limit(direct, key, "ai_credits")
    assert (without.used, without.limit, without.is_reached) == (20, None, False)
    assert (with_quota.used, with_quota.limit, with_quota.is_reached) == (20, 100, False)


async def test_no_key_sees_or_feels_the_limits_of_another_team(direct: Database, team: str) -> None:
    mine, theirs = await a_key(direct, team), await a_key(direct, f"{team}_2")
    await spend(direct, await a_thread(direct, theirs), "7")
    for resource in ("ai_credits", "call_seconds", "concurrent_calls"):
        await direct.operating.set_team_quota(theirs.team_id, resource, Decimal(0))
    await direct.operating.set_budget(theirs.id, Decimal(1))
    states, budget = await direct.get_limits(mine.id, CREDITS)
    assert budget is None
    assert {(s.used, s.reserved, s.limit) for s in states} == {(0, 0, None)}
    await a_join(direct, mine, "1", terms=CREDITS)
    await refused(direct, theirs, "0", terms=CREDITS, override=True)


async def test_every_limit_of_a_key_is_listed(direct: Database, team: str) -> None:
    key = await a_key(direct, team)
    await direct.operating.set_team_quota(team, "call_seconds", Decimal("3600"))
    terms = Terms(CREDITS.buckets, {"voice_bot": 3})
    states, budget = await direct.get_limits(key.id, terms, FEB)
    assert budget is None
    listed = [(s.resource, s.scope, s.product, s.limit, s.resets_at) for s in states]
    assert sorted(listed, key=str) == [
        ("ai_credits", "team", None, None, MARCH),
        ("budget_usd", "key", None, None, MARCH),
        ("call_seconds", "team", None, 3600, MARCH),
        ("concurrent_calls", "key", "voice_bot", 3, None),
        ("concurrent_calls", "team", None, None, None),
        ("gold", "team", None, None, MARCH),
    ]


@pytest.mark.parametrize(
    ("resource", "quota"),
    [("ai_credits", "-1"), ("ai_credits", "NaN"), ("ai_credits", "1e12"), ("AI credits", "1")],
)
async def test_a_quota_that_is_none_is_refused(
    direct: Database, team: str, resource: str, quota: str
) -> None:
    with pytest.raises(InvalidInput):
        await direct.operating.set_team_quota(team, resource, Decimal(quota))
    assert await direct.operating.list_team_quotas(team, CREDITS) == []


@st.composite
def usage(draw: st.DrawFn) -> dict[str, Any]:
    """What differs between events of four threads; the second and fourth are not billed."""
    month, day = draw(st.sampled_from([(12, 31), (1, 1), (2, 28), (2, 1), (3, 1)]))
    usd = st.decimals(0, 50, places=draw(st.sampled_from([0, 4, 18])))
    return {
        "thread": draw(st.integers(0, 3)),
        "is_free": draw(st.booleans()),
        "kind": draw(st.sampled_from([Kind.LLM, Kind.TTS, Kind.CALL])),
        "usd": draw(st.none() | usd),
        "secs": draw(st.decimals(Decimal("0.001"), 900, places=3)),
        "at": datetime(2025 if month == 12 else 2026, month, day, 23, tzinfo=UTC)
        + timedelta(minutes=draw(st.integers(-1380, 59))),
    }


MONTHS = """
select api_key_id, date_trunc('month', {day})::date, team_id, product,
  coalesce(sum(total_cost_usd), 0), coalesce(sum(total_cost_usd) filter (where billable), 0),
  coalesce(sum({seconds}) filter (where kind = 'call'), 0)
from {table} where api_key_id = any (%(keys)s) group by 1, 2, 3, 4 order by 1, 2, 3, 4
"""
LEDGER = {
    "table": "usage_events",
    "day": "(occurred_at at time zone 'UTC')::date",
    "seconds": "(select sum((line ->> 'quantity')::numeric) from jsonb_array_elements(lines) line"
    " where line ->> 'unit' = 'call_seconds')",
}
DAYS = {
    "table": "usage_daily",
    "day": "day",
    "seconds": "(select l.quantity from usage_daily_lines l"
    " where l.usage_daily_id = usage_daily.id and l.unit = 'call_seconds')",
}
ROLLUP = """
select api_key_id, month, team_id, product, total_cost_usd, billable_cost_usd, call_seconds
from usage_monthly where api_key_id = any (%(keys)s) order by 1, 2, 3, 4
"""


@given(events=st.lists(usage(), min_size=1, max_size=12))
@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_months_days_and_ledger_agree_and_credits_are_cents_of_billable_cost(
    direct: Database, sql: psycopg.Connection, events: list[dict[str, Any]]
) -> None:
    team = f"team_{uuid4().hex}"
    keys = [await a_key(direct, team) for _ in range(2)]
    threads = [
        await a_thread(direct, key, billable=billable, product=product)
        for key, product in zip(keys, ("voice_bot", "survey"), strict=True)
        for billable in (True, False)
    ]
    made = [_made(threads[one["thread"]], one) for one in events]
    await direct.record_usage(made)
    await direct.record_usage(made[:3])
    given = {"keys": [key.id for key in keys]}
    rollup = sql.execute(ROLLUP, given).fetchall()
    for names in (LEDGER, DAYS):
        assert sql.execute(MONTHS.format(**names).encode(), given).fetchall() == rollup
    for month in {event.occurred_at.replace(day=1) for event in made}:
        ours = [e for e in made if e.occurred_at.replace(day=1).date() == month.date()]
        with localcontext(prec=60):
            billed = sum((e.cost.total for e in ours if e.cost and e.owner.billable), Decimal(0))
            secs = sum(
                (e.quantities.seconds("call_seconds") for e in ours if e.kind is Kind.CALL),
                Decimal(0),
            )
            assert (await limit(direct, keys[0], "ai_credits", month)).used == billed * 100
        assert (await limit(direct, keys[1], "call_seconds", month)).used == secs


def _made(thread: Thread, given: dict[str, Any]) -> Any:
    billable = thread.billable and not given["is_free"]
    owner = replace(thread.owner, billable=billable)
    unit = "call_seconds" if given["kind"] is Kind.CALL else "audio_seconds"
    return an_event(
        thread,
        owner=owner,
        source="insights" if given["is_free"] else "bot",
        kind=given["kind"],
        cost=None if given["usd"] is None else Cost({unit: given["usd"]}),
        quantities=Quantities({unit: given["secs"]}),
        occurred_at=given["at"],
    )
