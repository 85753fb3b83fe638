"""Metrics of recorded usage.

An event is counted when the ledger says that it is new, so an event that is sent twice is counted
once. A batch whose acknowledgement was lost is in the ledger and not here: the counters never
exceed the ledger.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from uuid import UUID

from flow.domain.usage.events import Kind, Outcome, Provenance, UsageEvent
from flow.domain.usage.units import UNITS, component_of
from flow.telemetry.metric_definitions import Metrics, known


def count_usage(metrics: Metrics, events: Iterable[UsageEvent], new: Collection[UUID]) -> None:
    """Count the events of a batch that the ledger did not have before."""
    for event in events:
        if event.id in new:
            _count(metrics, event)


def _count(metrics: Metrics, event: UsageEvent) -> None:
    kind, provider = event.kind.value, known(event.provider, metrics.providers)
    metrics.events.labels(kind, provider, event.outcome.value, event.provenance.value).inc()
    if event.provenance is Provenance.UNMETERED:
        metrics.unmetered.labels(kind, provider).inc()
    for name, amount in event.quantities.items():
        unit = UNITS[name]
        counters = metrics.used if unit.part_of is None else metrics.used_parts
        counters[unit.measure].labels(kind, provider, name).inc(float(amount))
    _count_cost(metrics, event, kind)
    if event.outcome is Outcome.ERROR:
        status = status_class(event.failure.http_status if event.failure else None)
        metrics.vendor_errors.labels(provider, kind, status).inc()
    if event.kind is Kind.CALL:
        product = known(event.owner.product, metrics.products)
        metrics.call_secs.labels(product).observe(float(event.quantities.seconds("call_seconds")))
    _observe_first_output(metrics, event, provider)


def _count_cost(metrics: Metrics, event: UsageEvent, kind: str) -> None:
    if event.cost is None:
        metrics.unpriced.labels(kind).inc()
        return
    billable = str(event.owner.billable).lower()
    for unit, usd in event.cost.items():
        if usd:
            component = component_of(event.kind, unit)
            metrics.cost.labels(kind, component, billable).inc(float(usd))


def _observe_first_output(metrics: Metrics, event: UsageEvent, provider: str) -> None:
    if (secs := event.time_to_first_token_secs) is None or not event.stream:
        return
    if event.kind is Kind.LLM:
        metrics.first_token_secs.labels(provider).observe(secs)
    elif event.kind is Kind.TTS:
        metrics.first_audio_secs.labels(provider).observe(secs)


def status_class(status: int | None) -> str:
    """An HTTP status as a label: ``429``, which asks for patience, ``4xx``, ``5xx`` or ``other``;
    ``none`` where there was no answer."""
    if status is None:
        return "none"
    if status == 429:
        return "429"
    return f"{status // 100}xx" if 400 <= status < 600 else "other"
