"""Labels are bounded, and an event counts once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from decimal import Decimal
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from flow.domain.usage.events import (
    Amount,
    Cost,
    Failure,
    Kind,
    Outcome,
    Provenance,
    Quantities,
)
from flow.domain.usage.units import UNITS, Measure, Unit, component_of
from flow.telemetry.calls import CallWatch
from flow.telemetry.metric_definitions import Metrics
from flow.telemetry.usage import count_usage, status_class
from tests.events import an_event, an_owner
from tests.telemetry.exposition import Scraped

OWNER = an_owner()
EVENT = an_event(
    OWNER,
    quantities=Quantities(input_tokens=100, output_tokens=7, reasoning_tokens=3),
    cost=Cost(input_tokens=Decimal("0.0002"), output_tokens=Decimal("0.000056")),
)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry(), products=["voice_bot"], providers=["openai"])


def scraped(metrics: Metrics) -> Scraped:
    return Scraped(generate_latest(metrics.registry).decode())


def test_only_what_the_ledger_did_not_have_before_is_counted(metrics: Metrics) -> None:
    again = replace(EVENT, id=UUID(int=9))
    count_usage(metrics, [EVENT, again], {EVENT.id})
    assert scraped(metrics)["flow_usage_events_total"] == 1
    assert scraped(metrics).by("flow_usage_tokens_total", "unit") == {
        ("input_tokens",): 100,
        ("output_tokens",): 7,
    }
    assert scraped(metrics).by("flow_usage_token_parts_total", "unit") == {("reasoning_tokens",): 3}


def test_an_event_without_a_price_is_unpriced_and_not_free(metrics: Metrics) -> None:
    count_usage(metrics, [replace(EVENT, cost=None)], {EVENT.id})
    assert scraped(metrics).by("flow_unpriced_events_total", "kind") == {("llm",): 1}
    assert scraped(metrics).by("flow_usage_cost_usd_total", "kind") == {}


@pytest.mark.parametrize("unit", UNITS.values(), ids=lambda unit: unit.name)
def test_every_unit_is_counted_once_where_it_adds_up_or_as_a_part(
    unit: Unit, metrics: Metrics
) -> None:
    amount: Amount = Decimal("2.5") if unit.measure is Measure.SECONDS else 2
    whole = {unit.part_of: amount} if unit.part_of else {}
    used = replace(EVENT, quantities=Quantities({**whole, unit.name: amount}), cost=None)
    count_usage(metrics, [used], {used.id})
    seen, labels = scraped(metrics), ("kind", "provider", "unit")
    counted = {("llm", "openai", name): float(amount) for name in whole or {unit.name}}
    part = {("llm", "openai", unit.name): float(amount)} if whole else {}
    assert seen.by(f"flow_usage_{unit.measure}_total", *labels) == counted
    assert seen.by(f"flow_usage_{unit.measure.removesuffix('s')}_parts_total", *labels) == part


@pytest.mark.parametrize("kind", Kind)
def test_costs_are_counted_by_component(kind: Kind, metrics: Metrics) -> None:
    costs = {unit: Decimal(number) for number, unit in enumerate(UNITS, start=1)}
    everything = Quantities(dict.fromkeys(UNITS, 1))
    event = replace(EVENT, kind=kind, quantities=everything, cost=Cost(costs))
    count_usage(metrics, [event], {event.id})
    expected: Counter[str] = Counter()
    for unit, usd in costs.items():
        expected[component_of(kind, unit)] += int(usd)
    assert scraped(metrics).by("flow_usage_cost_usd_total", "kind", "component", "billable") == {
        (kind, component, "true"): usd for component, usd in expected.items()
    }


def test_work_that_nothing_metered_is_counted_by_kind_and_vendor(metrics: Metrics) -> None:
    unmetered = replace(
        EVENT, provenance=Provenance.UNMETERED, quantities=Quantities(), cost=None, kind=Kind.STT
    )
    other = replace(unmetered, id=UUID(int=9), provider="somebody")
    count_usage(metrics, [unmetered, other, EVENT], {unmetered.id, other.id, EVENT.id})
    seen = scraped(metrics)
    assert seen.by("flow_unmetered_services_total", "kind", "provider") == {
        ("stt", "openai"): 1,
        ("stt", "other"): 1,
    }
    assert seen.by("flow_unpriced_events_total", "kind") == {("stt",): 2}


def test_names_that_nobody_configured_are_one_label(metrics: Metrics) -> None:
    watch = CallWatch(metrics)
    for number in range(100):
        owner = replace(OWNER, product=f"product {number}")
        call = replace(
            EVENT,
            kind=Kind.CALL,
            owner=owner,
            provider=f"vendor {number}",
            quantities=Quantities(call_seconds=Decimal("1.5")),
            cost=Cost(),
        )
        count_usage(metrics, [call], {call.id})
        watch.started(f"product {number}")
        watch.ended(f"product {number}", f"reason {number}")
    seen = scraped(metrics)
    assert seen.by("flow_usage_events_total", "provider") == {("other",): 100}
    assert seen.by("flow_calls_ended_total", "product", "reason") == {("other", "other"): 100}
    assert seen.by("flow_call_duration_seconds_count", "product") == {("other",): 100}
    assert seen.by("flow_call_duration_seconds_sum", "product") == {("other",): 150}


@pytest.mark.parametrize(
    ("status", "label"),
    [(None, "none"), (429, "429"), (401, "4xx"), (500, "5xx"), (503, "5xx"), (200, "other")],
)
def test_a_failure_counts_by_what_the_vendor_answered(
    status: int | None, label: str, metrics: Metrics
) -> None:
    failed = replace(EVENT, outcome=Outcome.ERROR, failure=Failure("Error", "an error", status))
    count_usage(metrics, [failed], {failed.id})
    assert status_class(status) == label
    assert scraped(metrics).by("flow_vendor_errors_total", "status") == {(label,): 1}
