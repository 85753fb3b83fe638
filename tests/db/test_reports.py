"""Reports of a key's usage, over both transports."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from flow.db.database import Database
from flow.domain.limits.api_key import ApiKey
from flow.domain.usage.events import Cost, Kind, Outcome, Provenance, Quantities
from flow.errors import InvalidInput
from tests.db.making import a_key, a_thread, an_event

FIRST, SECOND = date(2026, 11, 20), date(2026, 11, 21)


@pytest.fixture
async def key(database: Database) -> ApiKey:
    """A key with two days of usage, and another key with as much."""
    for _ in range(2):
        key = await a_key(database)
        bot = await a_thread(database, key)
        test = await a_thread(database, key, product="survey", billable=False)
        await database.record_usage(
            [
                an_event(bot, occurred_at=datetime(2026, 11, 20, 23, 59, 59, tzinfo=UTC)),
                an_event(bot, occurred_at=datetime(2026, 11, 21, 0, 0, 0, tzinfo=UTC)),
                an_event(
                    bot,
                    outcome=Outcome.ERROR,
                    cost=None,
                    quantities=Quantities(
                        input_tokens=100,
                        cache_read_tokens=20,
                        output_tokens=30,
                        reasoning_tokens=5,
                    ),
                ),
                an_event(test, model="gpt-4.1-mini", source="insights"),
                an_event(
                    bot,
                    kind=Kind.TTS,
                    provider="cartesia",
                    model="sonic",
                    quantities=Quantities(characters=10, audio_seconds=Decimal("1.50")),
                    provenance=Provenance.ESTIMATED,
                    cost=Cost(characters=Decimal("0.10")),
                ),
                an_event(bot, kind=Kind.CALL, cost=None, quantities=Quantities()),
                an_event(
                    bot,
                    kind=Kind.STT,
                    provider="deepgram",
                    model="nova-3",
                    provenance=Provenance.UNMETERED,
                    cost=None,
                    quantities=Quantities(),
                ),
            ]
        )
    return key


async def report(database: Database, key: ApiKey, *group_by: str, **between: date) -> Any:
    days = {"from_": FIRST, "to": SECOND} | between
    return await database.get_usage_stats_by_api_key_id(key.id, group_by=group_by, **days)


async def test_without_groups_there_is_one_row_of_sums(database: Database, key: ApiKey) -> None:
    assert await report(database, key) == [
        {
            "events": 7,
            "llm_calls": 4,
            "total_tokens": 600,
            "estimated_events": 1,
            "unpriced_events": 3,
            "unmetered_events": 1,
            "interrupted_events": 0,
            "failed_events": 1,
            "total_cost_usd": "0.10132",
            "billable_cost_usd": "0.10088",
            "lines": [
                line("llm", "cache_read_tokens", "llm_cache_read", "80"),
                line("llm", "input_tokens", "llm_input", "400", "0.0006"),
                line("llm", "output_tokens", "llm_output", "120", "0.00072"),
                line("llm", "reasoning_tokens", "llm_output", "5", None, "output_tokens"),
                line("tts", "audio_seconds", "tts", "1.5"),
                line("tts", "characters", "tts", "10", "0.1"),
            ],
        }
    ]


def line(
    kind: str,
    unit: str,
    component: str,
    quantity: str,
    cost_usd: str | None = None,
    part_of: str | None = None,
) -> dict[str, str | None]:
    """A line of a report."""
    return {
        "kind": kind,
        "unit": unit,
        "component": component,
        "part_of": part_of,
        "quantity": quantity,
        "cost_usd": cost_usd,
    }


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (["day"], {("2026-11-20",): 1, ("2026-11-21",): 6}),
        (["kind"], {("llm",): 4, ("tts",): 1, ("stt",): 1, ("call",): 1}),
        (["product"], {("voice_bot",): 6, ("survey",): 1}),
        (["source"], {("bot",): 6, ("insights",): 1}),
        (["provider"], {("openai",): 5, ("cartesia",): 1, ("deepgram",): 1}),
        (
            ["model"],
            {("gpt-4.1",): 4, ("gpt-4.1-mini",): 1, ("sonic",): 1, ("nova-3",): 1},
        ),
        (
            ["model", "day"],
            {
                ("gpt-4.1", "2026-11-20"): 1,
                ("gpt-4.1", "2026-11-21"): 3,
                ("gpt-4.1-mini", "2026-11-21"): 1,
                ("sonic", "2026-11-21"): 1,
                ("nova-3", "2026-11-21"): 1,
            },
        ),
    ],
)
async def test_a_report_has_a_row_for_each_group(
    database: Database, key: ApiKey, groups: list[str], expected: dict[tuple[str, ...], int]
) -> None:
    rows = await report(database, key, *groups)
    assert {tuple(row[name] for name in groups): row["events"] for row in rows} == expected
    whole = (await report(database, key))[0]
    assert all(set(row) == set(whole) | set(groups) for row in rows)
    costs = [Decimal(row["total_cost_usd"] or 0) for row in rows]
    assert sum(costs) == Decimal(whole["total_cost_usd"])
    assert amounts(rows) == amounts([whole])


def amounts(rows: list[dict[str, Any]]) -> dict[tuple[str, str], tuple[Decimal, Decimal]]:
    """Quantity and cost of each kind and unit, over all rows."""
    sums: dict[tuple[str, str], tuple[Decimal, Decimal]] = {}
    for one in (one for row in rows for one in row["lines"]):
        place = one["kind"], one["unit"]
        quantity, cost = sums.get(place, (Decimal(0), Decimal(0)))
        sums[place] = quantity + Decimal(one["quantity"]), cost + Decimal(one["cost_usd"] or 0)
    return sums


async def test_days_are_utc_and_both_ends_count(database: Database, key: ApiKey) -> None:
    assert (await report(database, key, to=FIRST))[0]["events"] == 1
    assert (await report(database, key, from_=SECOND))[0]["events"] == 6
    assert await report(database, key, from_=date(2026, 11, 22), to=date(2026, 12, 1)) == []


async def test_what_has_no_price_costs_nothing_known_and_not_zero(
    database: Database, key: ApiKey
) -> None:
    by_kind = {row["kind"]: row for row in await report(database, key, "kind")}
    assert by_kind["call"]["total_cost_usd"] is None
    assert by_kind["call"]["billable_cost_usd"] is None
    assert by_kind["call"]["unpriced_events"] == 1
    assert by_kind["call"]["lines"] == []
    assert (by_kind["stt"]["unpriced_events"], by_kind["stt"]["unmetered_events"]) == (1, 1)
    assert by_kind["llm"]["total_cost_usd"] == "0.00132"


async def test_a_key_without_usage_has_no_rows(database: Database) -> None:
    days = {"from_": FIRST, "to": SECOND}
    assert await database.get_usage_stats_by_api_key_id(uuid4(), **days) == []


@pytest.mark.parametrize("groups", [["team"], ["day", "cost"], ["day; drop table"], [""]])
async def test_unknown_groups_are_refused(database: Database, groups: list[str]) -> None:
    with pytest.raises(InvalidInput, match="group_by may name"):
        await database.get_usage_stats_by_api_key_id(
            uuid4(), from_=FIRST, to=SECOND, group_by=groups
        )


async def test_days_the_wrong_way_round_are_refused(database: Database) -> None:
    with pytest.raises(InvalidInput, match="is after"):
        await database.get_usage_stats_by_api_key_id(uuid4(), from_=SECOND, to=FIRST)
