"""The guide to PostHog names what is sent, and nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from flow.domain.limits.api_key import ApiKey
from flow.domain.usage.events import (
    Cost,
    CostControl,
    Failure,
    Kind,
    Outcome,
    Quantities,
    RequestIds,
)
from flow.domain.usage.owner_labels import HEADER_NAMES, PREFIX
from flow.domain.usage.posthog_dashboards import tiles
from flow.domain.usage.posthog_properties import generation_properties, trace_properties
from flow.domain.usage.units import UNITS, component_of
from flow.vendors.posthog_identities import person_properties
from tests.events import an_event, an_owner

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "posthog.md").read_text()
NOW = datetime(2026, 11, 30, tzinfo=UTC)


def names_in(heading: str) -> set[str]:
    """What is in backticks in the first column of the tables under a heading."""
    section = GUIDE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    section = section.rpartition("<!--")[2]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_each_property_that_is_sent_is_in_the_guide_and_no_other():
    assert names_in("Events and properties") == sent()


def sent() -> set[str]:
    """Every property of an event that has all that an event can have."""
    found: set[str] = set()
    for kind in (Kind.LLM, Kind.TTS, Kind.STT, Kind.EMBEDDING):
        units = [name for name in UNITS if fits(kind, name)]
        whole = {name: 9 if UNITS[name].part_of is None else 3 for name in units}
        event = an_event(
            an_owner(),
            kind=kind,
            quantities=Quantities(whole),
            cost=Cost(dict.fromkeys(units, Decimal(1))),
            control=CostControl(True, "budget_engage", "engage"),
            requested_model="gpt",
            service_tier="flex",
            latency_secs=1.0,
            time_to_first_token_secs=0.5,
            price_version="1",
            note="odd",
            ids=RequestIds("r", "t", "s", "d"),
            occurred_at=NOW,
        )
        failed = replace(
            event, outcome=Outcome.ERROR, failure=Failure("RateLimitError", "HTTP 429", 429)
        )
        for one in (event, failed):
            found |= set(generation_properties(one))
    return found | set(trace_properties(an_owner(), NOW, NOW, "idle"))


def fits(kind: Kind, unit: str) -> bool:
    """Whether work of a kind has that unit."""
    if kind is Kind.LLM:
        return UNITS[unit].component.startswith("llm_")
    if kind is Kind.EMBEDDING:
        return unit == "input_tokens"
    return component_of(kind, unit) == kind.value and unit in ("characters", "audio_seconds")


def test_the_tiles_the_persons_and_the_headers_are_in_the_guide():
    for tile in tiles():
        assert f"| {tile.name} |" in GUIDE
    key = ApiKey(UUID(int=1), "key_unkey", "acme", "support")
    for name in person_properties(key):
        assert f"| person | `{name}` |" in GUIDE
    named = {name.lower() for name in names_in("Behind a gateway")}
    assert {name for name in HEADER_NAMES if not name.startswith(PREFIX)} <= named
    assert f"{PREFIX}name" in named
