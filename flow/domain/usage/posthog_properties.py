"""What PostHog is told about a usage event and about a call: pure building of properties."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from flow.domain.usage.events import Outcome, Owner, Provenance, UsageEvent
from flow.domain.usage.owner_labels import (
    PROPERTY_NAMES,
    attribution_properties,
    control_properties,
)
from flow.domain.usage.units import COMPONENTS, UNITS, Kind, Measure, Side, Unit, component_of

MAX_CONTENT_CHARS = 100_000

EVENT_NAMES: Mapping[Kind, str] = MappingProxyType(
    {
        Kind.LLM: "$ai_generation",
        Kind.TTS: "$ai_generation",
        Kind.STT: "$ai_generation",
        Kind.EMBEDDING: "$ai_embedding",
    }
)
"""What PostHog gets of each kind of work that it can show the cost of."""

_OVER_HTTP = (Kind.LLM, Kind.EMBEDDING)

# What PostHog's own properties say. Of the rest, units and components go by their own names.
_SIDES: dict[Side, str] = {"input": "$ai_input_tokens", "output": "$ai_output_tokens"}
_CACHE_COUNTS = {
    "llm_cache_read": "$ai_cache_read_input_tokens",
    "llm_cache_write": "$ai_cache_creation_input_tokens",
}
_CACHE_COSTS = {
    "llm_cache_read": "$ai_cache_read_cost_usd",
    "llm_cache_write": "$ai_cache_creation_cost_usd",
}
_TOLD_BY_SIDE = {"llm_input", "llm_output"}
_TOLD_BY_POSTHOGS_COUNTS = {
    "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Content:
    """What was said to a model and what it answered, in the shape of chat messages.

    It leaves the house: pass it only where ``FLOW_CAPTURE_CONTENT`` is on.
    """

    input: Any = None
    output: Any = None


def trace_properties(
    owner: Owner,
    started_at: datetime,
    ended_at: datetime,
    error: str | None = None,
    content: Content | None = None,
) -> dict[str, Any]:
    """The properties of a call's ``$ai_trace``."""
    return {
        "$ai_trace_id": str(owner.workflow_thread_id),
        "$ai_session_id": str(owner.workflow_thread_id),
        "$ai_span_name": owner.product,
        "$ai_latency": max(0.0, (ended_at - started_at).total_seconds()),
        "$ai_is_error": error is not None,
        **_known({"$ai_error": error}),
        **_content(content, "$ai_input_state", "$ai_output_state"),
        **attribution_properties(owner),
    }


def generation_properties(event: UsageEvent, content: Content | None = None) -> dict[str, Any]:
    """The properties of an event's ``$ai_generation`` or ``$ai_embedding``. What is not known is
    left out, never zero.

    An event that belongs to no call is in the trace and session that the caller named, or in a
    trace of its own. What the caller says of it besides is told too, unless Flow speaks of the
    same. Money becomes a JSON number here and nowhere earlier: PostHog only shows it.
    """
    thread_id, ids = event.owner.workflow_thread_id, event.ids
    session_id = ids.session_id if thread_id is None else str(thread_id)
    return {
        **callers_properties(event.properties),
        "$ai_trace_id": str(thread_id or ids.trace_id or event.id),
        **_known({"$ai_session_id": session_id}),
        "$ai_span_id": str(event.id),
        "$ai_span_name": f"{event.source} {event.kind.value}",
        "$ai_model": event.model,
        "$ai_provider": event.provider,
        "$ai_stream": event.stream,
        **_known(
            {
                "requested_model": event.requested_model,
                "$ai_service_tier": event.service_tier,
                "$ai_latency": event.latency_secs,
                "$ai_time_to_first_token": event.time_to_first_token_secs,
                "price_version": event.price_version,
                "request_id": ids.request_id,
                "note": event.note,
            }
        ),
        **_amounts(event),
        **_outcome(event),
        **_costs(event),
        **_content(content, "$ai_input", "$ai_output_choices"),
        "usage_kind": event.kind.value,
        "usage_source": event.source,
        "provenance": event.provenance.value,
        "outcome": event.outcome.value,
        **attribution_properties(event.owner),
        **control_properties(event.control),
    }


_OURS = frozenset(
    {
        *PROPERTY_NAMES, *UNITS, *(f"{component}_cost_usd" for component in COMPONENTS),
        "usage_kind", "usage_source", "provenance", "outcome", "requested_model", "price_version",
        "request_id", "note", "distinct_id",
    }
)  # fmt: skip


def callers_properties(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a caller may say of its own request: nothing that Flow or PostHog says.

    Names that begin with ``$`` are PostHog's, and some of them would be taken for cost.
    """
    return {
        name: value
        for name, value in said.items()
        if not name.lstrip().startswith("$") and name.strip().lower() not in _OURS
    }


def _amounts(event: UsageEvent) -> dict[str, Any]:
    """Token counts as PostHog wants them, and every other unit under its own name.

    ``$ai_input_tokens`` is *inclusive* of the cached tokens, for every vendor, and
    ``$ai_cache_reporting_exclusive`` says so: it then agrees with ``$ai_input_cost_usd``, which
    is gross too, so that they may be added up in one chart.
    """
    counts: dict[str, Any] = {"$ai_cache_reporting_exclusive": False}
    if event.kind in _OVER_HTTP and event.provenance is Provenance.REPORTED:
        counts |= dict.fromkeys(_SIDES.values(), 0)  # a zero that the vendor reported
    for name, amount in event.quantities.items():
        unit = UNITS[name]
        if unit.measure is Measure.TOKENS and unit.part_of is None:
            for each in _SIDES.values():
                counts.setdefault(each, 0)
            counts[_SIDES[unit.side]] += amount
            if cached := _CACHE_COUNTS.get(unit.component):
                counts[cached] = counts.get(cached, 0) + amount
        if name == "reasoning_tokens":
            counts["$ai_reasoning_tokens"] = amount
        elif name not in _TOLD_BY_POSTHOGS_COUNTS:
            counts[name] = float(amount) if isinstance(amount, Decimal) else amount
    return counts


def _outcome(event: UsageEvent) -> dict[str, Any]:
    if event.outcome is not Outcome.ERROR:
        # A model that answered did so over HTTP; a voice may have been on a WebSocket, and nobody
        # saw the answer of what nothing metered.
        is_known = event.kind in _OVER_HTTP and event.provenance is not Provenance.UNMETERED
        answered = {"$ai_http_status": 200} if is_known else {}
        return {"$ai_is_error": False, **answered}
    failure = event.failure
    if failure is None:
        return {"$ai_is_error": True}
    said = f"{failure.type}: {failure.message}" if failure.message else failure.type
    return {
        "$ai_is_error": True,
        "$ai_error": said,
        **_known({"$ai_http_status": failure.http_status}),
    }


def _costs(event: UsageEvent) -> dict[str, Any]:
    """What the event cost, or nothing at all where it is unpriced.

    ``$ai_input_cost_usd`` is *gross*: it has the cost of cache reads and writes in it, and
    ``$ai_cache_read_cost_usd`` and ``$ai_cache_creation_cost_usd`` say how much of it they are.
    PostHog makes columns of input, output and total alone, so that a net input would not add up
    to the total there, and its report of spending subtracts the cache's parts from the input.
    Where there was no cache, nothing is said of its cost: a zero would say that it was free.

    ``$ai_cost_passthrough`` makes ingestion keep these numbers even when one of them is zero.
    Components that PostHog does not know, such as ``tts``, are told under their own names, and
    are in input or output too.
    """
    if event.cost is None:
        return {}
    sides: dict[Side, Decimal] = {"input": Decimal(0), "output": Decimal(0)}
    components = {
        component: Decimal(0)
        for unit in event.quantities
        if (component := component_of(event.kind, unit)) in _CACHE_COSTS
    }
    for name, usd in event.cost.items():
        sides[_side(event.kind, UNITS[name])] += usd
        component = component_of(event.kind, name)
        components[component] = components.get(component, Decimal(0)) + usd
    return {
        "$ai_cost_passthrough": True,
        "$ai_input_cost_usd": float(sides["input"]),
        "$ai_output_cost_usd": float(sides["output"]),
        "$ai_total_cost_usd": float(event.cost.total),
        **{
            _CACHE_COSTS.get(component, f"{component}_cost_usd"): float(usd)
            for component, usd in components.items()
            if component in _CACHE_COSTS or (usd and component not in _TOLD_BY_SIDE)
        },
    }


def _side(kind: Kind, unit: Unit) -> Side:
    """Whether a cost is one of input or of output, all that PostHog knows. Speech that is billed
    by characters or seconds is input where it is heard and output where it is spoken."""
    if kind is Kind.LLM or unit.measure is Measure.TOKENS:
        return unit.side
    return "input" if kind is Kind.STT else "output"


def _content(content: Content | None, input_name: str, output_name: str) -> dict[str, Any]:
    if content is None:
        return {}
    return _known({input_name: _cut(content.input), output_name: _cut(content.output)})


def _cut(value: Any) -> Any:
    """Content no longer than PostHog takes and the queue can hold."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if len(text) <= MAX_CONTENT_CHARS:
        return value
    return f"{text[:MAX_CONTENT_CHARS]}… [{len(text) - MAX_CONTENT_CHARS} characters left out]"


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
