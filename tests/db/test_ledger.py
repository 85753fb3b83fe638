"""The way into the ledger, over both transports."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from flow.db.database import Database
from flow.domain.calls.thread import Status
from flow.domain.usage.events import (
    Cost,
    CostControl,
    Failure,
    Kind,
    Outcome,
    Provenance,
    Quantities,
    UsageEvent,
)
from flow.domain.usage.units import UNITS, Measure
from tests.db.making import a_key, a_thread, account_of, an_event, as_read

COUNTED = [unit.name for unit in UNITS.values() if unit.measure is not Measure.SECONDS]


async def account(database: Database, thread_id: Any) -> Any:
    return as_read((await database.get_workflow_thread_data(thread_id)).usage_stats)


async def test_an_event_comes_back_from_the_ledger_as_it_was_sent(database: Database) -> None:
    thread = await a_thread(database, await a_key(database))
    event = an_event(
        thread,
        requested_model="gpt-4.1-latest",
        service_tier="flex",
        sent_model="gpt-4.1-nano",
        quantities=Quantities(dict.fromkeys(COUNTED, 9) | {"audio_seconds": Decimal("0.125")}),
        provenance=Provenance.ESTIMATED,
        outcome=Outcome.ERROR,
        cost=Cost({unit: Decimal(f"0.000000{n}1") for n, unit in enumerate(COUNTED)}),
        latency_secs=1.5,
        time_to_first_token_secs=0.25,
        stream=True,
        failure=Failure("RateLimit", "slow down", 429),
        note="no usage in the stream",
        capture=False,
        control=CostControl(True, "budget", "engage"),
    )
    bare = an_event(thread, cost=None, price_version=None, occurred_at=event.occurred_at)
    bare = replace(bare, quantities=Quantities(), occurred_at=event.occurred_at + timedelta(1))
    await database.record_usage([bare, event])
    rows = await database.get_thread_usage(thread.id, thread.api_key_id)
    assert [UsageEvent.from_json(row) for row in rows] == [event, bare]
    assert event.cost is not None
    assert [row["total_cost_usd"] for row in rows] == [f"{event.cost.total.normalize():f}", None]
    recorded_at = [row.pop("recorded_at") for row in rows]
    assert all(recorded_at)
    # What a caller says of a request is for analytics alone.
    assert all("properties" not in row for row in rows)
    assert set(rows[0]) == set(rows[1]) > set(event.to_json()) - {"properties"}
    unknown = {"cost_usd": None, "part_of": None}
    said = [
        unknown | line | {"quantity": str(line["quantity"])} for line in event.to_json()["lines"]
    ]
    lines = sorted(said, key=lambda line: str(line["unit"]))
    assert [row["lines"] for row in rows] == [lines, []]


async def test_an_account_is_the_sum_of_its_ledger_rows(database: Database) -> None:
    thread = await a_thread(database, await a_key(database))
    usd = Decimal
    events = [
        an_event(thread),
        an_event(thread, model="gpt-4.1-mini", outcome=Outcome.INTERRUPTED, cost=None),
        an_event(thread, outcome=Outcome.ERROR, provenance=Provenance.ESTIMATED),
        an_event(
            thread,
            quantities=Quantities(
                input_tokens=9, input_audio_tokens=9, output_tokens=8, output_audio_tokens=7
            ),
            cost=Cost(input_audio_tokens=usd("0.1"), output_audio_tokens=usd("0.02")),
        ),
        an_event(
            thread,
            kind=Kind.TTS,
            model="tts-1",
            quantities=Quantities(characters=90, audio_seconds=usd("6.12")),
            cost=Cost(characters=usd("0.00135")),
        ),
        an_event(
            thread,
            kind=Kind.STT,
            model="whisper-1",
            outcome=Outcome.ERROR,
            quantities=Quantities(audio_seconds=usd("70.4")),
            cost=Cost(audio_seconds=usd("0.007")),
        ),
        an_event(
            thread,
            kind=Kind.CALL,
            quantities=Quantities(call_seconds=usd(95)),
            cost=Cost(call_seconds=usd("0.01")),
        ),
    ]
    for at in range(0, len(events), 3):
        recorded = await database.record_usage(events[at : at + 3])
    expected = account_of(thread.id, events)
    assert as_read(recorded.threads[thread.id].usage_stats) == as_read(expected)
    assert await account(database, thread.id) == as_read(expected)
    done = await database.finish_thread(thread.id, Status.CANCELLED)
    assert as_read(done.usage_stats) == as_read(expected)


async def test_an_event_counts_once_however_often_it_is_sent(database: Database) -> None:
    thread = await a_thread(database, await a_key(database))
    first, second = an_event(thread), an_event(thread)
    sent = await database.record_usage([first, first])
    assert (sent.new, sent.duplicates, sent.rejected) == ({first.id}, frozenset(), {})
    again = await database.record_usage([first, second])
    assert (again.new, again.duplicates) == ({second.id}, {first.id})
    only_old = await database.record_usage([second, first, second])
    assert (only_old.new, only_old.duplicates) == (frozenset(), {first.id, second.id})
    expected = as_read(account_of(thread.id, [first, second]))
    assert as_read(only_old.threads[thread.id].usage_stats) == expected
    assert await account(database, thread.id) == expected


async def test_what_a_second_arrival_says_differently_changes_nothing(database: Database) -> None:
    thread = await a_thread(database, await a_key(database))
    event = an_event(thread)
    await database.record_usage([event])
    again = await database.record_usage([replace(event, cost=Cost(input_tokens=Decimal(9)))])
    assert again.duplicates == {event.id}
    assert await account(database, thread.id) == as_read(account_of(thread.id, [event]))


async def test_the_same_batch_from_many_senders_at_once_counts_once(database: Database) -> None:
    key = await a_key(database)
    threads = [await a_thread(database, key) for _ in range(3)]
    events = [an_event(threads[n % 3]) for n in range(30)]
    outcomes = await asyncio.gather(
        *(database.record_usage(events[n:] + events[:n]) for n in range(8))
    )
    new = [event_id for outcome in outcomes for event_id in outcome.new]
    assert sorted(new) == sorted(event.id for event in events)
    for outcome in outcomes:
        assert outcome.new | outcome.duplicates == {event.id for event in events}
    for thread in threads:
        ours = [event for event in events if event.owner.workflow_thread_id == thread.id]
        assert await account(database, thread.id) == as_read(account_of(thread.id, ours))


async def test_a_thread_that_shall_end_says_so_when_its_usage_is_recorded(
    database: Database,
) -> None:
    thread = await a_thread(database, await a_key(database))
    before = (await database.record_usage([an_event(thread)])).threads[thread.id]
    assert (before.status, before.end_requested) == (Status.CREATED, False)
    await database.save_workflow_thread_data(
        thread.id, status=Status.CONNECTING, end_requested=True
    )
    after = (await database.record_usage([an_event(thread)])).threads[thread.id]
    assert (after.status, after.end_requested) == (Status.CONNECTING, True)


async def test_usage_that_comes_after_the_end_is_accounted_too(database: Database) -> None:
    thread = await a_thread(database, await a_key(database))
    early, late = an_event(thread), an_event(thread)
    await database.record_usage([early])
    await database.finish_thread(thread.id, Status.FAILED)
    assert (await database.record_usage([late])).new == {late.id}
    assert await account(database, thread.id) == as_read(account_of(thread.id, [early, late]))


async def test_a_call_that_is_not_billable_bills_nothing(database: Database) -> None:
    thread = await a_thread(database, await a_key(database), billable=False)
    event = an_event(thread)
    recorded = await database.record_usage([event])
    stats = recorded.threads[thread.id].usage_stats
    assert float(stats["total_cost_usd"]) == float(event.cost.total)
    assert stats["billable_cost_usd"] == 0


NAN, INFINITE = Decimal("NaN"), Decimal("Infinity")
MALFORMED: list[dict[str, Any]] = [
    {"cost": Cost(input_tokens=NAN)},
    {"cost": Cost(output_tokens=INFINITE)},
    {"cost": Cost(output_tokens=Decimal(-1))},
    {"cost": Cost(output_tokens=Decimal(1).scaleb(9))},
    {"cost": Cost(output_tokens=Decimal(1).scaleb(-60))},
    {"cost": Cost(audio_seconds=Decimal(1))},
    {"quantities": Quantities(audio_seconds=INFINITE), "cost": None},
    {"quantities": Quantities(audio_seconds=Decimal(10) ** 9), "cost": None},
    {"quantities": Quantities(audio_seconds=Decimal(1).scaleb(-51)), "cost": None},
    {"quantities": Quantities(input_tokens=2**31), "cost": None},
    {"provenance": Provenance.UNMETERED},
    {"provider": ""},
    {"model": "m" * 513},
]


@pytest.mark.parametrize("wrong", MALFORMED, ids=str)
async def test_an_event_the_ledger_cannot_hold_does_not_hold_up_the_rest(
    database: Database, wrong: dict[str, Any]
) -> None:
    thread = await a_thread(database, await a_key(database))
    good, bad, after = an_event(thread), an_event(thread, **wrong), an_event(thread)
    recorded = await database.record_usage([good, bad, after])
    assert (recorded.new, set(recorded.rejected)) == ({good.id, after.id}, {bad.id})
    assert recorded.rejected[bad.id]
    assert await account(database, thread.id) == as_read(account_of(thread.id, [good, after]))


async def test_an_event_of_a_thread_that_does_not_exist_is_rejected(database: Database) -> None:
    thread = await a_thread(database, await a_key(database))
    good = an_event(thread)
    lost = replace(good, id=uuid4(), owner=replace(thread.owner, workflow_thread_id=uuid4()))
    recorded = await database.record_usage([lost, good])
    assert (recorded.new, set(recorded.rejected)) == ({good.id}, {lost.id})
    assert "no thread" in recorded.rejected[lost.id]
    assert set(recorded.threads) == {thread.id}


@pytest.mark.parametrize(
    "lie",
    [{"api_key_id": uuid4()}, {"team_id": "x"}, {"product": "x"}, {"billable": False}],
    ids=["key", "team", "product", "billable"],
)
async def test_an_event_cannot_name_another_owner_than_its_threads(
    database: Database, lie: dict[str, Any]
) -> None:
    thread = await a_thread(database, await a_key(database))
    event = an_event(thread, owner=replace(thread.owner, **lie))
    recorded = await database.record_usage([event])
    assert (recorded.new, set(recorded.rejected)) == (frozenset(), {event.id})
    assert "contradicts" in recorded.rejected[event.id]
    assert await account(database, thread.id) == as_read(account_of(thread.id, []))


async def test_an_id_taken_by_another_threads_event_is_rejected(database: Database) -> None:
    key = await a_key(database)
    thread, other = await a_thread(database, key), await a_thread(database, key)
    event = an_event(thread)
    twin = an_event(other, id=event.id)
    await database.record_usage([event])
    recorded = await database.record_usage([twin])
    assert (recorded.duplicates, set(recorded.rejected)) == (frozenset(), {event.id})
    assert await account(database, other.id) == as_read(account_of(other.id, []))


async def test_text_a_vendor_garbled_is_recorded(database: Database) -> None:
    thread = await a_thread(database, await a_key(database))
    event = an_event(thread, failure=Failure("E", "bad\0 \udc80"), latency_secs=float("nan"))
    assert (await database.record_usage([event])).new == {event.id}
    (row,) = await database.get_thread_usage(thread.id)
    assert row["failure"]["message"] == "bad\ufffd \ufffd"
    assert row["latency_secs"] is None


async def test_nothing_to_record_is_nothing_recorded(database: Database) -> None:
    recorded = await database.record_usage([])
    assert (recorded.new, recorded.duplicates, recorded.rejected) == (set(), set(), {})


async def test_ledger_rows_come_oldest_first(database: Database) -> None:
    thread = await a_thread(database, await a_key(database))
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    events = [an_event(thread, occurred_at=noon + timedelta(seconds=n)) for n in (3, 1, 2)]
    await database.record_usage(events)
    rows = await database.get_thread_usage(thread.id)
    assert [row["id"] for row in rows] == [str(events[n].id) for n in (1, 2, 0)]


@pytest.mark.parametrize(
    ("source", "call", "insights", "is_taken"),
    [
        ("insights", True, False, True),
        ("insights", True, True, True),
        ("insights", False, False, True),
        ("insights", False, True, False),
        ("bot", True, False, False),
        ("bot", False, True, False),
    ],
)
async def test_insights_may_be_free_where_the_call_is_not_and_nothing_else_differs(
    database: Database, source: str, call: bool, insights: bool, is_taken: bool
) -> None:
    thread = await a_thread(database, await a_key(database), billable=call)
    event = an_event(thread, source=source, owner=replace(thread.owner, billable=insights))
    recorded = await database.record_usage([event])
    assert (event.id in recorded.new) == is_taken
    assert (event.id in recorded.rejected) != is_taken
