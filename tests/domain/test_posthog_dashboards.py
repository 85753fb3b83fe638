"""The tiles of Flow's dashboards: they read what Flow sends, and add up to what it cost."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from flow.domain.limits.api_key import ApiKey
from flow.domain.usage.events import (
    Cost,
    CostControl,
    Failure,
    Kind,
    Outcome,
    Owner,
    Provenance,
    Quantities,
    RequestIds,
    UsageEvent,
)
from flow.domain.usage.posthog_dashboards import COST_OF_CALLS, KEY_LABEL, Tile, tiles
from flow.domain.usage.posthog_properties import EVENT_NAMES
from flow.sandbox.posthog.events import Event
from flow.sandbox.posthog.queries import answer, properties_in
from flow.sandbox.posthog.query_schema import QUERY
from flow.vendors.posthog import generation_arguments
from flow.vendors.posthog_identities import person_properties
from tests.events import an_event, an_owner

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
KEY, OTHER = UUID(int=2), UUID(int=7)
NAMED = ApiKey(KEY, "key_unkey", "acme", "support")
ALL, ONE = tiles(), tiles(KEY)


def usage() -> list[UsageEvent]:
    """Work of every kind: of two calls of a key, and of another key's requests to the gateway."""
    mine = an_owner(api_key_id=KEY)
    second = an_owner(api_key_id=KEY, workflow_thread_id=UUID(int=5))
    other = an_owner(
        api_key_id=OTHER, workflow_thread_id=None, product="gateway", billable=False, team_id="b"
    )
    return [
        llm(mine, cost="0.5", at=NOW),
        llm(mine, cost="0.25", at=NOW - timedelta(days=1), outcome=Outcome.INTERRUPTED,
            provenance=Provenance.ESTIMATED),
        llm(second, cost="0.125", control=CostControl(True, "budget_engage", "engage")),
        llm(second, cost=None, quantities=Quantities(), outcome=Outcome.ERROR,
            provenance=Provenance.UNMETERED, failure=Failure("RateLimitError", "HTTP 429", 429)),
        llm(other, cost="1", model="claude", provider="anthropic",
            ids=RequestIds(distinct_id="somebody")),
        llm(other, cost="2", ids=RequestIds()),
        an_event(mine, kind=Kind.TTS, model="tts", quantities=Quantities(characters=9),
                 provenance=Provenance.MEASURED, cost=Cost(characters=Decimal("0.0625"))),
        an_event(mine, kind=Kind.STT, model="stt", provenance=Provenance.MEASURED,
                 quantities=Quantities(audio_seconds=Decimal("1.5")),
                 cost=Cost(audio_seconds=Decimal("0.03125"))),
        an_event(other, kind=Kind.EMBEDDING, model="small", quantities=Quantities(input_tokens=7),
                 cost=Cost(input_tokens=Decimal("0.015625"))),
    ]  # fmt: skip


def llm(owner: Owner, *, cost: str | None, at: datetime = NOW, **given: Any) -> UsageEvent:
    quantities = Quantities(
        input_tokens=10, cache_read_tokens=20, cache_write_tokens=5, output_tokens=8,
        reasoning_tokens=3,
    )  # fmt: skip
    known: dict[str, Any] = {
        "quantities": quantities,
        "latency_secs": 2.0,
        "time_to_first_token_secs": 0.5,
        "occurred_at": at,
        "cost": None if cost is None else Cost(output_tokens=Decimal(cost)),
    }
    return an_event(owner, **(known | given))


def sent(events: list[UsageEvent]) -> list[Event]:
    """What PostHog gets of them, and of the key that has a name."""
    found = [Event("0", "$set", str(KEY), None, {"$set": person_properties(NAMED)}, "")]
    for event in events:
        said = generation_arguments(event)
        found.append(
            Event(
                said["uuid"], EVENT_NAMES[event.kind], said["distinct_id"],
                event.occurred_at.isoformat(), said["properties"], "",
            )
        )  # fmt: skip
    return found


def shown(slug: str, of: tuple[Tile, ...] = ALL) -> Any:
    """What a tile shows of that usage."""
    (tile,) = (tile for tile in of if tile.slug == slug)
    return answer(QUERY.validate_python(tile.query), sent(usage()), NOW)["results"]


def totals(slug: str, of: tuple[Tile, ...] = ALL) -> dict[str, float]:
    """The values of a tile by what it is divided by, over its series."""
    found: dict[str, float] = defaultdict(float)
    for one in shown(slug, of):
        found[one["breakdown_value"]] += one.get("aggregated_value", one.get("count", 0))
    return {name: value for name, value in found.items() if value}


def test_every_property_and_event_that_a_tile_reads_is_one_that_flow_sends():
    events = sent(usage())[1:]
    by_event: dict[str, set[str]] = defaultdict(set)
    for event in events:
        by_event[event.name] |= set(event.properties)
    by_event["any"] = set().union(*by_event.values())
    for tile in (*ALL, *ONE):
        for event_name, property_name in read(tile.query):
            assert property_name in by_event[event_name], (tile.slug, property_name)
    seen = {name for tile in ALL for name, _ in read(tile.query)}
    assert seen == {"any", *EVENT_NAMES.values()}


def read(query: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The properties that a query reads, each with its event."""
    source = query["source"]
    filters = source.get("properties", []) or source.get("filters", {}).get("properties", [])
    common = {one["key"] for one in filters}
    if source["kind"] == "HogQLQuery":
        assert set(re.findall(r"'(\$\w+)'", source["query"])) == set(EVENT_NAMES.values())
        yield from (("any", name) for name in (*common, *properties_in(source["query"])))
        return
    by = source.get("breakdownFilter", {})
    if by.get("breakdown_type") == "hogql":
        common |= properties_in(by["breakdown"])
    elif by:
        common.add(by["breakdown"])
    for series in source["series"]:
        of = {series["math_property"]} if "math_property" in series else set()
        for name in common | of | {one["key"] for one in series.get("properties", ())}:
            yield series["event"], name


@pytest.mark.parametrize("tile", [*ALL, *ONE], ids=lambda tile: tile.slug)
def test_each_query_fits_the_schema_and_can_be_answered(tile):
    assert answer(QUERY.validate_python(tile.query), sent(usage()), NOW)["results"]
    assert answer(QUERY.validate_python(tile.query), [], NOW)["results"] == []


def test_the_schema_refuses_what_posthog_does_not_know():
    query = ALL[0].query
    for wrong in (
        query | {"unknown": 1},
        query | {"source": query["source"] | {"breakdown": "team_id"}},
        query | {"source": query["source"] | {"trendsFilter": {"display": "Bars"}}},
    ):
        with pytest.raises(ValidationError):
            QUERY.validate_python(wrong)


def test_what_a_key_costs_has_its_name_and_is_all_there():
    named = {f"support ({str(KEY)[:8]})": 0.96875, str(OTHER): 3.015625}
    assert totals("cost-by-key") == pytest.approx(named)
    assert "cost-by-key" not in {tile.slug for tile in ONE}


@pytest.mark.parametrize(
    ("slug", "expected"),
    [
        ("cost-by-day", {"llm": 3.875, "tts": 0.0625, "stt": 0.03125, "embedding": 0.015625}),
        (
            "cost-by-model",
            {"gpt-4.1": 2.875, "claude": 1, "tts": 0.0625, "stt": 0.03125, "small": 0.015625},
        ),
        ("cost-by-product", {"voice_bot": 0.96875, "gateway": 3.015625}),
        ("billable", {"true": 0.96875, "false": 3.015625}),
        ("by-status", {"200": 6, "429": 1, "$$_posthog_breakdown_null_$$": 2}),
        ("errors", {"429": 1}),
    ],
)
def test_the_cost_and_the_requests_of_all_keys(slug, expected):
    assert totals(slug) == pytest.approx(expected)


def test_a_keys_own_dashboard_has_what_is_its_own():
    assert totals("cost-by-day", ONE) == pytest.approx(
        {"llm": 0.875, "tts": 0.0625, "stt": 0.03125}
    )
    assert totals("billable", ONE) == pytest.approx({"true": 0.96875})


def test_the_cost_of_calls_by_kind():
    assert shown("cost-of-calls") == shown("cost-of-calls", ONE)
    by_call = {row[0]: row[2:] for row in shown("cost-of-calls")}
    assert by_call == {
        str(UUID(int=1)): (0.84375, 0.75, 0.0625, 0.03125, 4, 0, 0),
        str(UUID(int=5)): (0.125, 0.125, 0.0, 0.0, 2, 1, 1),
    }


def test_shares_are_of_the_days_requests():
    tiles_of_shares = ("cache-share", "interrupted-and-estimated", "save-mode")
    today = {
        one["label"]: dict(zip(one["days"], one["data"], strict=True))
        for slug in tiles_of_shares
        for one in shown(slug)
    }
    day, before = "2026-11-30", "2026-11-29"
    assert today["Interrupted"][before] == today["Estimated"][before] == 1
    assert today["Interrupted"][day] == 0
    assert today["In save mode"][before] == 0
    assert today["Read from cache"][before] == pytest.approx(20 / 35)


def test_latency_is_of_what_was_answered():
    found = {
        (one["label"], one["breakdown_value"]): one["aggregated_value"] for one in shown("latency")
    }
    assert found["Median", "gpt-4.1"] == found["95th percentile", "claude"] == 2
    first = {one["breakdown_value"]: one["aggregated_value"] for one in shown("first-token")}
    assert first["claude"] == 0.5


def test_hogql_has_the_functions_that_posthogs_own_parser_was_asked_about():
    assert set(re.findall(r"\b(\w+)\(", KEY_LABEL)) == {"if", "concat", "substring"}
    assert set(re.findall(r"\b(\w+)\(", COST_OF_CALLS)) == {
        "min", "round", "sum", "sumIf", "toFloat", "count", "countIf", "toString",
    }  # fmt: skip
