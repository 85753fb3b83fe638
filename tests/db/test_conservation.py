"""Whatever is sent, however often and by whomever at once: ledger = rollup = usage_stats."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, localcontext
from random import Random
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flow.db.database import Database
from flow.domain.calls.thread import Status, Thread
from flow.domain.usage.events import Cost, Kind, Outcome, Provenance, Quantities, UsageEvent
from flow.domain.usage.units import UNITS, Measure
from tests.db.making import a_key, a_thread, account_of, an_event

MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)


def _work(random: Random) -> dict[str, Any]:
    """What differs between the events of one call."""
    kind = random.choice(list(Kind))
    provenance = random.choice(list(Provenance))
    quantities = Quantities()
    if provenance is not Provenance.UNMETERED:
        quantities = Quantities(_amounts(random))
    cost = Cost({unit: _usd(random) for unit in quantities if random.random() < 0.7})
    is_unpriced = provenance is Provenance.UNMETERED or random.random() < 0.2
    return {
        "kind": kind,
        "source": random.choice(["bot", "insights"]),
        "provider": random.choice(["openai", "anthropic"]),
        "model": random.choice(["a", "b/c", 'quo"te', "ünï"]),
        "quantities": quantities,
        "provenance": provenance,
        "outcome": random.choice(list(Outcome)),
        "cost": None if is_unpriced else cost,
        "occurred_at": MIDNIGHT + timedelta(seconds=random.randint(-100_000, 100_000)),
    }


def _amounts(random: Random) -> dict[str, int | Decimal]:
    """Some of every unit there is, parts no larger than their wholes."""
    amounts: dict[str, int | Decimal] = {}
    for unit in sorted(UNITS.values(), key=lambda unit: unit.part_of is not None):
        if unit.measure is Measure.SECONDS:
            amounts[unit.name] = Decimal(random.choice([0, random.randrange(600_000)])).scaleb(-3)
        elif unit.part_of is None:
            amounts[unit.name] = random.choice([0, random.randrange(5000)])
        else:
            amounts[unit.name] = random.randint(0, int(amounts[unit.part_of]))
    return amounts


def _usd(random: Random) -> Decimal:
    digits, scale = random.choice([(1, 0), (10**13, 12), (10**30, 34)])
    return Decimal(random.randrange(digits)).scaleb(-scale)


WORK = [_work(Random(seed)) for seed in range(60)]


@st.composite
def senders(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[list[list[int]]]]:
    """Events as (thread or 3 for none, piece of work), and for each sender batches of them with
    repeats."""
    one = st.tuples(st.integers(0, 3), st.integers(0, len(WORK) - 1))
    events = draw(st.lists(one, min_size=1, max_size=25))
    batch = st.lists(st.integers(0, len(events) - 1), min_size=1, max_size=12)
    return events, draw(st.lists(st.lists(batch, min_size=1, max_size=3), min_size=1, max_size=4))


@given(sent=senders(), poison=st.booleans())
@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_ledger_rollup_and_usage_stats_agree_to_the_last_digit(
    direct: Database,
    sql: psycopg.Connection,
    sent: tuple[list[tuple[int, int]], list[list[list[int]]]],
    poison: bool,
) -> None:
    made, plans = sent
    key = await a_key(direct)
    threads = [await a_thread(direct, key, billable=n > 0) for n in range(3)]
    owners = [
        *(thread.owner for thread in threads),
        replace(threads[1].owner, workflow_thread_id=None),
    ]
    events = [an_event(threads[0], owner=owners[n], **WORK[work]) for n, work in made]
    rotten = [an_event(threads[0], cost=Cost(output_tokens=Decimal("NaN")))] if poison else []

    async def send(batches: list[list[int]]) -> None:
        for batch in batches:
            await direct.record_usage([events[n] for n in batch] + rotten)

    await asyncio.gather(*(send(batches) for batches in plans))
    kept = {n for batches in plans for batch in batches for n in batch}
    for thread in threads:
        ours = [events[n] for n in kept if events[n].owner.workflow_thread_id == thread.id]
        await _agrees(direct, thread, ours)
    _rollup_agrees(sql, key.id)


async def _agrees(database: Database, thread: Thread, events: list[UsageEvent]) -> None:
    rows = await database.get_thread_usage(thread.id)
    assert {row["id"] for row in rows} == {str(event.id) for event in events}
    expected = account_of(thread.id, events)
    running = (await database.get_workflow_thread_data(thread.id)).usage_stats
    assert running == expected
    with localcontext(prec=200):
        assert sum(running["cost_breakdown_usd"].values()) == running["total_cost_usd"]
    settled = await database.finish_thread(thread.id, Status.CANCELLED)
    assert settled.usage_stats == expected


GROUP = "day, team_id, product, billable, kind, source, provider, model"
SUMS = f"""
select {GROUP}, count(*),
  coalesce(sum((
    select sum((line ->> 'quantity')::numeric) from jsonb_array_elements(lines) line
    where line ->> 'unit' like '%%\\_tokens' and not line ? 'part_of'
  )), 0),
  count(*) filter (where provenance = 'estimated'), count(*) filter (where total_cost_usd is null),
  count(*) filter (where provenance = 'unmetered'),
  count(*) filter (where outcome = 'interrupted'), count(*) filter (where outcome = 'error'),
  coalesce(sum(total_cost_usd), 0)
from usage_events, lateral (select (occurred_at at time zone 'UTC')::date as day) d
where api_key_id = %(key)s
group by {GROUP}
"""
ROLLUP = f"""
select {GROUP}, events, total_tokens, estimated_events, unpriced_events, unmetered_events,
  interrupted_events, failed_events, total_cost_usd
from usage_daily where api_key_id = %(key)s
"""
LINES = f"""
select {GROUP}, unit, component, coalesce(part_of, ''), sum(quantity), sum(cost_usd)
from usage_events, lateral (select (occurred_at at time zone 'UTC')::date as day) d,
  jsonb_to_recordset(lines) as line (
    unit text, component text, part_of text, quantity numeric, cost_usd numeric
  )
where api_key_id = %(key)s
group by {GROUP}, unit, component, part_of
"""
ROLLED_UP_LINES = f"""
select {GROUP}, unit, component, coalesce(part_of, ''), quantity, cost_usd
from usage_daily d join usage_daily_lines on usage_daily_id = d.id where api_key_id = %(key)s
"""
MONTH = """
select coalesce(sum(total_cost_usd), 0), coalesce(sum(total_cost_usd) filter (where billable), 0)
from usage_events where api_key_id = %(key)s
union all
select coalesce(sum(total_cost_usd), 0), coalesce(sum(billable_cost_usd), 0)
from usage_monthly where api_key_id = %(key)s
"""


def _rollup_agrees(sql: psycopg.Connection, key_id: object) -> None:
    for ledger, rollup in ((SUMS, ROLLUP), (LINES, ROLLED_UP_LINES)):
        kept = sql.execute(ledger.encode(), {"key": key_id}).fetchall()
        summed = sql.execute(rollup.encode(), {"key": key_id}).fetchall()
        assert sorted(kept, key=str) == sorted(summed, key=str)
    one, other = sql.execute(MONTH, {"key": key_id}).fetchall()
    assert one == other


async def test_batches_over_the_same_threads_and_days_never_deadlock(
    direct: Database, sql: psycopg.Connection
) -> None:
    key = await a_key(direct)
    threads = [await a_thread(direct, key) for _ in range(6)]
    events = [an_event(threads[n % 6], model=f"m{n % 5}") for n in range(240)]

    async def send(n: int) -> None:
        turned = events[n * 30 :] + events[: n * 30]
        for batch in (turned[:120], list(reversed(turned)), turned[60:]):
            await direct.record_usage(batch)

    await asyncio.gather(*(send(n) for n in range(8)))
    for n, thread in enumerate(threads):
        await _agrees(direct, thread, events[n::6])
    _rollup_agrees(sql, key.id)


async def test_finishing_while_usage_arrives_loses_none_of_it(direct: Database) -> None:
    key = await a_key(direct)
    thread = await a_thread(direct, key)
    events = [an_event(thread) for _ in range(40)]
    await asyncio.gather(
        *(direct.record_usage([event]) for event in events),
        direct.finish_thread(thread.id, Status.CANCELLED),
    )
    await _agrees(direct, thread, events)


async def test_numbers_of_an_account_are_exact_in_the_database(
    direct: Database, sql: psycopg.Connection
) -> None:
    thread = await a_thread(direct, await a_key(direct))
    tiny, big = Decimal("0.0000000000000000000001"), Decimal("99999999.1")
    exact = "99999999.1000000000000000000001"
    await direct.record_usage([an_event(thread, cost=Cost(input_tokens=tiny, output_tokens=big))])
    row = sql.execute(
        "select usage_stats ->> 'total_cost_usd', total_cost_usd, total_tokens, llm_calls"
        " from workflow_threads t join workflow_thread_usage u on u.workflow_thread_id = t.id"
    ).fetchone()
    assert row == (exact, Decimal(exact), 150, 1)
    (day,) = await direct.get_usage_stats_by_api_key_id(
        thread.api_key_id, from_=date(2026, 11, 21), to=date(2026, 11, 21)
    )
    assert day["total_cost_usd"] == exact


async def test_a_rejected_event_is_kept_once_as_it_came(
    direct: Database, sql: psycopg.Connection
) -> None:
    thread = await a_thread(direct, await a_key(direct))
    lost = an_event(thread, owner=replace(thread.owner, workflow_thread_id=uuid4()))
    malformed = an_event(thread, cost=Cost(input_tokens=Decimal("NaN")))
    for _ in range(2):
        await direct.record_usage([lost, malformed, an_event(thread)])
    kept = sql.execute("select event, reason from rejected_usage_events order by id").fetchall()
    assert {event["id"] for event, _ in kept} == {str(lost.id), str(malformed.id)}
    assert len(kept) == 2
    assert "NaN" in [event["total_cost_usd"] for event, _ in kept]


def lines(*changed: dict[str, Any]) -> dict[str, Any]:
    """The lines of an unpriced event, with something changed about the first."""
    known = {"unit": "output_tokens", "quantity": "30", "component": "llm_output"}
    return {"lines": [{**known, **line} for line in changed], "total_cost_usd": None}


PART = {"unit": "reasoning_tokens", "part_of": "output_tokens"}
RAW: dict[str, Any] = {
    "not an object": 5,
    "no id": {},
    "an id that is none": {"id": "x"},
    "no thread and no key": {"id": str(uuid4())},
    "a thread that is none": {"id": str(uuid4()), "workflow_thread_id": "x"},
    "a key that is none": {"workflow_thread_id": None, "api_key_id": str(uuid4())},
    "a key of another team": {"workflow_thread_id": None, "team_id": "another"},
    "a date that is none": {"occurred_at": "2026-13-01"},
    "a date without end": {"occurred_at": "infinity"},
    "a kind that is no name": {"kind": "Video!"},
    "no kind": {"kind": None},
    "a provenance that is no name": {"provenance": ""},
    "another outcome": {"outcome": "late"},
    "no lines": {"lines": None},
    "lines that are no list": {"lines": {"unit": "output_tokens"}},
    "a line that is no object": {"lines": ["output_tokens"]},
    "a unit that is no name": lines({"unit": "Tokens"}),
    "a unit with a quote": lines({"unit": 'a"b'}),
    "a unit whose name is too long": lines({"unit": "a" * 64}),
    "no unit": lines({"unit": None}),
    "a component that is no name": lines({"component": "llm output"}),
    "no component": lines({"component": None}),
    "no quantity": lines({"quantity": None}),
    "nothing of a unit": lines({"quantity": "0"}),
    "less than nothing": lines({"quantity": "-1"}),
    "a quantity that is no number": lines({"quantity": [1]}),
    "a quantity that is not a number": lines({"quantity": "NaN"}),
    "infinitely much": lines({"unit": "seconds", "quantity": "Infinity"}),
    "a fraction of a token": lines({"quantity": "1.5"}),
    "a fraction of a character": lines({"unit": "characters", "quantity": "1.5"}),
    "too many tokens": lines({"quantity": "2147483648"}),
    "too many seconds": lines({"unit": "seconds", "quantity": "1000000000"}),
    "too fine a second": lines({"unit": "seconds", "quantity": "1e-51"}),
    "a unit twice": lines({}, {}),
    "a part of what is not there": lines({**PART, "part_of": "input_tokens"}),
    "a part of itself": lines({"part_of": "output_tokens"}),
    "a part larger than its whole": lines({}, {**PART, "quantity": "31"}),
    "a cost without a total": lines({"cost_usd": "1"}),
    "a total that is not the sum": lines({"cost_usd": "1"}) | {"total_cost_usd": "1.000001"},
    "a total of no costs": lines({}) | {"total_cost_usd": "1"},
    "a negative cost": lines({"cost_usd": "-1"}) | {"total_cost_usd": "-1"},
    "a cost that is no number": lines({"cost_usd": "NaN"}) | {"total_cost_usd": "NaN"},
    "too high a cost": lines({"cost_usd": "1e9"}) | {"total_cost_usd": "1e9"},
    "too fine a cost": lines({"cost_usd": "1e-51"}) | {"total_cost_usd": "1e-51"},
    "unmetered work with a line": lines({}) | {"provenance": "unmetered"},
    "unmetered work with a cost": {
        "lines": [],
        "total_cost_usd": "0",
        "provenance": "unmetered",
    },
}


async def test_no_malformed_event_holds_up_a_batch(
    direct: Database, sql: psycopg.Connection
) -> None:
    thread = await a_thread(direct, await a_key(direct))
    sound = an_event(thread)
    batch: list[Any] = [sound.to_json()]
    for wrong in RAW.values():
        is_whole = not isinstance(wrong, dict) or "id" in wrong or not wrong
        batch.append(wrong if is_whole else an_event(thread).to_json() | wrong)
    (row,) = sql.execute("select record_usage(%s)", (json.dumps(batch),)).fetchone() or [None]
    assert row["new"] == [str(sound.id)]
    assert len(row["rejected"]) == len(RAW), row["rejected"]
    assert all(refused["reason"] for refused in row["rejected"])
    await _agrees(direct, thread, [sound])


@pytest.mark.parametrize("wrong", ["null", "{}", "5"])
def test_events_are_a_list(sql: psycopg.Connection, wrong: str) -> None:
    with pytest.raises(psycopg.Error) as refusal:
        sql.execute("select record_usage(%s)", (wrong,))
    assert refusal.value.sqlstate == "PT422"


async def test_units_components_and_kinds_are_data(
    direct: Database, sql: psycopg.Connection
) -> None:
    """Of what no registry knows, everything is kept and summed all the same."""
    thread = await a_thread(direct, await a_key(direct))
    leg = {
        "kind": "telephony",
        "provider": "twilio",
        "model": "outbound",
        "provenance": "told_later",
        "total_cost_usd": "0.0145",
        "lines": [
            {
                "unit": "carrier_minutes",
                "quantity": "1.5",
                "component": "telephony",
                "cost_usd": "0.014",
            },
            {
                "unit": "recorded_minutes",
                "quantity": "0.5",
                "component": "telephony",
                "cost_usd": "0.0005",
                "part_of": "carrier_minutes",
            },
        ],
    }
    picture = {
        "total_cost_usd": "0.5",
        "lines": [
            {
                "unit": "video_tokens",
                "quantity": 700,
                "component": "llm_video",
                "cost_usd": 0.5,
            },
            {
                "unit": "sky_tokens",
                "quantity": 300,
                "component": "llm_video",
                "part_of": "video_tokens",
            },
        ],
    }
    batch = [
        an_event(thread).to_json() | changed for changed in (leg, picture, leg) for _ in range(2)
    ]
    (row,) = sql.execute("select record_usage(%s)", (json.dumps(batch),)).fetchone() or [None]
    assert row["rejected"] == []
    running = (await direct.get_workflow_thread_data(thread.id)).usage_stats
    assert running["telephony"] == {
        "carrier_minutes": 6,
        "recorded_minutes": 2,
        "cost_usd": Decimal("0.058"),
    }
    model = running["models_used"]["openai/gpt-4.1"]
    assert (model["video_tokens"], model["sky_tokens"], model["llm_calls"]) == (1400, 600, 2)
    assert running["total_tokens"] == 1400
    costs = running["cost_breakdown_usd"]
    assert (costs["telephony"], costs["llm_video"]) == (Decimal("0.058"), 1)
    assert running["total_cost_usd"] == sum(costs.values()) == Decimal("1.058")
    _rollup_agrees(sql, thread.api_key_id)
    (day,) = await direct.get_usage_stats_by_api_key_id(
        thread.api_key_id, from_=date(2026, 11, 21), to=date(2026, 11, 21)
    )
    assert (day["total_tokens"], day["total_cost_usd"]) == (1400, "1.058")
    assert [line for line in day["lines"] if line["kind"] == "telephony"] == [
        {
            "kind": "telephony",
            "unit": "carrier_minutes",
            "component": "telephony",
            "part_of": None,
            "quantity": "6",
            "cost_usd": "0.056",
        },
        {
            "kind": "telephony",
            "unit": "recorded_minutes",
            "component": "telephony",
            "part_of": "carrier_minutes",
            "quantity": "2",
            "cost_usd": "0.002",
        },
    ]
    settled = await direct.finish_thread(thread.id, Status.CANCELLED)
    assert settled.usage_stats == running
    kept = await direct.get_thread_usage(thread.id)
    assert {line["unit"]: line["quantity"] for line in kept[-1]["lines"]} in (
        {"carrier_minutes": "1.5", "recorded_minutes": "0.5"},
        {"video_tokens": "700", "sky_tokens": "300"},
    )
