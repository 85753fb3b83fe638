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

from flow.db.functions import Database
from flow.domain.thread import Status, Thread
from flow.domain.usage import Cost, Kind, Outcome, Provenance, Quantities, UsageEvent
from tests.db.making import a_key, a_thread, account_of, an_event, owner_of

MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)


def _work(random: Random) -> dict[str, Any]:
    """What differs between the events of one call."""
    counts = [random.choice([0, random.randrange(5000)]) for _ in range(4)]
    parts = [random.randint(0, counts[whole]) for whole in (3, 0, 3, 1)]
    seconds = Decimal(random.randrange(600_000)).scaleb(-3)
    return {
        "kind": random.choice(list(Kind)),
        "source": random.choice(["bot", "insights"]),
        "provider": random.choice(["openai", "anthropic"]),
        "model": random.choice(["a", "b/c", 'quo"te', "ünï"]),
        "quantities": Quantities(*counts, *parts, random.randrange(900), seconds),
        "provenance": random.choice(list(Provenance)),
        "outcome": random.choice(list(Outcome)),
        "cost": random.choice([None, *[Cost(*(_usd(random) for _ in range(9)))] * 4]),
        "occurred_at": MIDNIGHT + timedelta(seconds=random.randint(-100_000, 100_000)),
    }


def _usd(random: Random) -> Decimal:
    digits, scale = random.choice([(1, 0), (10**13, 12), (10**30, 34)])
    return Decimal(random.randrange(digits)).scaleb(-scale)


WORK = [_work(Random(seed)) for seed in range(60)]


@st.composite
def senders(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[list[list[int]]]]:
    """Events as (thread, piece of work), and for each sender batches of them with repeats."""
    one = st.tuples(st.integers(0, 2), st.integers(0, len(WORK) - 1))
    events = draw(st.lists(one, min_size=1, max_size=25))
    batch = st.lists(st.integers(0, len(events) - 1), min_size=1, max_size=12)
    return events, draw(st.lists(st.lists(batch, min_size=1, max_size=3), min_size=1, max_size=4))


@given(sent=senders(), poison=st.booleans())
@settings(
    max_examples=15,
    deadline=None,
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
    events = [an_event(threads[n], **WORK[work]) for n, work in made]
    rotten = [an_event(threads[0], cost=Cost(stt=Decimal("NaN")))] if poison else []

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


SUMS = """
select day, team_id, product, billable, kind, source, provider, model, count(*),
  sum(input_tokens), sum(cache_read_tokens), sum(cache_write_tokens), sum(output_tokens),
  sum(reasoning_tokens), sum(input_audio_tokens), sum(output_audio_tokens),
  sum(cache_read_audio_tokens), sum(characters), sum(audio_seconds),
  count(*) filter (where provenance = 'estimated'), count(*) filter (where total_cost_usd is null),
  count(*) filter (where outcome = 'interrupted'), count(*) filter (where outcome = 'error'),
  coalesce(sum(input_cost_usd), 0), coalesce(sum(cache_read_cost_usd), 0),
  coalesce(sum(cache_write_cost_usd), 0), coalesce(sum(output_cost_usd), 0),
  coalesce(sum(audio_input_cost_usd), 0), coalesce(sum(audio_output_cost_usd), 0),
  coalesce(sum(tts_cost_usd), 0), coalesce(sum(stt_cost_usd), 0), coalesce(sum(call_cost_usd), 0),
  coalesce(sum(total_cost_usd), 0)
from usage_events, lateral (select (occurred_at at time zone 'UTC')::date as day) d
where api_key_id = %(key)s
group by 1, 2, 3, 4, 5, 6, 7, 8
"""
ROLLUP = """
select day, team_id, product, billable, kind, source, provider, model, events,
  input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
  input_audio_tokens, output_audio_tokens, cache_read_audio_tokens, characters, audio_seconds,
  estimated_events, unpriced_events, interrupted_events, failed_events,
  input_cost_usd, cache_read_cost_usd, cache_write_cost_usd, output_cost_usd,
  audio_input_cost_usd, audio_output_cost_usd, tts_cost_usd, stt_cost_usd, call_cost_usd,
  total_cost_usd
from usage_daily where api_key_id = %(key)s
"""


def _rollup_agrees(sql: psycopg.Connection, key_id: object) -> None:
    ledger = sql.execute(SUMS, {"key": key_id}).fetchall()
    rollup = sql.execute(ROLLUP, {"key": key_id}).fetchall()
    assert sorted(ledger) == sorted(rollup)


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
    await direct.record_usage([an_event(thread, cost=Cost(input=tiny, output=big))])
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
    lost = an_event(thread, owner=replace(owner_of(thread), workflow_thread_id=uuid4()))
    malformed = an_event(thread, cost=Cost(input=Decimal("NaN")))
    for _ in range(2):
        await direct.record_usage([lost, malformed, an_event(thread)])
    kept = sql.execute("select event, reason from rejected_usage_events order by id").fetchall()
    assert {event["id"] for event, _ in kept} == {str(lost.id), str(malformed.id)}
    assert len(kept) == 2
    assert {"input": "NaN"} in [event["cost"] for event, _ in kept]


RAW = {
    "not an object": 5,
    "no id": {},
    "an id that is none": {"id": "x"},
    "no thread": {"id": str(uuid4())},
    "a thread that is none": {"id": str(uuid4()), "workflow_thread_id": "x"},
    "an unknown cost component": {"cost": {"input": "1", "video": "2"}},
    "a cost that is no object": {"cost": "1"},
    "a fraction of a token": {"input_tokens": 1.5},
    "tokens that are no number": {"input_tokens": [1]},
    "a date that is none": {"occurred_at": "2026-13-01"},
    "a date without end": {"occurred_at": "infinity"},
    "another kind": {"kind": "video"},
    "no kind": {"kind": None},
    "more cached audio than cached": {"cache_read_audio_tokens": 21},
    "more reasoning than output": {"reasoning_tokens": 31},
}


async def test_no_malformed_event_holds_up_a_batch(
    direct: Database, sql: psycopg.Connection
) -> None:
    thread = await a_thread(direct, await a_key(direct))
    sound = an_event(thread)
    batch: list[Any] = [sound.to_json()]
    for wrong in RAW.values():
        known = isinstance(wrong, dict) and not {"id", "workflow_thread_id"} & set(wrong) and wrong
        batch.append(an_event(thread).to_json() | wrong if known else wrong)
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
