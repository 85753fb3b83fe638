"""Reports of a key's usage, over both transports."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from flow.db.functions import Database
from flow.domain.key import ApiKey
from flow.domain.usage import Cost, Kind, Outcome, Provenance, Quantities
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
                an_event(bot, outcome=Outcome.ERROR, cost=None),
                an_event(test, model="gpt-4.1-mini", source="insights"),
                an_event(
                    bot,
                    kind=Kind.TTS,
                    provider="cartesia",
                    model="sonic",
                    quantities=Quantities(characters=10, audio_seconds=Decimal("1.50")),
                    provenance=Provenance.ESTIMATED,
                    cost=Cost(tts=Decimal("0.10")),
                ),
                an_event(bot, kind=Kind.CALL, cost=None, quantities=Quantities()),
            ]
        )
    return key


async def report(database: Database, key: ApiKey, *group_by: str, **between: date) -> Any:
    days = {"from_": FIRST, "to": SECOND} | between
    return await database.get_usage_stats_by_api_key_id(key.id, group_by=group_by, **days)


async def test_without_groups_there_is_one_row_of_sums(database: Database, key: ApiKey) -> None:
    assert await report(database, key) == [
        {
            "events": 6,
            "llm_calls": 4,
            "total_tokens": 600,
            "input_tokens": 400,
            "cache_read_tokens": 80,
            "cache_write_tokens": 0,
            "output_tokens": 120,
            "reasoning_tokens": 0,
            "input_audio_tokens": 0,
            "output_audio_tokens": 0,
            "cache_read_audio_tokens": 0,
            "characters": 10,
            "tts_audio_seconds": "1.5",
            "stt_audio_seconds": "0",
            "call_seconds": "0",
            "estimated_events": 1,
            "unpriced_events": 2,
            "interrupted_events": 0,
            "failed_events": 1,
            "input_cost_usd": "0.0006",
            "cache_read_cost_usd": "0",
            "cache_write_cost_usd": "0",
            "output_cost_usd": "0.00072",
            "audio_input_cost_usd": "0",
            "audio_output_cost_usd": "0",
            "tts_cost_usd": "0.1",
            "stt_cost_usd": "0",
            "call_cost_usd": "0",
            "total_cost_usd": "0.10132",
            "billable_cost_usd": "0.10088",
        }
    ]


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (["day"], {("2026-11-20",): 1, ("2026-11-21",): 5}),
        (["kind"], {("llm",): 4, ("tts",): 1, ("call",): 1}),
        (["product"], {("voice_bot",): 5, ("survey",): 1}),
        (["source"], {("bot",): 5, ("insights",): 1}),
        (["provider"], {("openai",): 5, ("cartesia",): 1}),
        (["model"], {("gpt-4.1",): 4, ("gpt-4.1-mini",): 1, ("sonic",): 1}),
        (
            ["model", "day"],
            {
                ("gpt-4.1", "2026-11-20"): 1,
                ("gpt-4.1", "2026-11-21"): 3,
                ("gpt-4.1-mini", "2026-11-21"): 1,
                ("sonic", "2026-11-21"): 1,
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


async def test_days_are_utc_and_both_ends_count(database: Database, key: ApiKey) -> None:
    assert (await report(database, key, to=FIRST))[0]["events"] == 1
    assert (await report(database, key, from_=SECOND))[0]["events"] == 5
    assert await report(database, key, from_=date(2026, 11, 22), to=date(2026, 12, 1)) == []


async def test_what_has_no_price_costs_nothing_known_and_not_zero(
    database: Database, key: ApiKey
) -> None:
    by_kind = {row["kind"]: row for row in await report(database, key, "kind")}
    assert by_kind["call"]["total_cost_usd"] is None
    assert by_kind["call"]["billable_cost_usd"] is None
    assert by_kind["call"]["unpriced_events"] == 1
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
