"""Labels are bounded, and an event counts once."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from flow.domain.usage import (
    Cost,
    Failure,
    Kind,
    Outcome,
    Owner,
    Provenance,
    Quantities,
    UsageEvent,
)
from flow.telemetry.calls import CallWatch
from flow.telemetry.metrics import Metrics
from flow.telemetry.usage import count_usage, status_class
from tests.telemetry.exposition import Scraped

OWNER = Owner(UUID(int=1), UUID(int=2), "acme", "voice_bot", True)
EVENT = UsageEvent(
    owner=OWNER,
    kind=Kind.LLM,
    source="bot",
    provider="openai",
    model="gpt-4.1",
    quantities=Quantities(input_tokens=100, output_tokens=7, reasoning_tokens=3),
    provenance=Provenance.REPORTED,
    cost=Cost(input=Decimal("0.0002"), output=Decimal("0.000056")),
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
    assert scraped(metrics).by("flow_usage_tokens_total", "type") == {
        ("input",): 100,
        ("output",): 7,
    }
    assert scraped(metrics).by("flow_usage_token_parts_total", "part") == {("reasoning",): 3}


def test_an_event_without_a_price_is_unpriced_and_not_free(metrics: Metrics) -> None:
    count_usage(metrics, [replace(EVENT, cost=None)], {EVENT.id})
    assert scraped(metrics).by("flow_unpriced_events_total", "kind") == {("llm",): 1}
    assert scraped(metrics).by("flow_usage_cost_usd_total", "kind") == {}


def test_names_that_nobody_configured_are_one_label(metrics: Metrics) -> None:
    watch = CallWatch(metrics)
    for number in range(100):
        owner = replace(OWNER, product=f"product {number}")
        call = replace(EVENT, kind=Kind.CALL, owner=owner, provider=f"vendor {number}")
        count_usage(metrics, [call], {call.id})
        watch.started(f"product {number}")
        watch.ended(f"product {number}", f"reason {number}")
    seen = scraped(metrics)
    assert seen.by("flow_usage_events_total", "provider") == {("other",): 100}
    assert seen.by("flow_calls_ended_total", "product", "reason") == {("other", "other"): 100}
    assert seen.by("flow_call_duration_seconds_count", "product") == {("other",): 100}


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
