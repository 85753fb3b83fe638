"""What PostHog is told about a usage event and about a call: pure building of properties."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from flow.domain.attribution import attribution_properties
from flow.domain.usage import (
    Cost,
    CostControl,
    Kind,
    Outcome,
    Owner,
    Provenance,
    UsageEvent,
)

MAX_CONTENT_CHARS = 100_000


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
    """The properties of an event's ``$ai_generation``. What is not known is left out, never zero.

    Money becomes a JSON number here and nowhere earlier: PostHog only shows it.
    """
    thread_id = str(event.owner.workflow_thread_id)
    return {
        "$ai_trace_id": thread_id,
        "$ai_session_id": thread_id,
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
                "note": event.note,
            }
        ),
        **_amounts(event),
        **_outcome(event),
        **cost_properties(event.cost, event.kind),
        **_content(content, "$ai_input", "$ai_output_choices"),
        "usage_kind": event.kind.value,
        "usage_source": event.source,
        "provenance": event.provenance.value,
        "outcome": event.outcome.value,
        **attribution_properties(event.owner),
        **control_properties(event.control),
    }


def control_properties(control: CostControl) -> dict[str, Any]:
    """What was done about a generation's cost; written last, like the attribution."""
    return _known(
        {
            "save_mode": control.save_mode,
            "save_mode_reason": control.save_mode_reason,
            "budget_tier": control.budget_tier,
        }
    )


def _amounts(event: UsageEvent) -> dict[str, Any]:
    """Token counts as PostHog wants them, and speech in units of our own.

    ``$ai_input_tokens`` is *inclusive* of the cached tokens, for every vendor, and
    ``$ai_cache_reporting_exclusive`` says so: it then agrees with ``$ai_input_cost_usd``, which
    is gross too, and with what PostHog's OpenAI wrapper sends for the insights, so that the two
    may be added up in one chart.
    """
    q = event.quantities
    gross = q.input_tokens + q.cache_read_tokens + q.cache_write_tokens
    counts: dict[str, Any] = {"$ai_cache_reporting_exclusive": False}
    if q.total_tokens or (event.kind is Kind.LLM and event.provenance is Provenance.REPORTED):
        counts |= {"$ai_input_tokens": gross, "$ai_output_tokens": q.output_tokens}
    parts = {
        "$ai_cache_read_input_tokens": q.cache_read_tokens,
        "$ai_cache_creation_input_tokens": q.cache_write_tokens,
        "$ai_reasoning_tokens": q.reasoning_tokens,
        "input_audio_tokens": q.input_audio_tokens + q.cache_read_audio_tokens,
        "output_audio_tokens": q.output_audio_tokens,
        "characters": q.characters,
        "audio_seconds": float(q.audio_seconds),
    }
    return counts | {name: amount for name, amount in parts.items() if amount}


def _outcome(event: UsageEvent) -> dict[str, Any]:
    if event.outcome is not Outcome.ERROR:
        # A model that answered did so over HTTP; a voice may have been on a WebSocket.
        answered = {"$ai_http_status": 200} if event.kind is Kind.LLM else {}
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


def cost_properties(cost: Cost | None, kind: Kind) -> dict[str, Any]:
    """Every cost component, or nothing at all for an unpriced event.

    PostHog knows input, output and request: what speech cost to hear is input, what it cost to
    speak is output, and total = input + output + request. ``$ai_cost_passthrough`` makes
    ingestion keep these numbers even when one of them is zero.
    """
    if cost is None:
        return {}
    gross_input = cost.input + cost.audio_input + cost.cache_read + cost.cache_write + cost.stt
    amounts = {
        "$ai_input_cost_usd": gross_input,
        "$ai_output_cost_usd": cost.output + cost.audio_output + cost.tts,
        "$ai_total_cost_usd": cost.total,
    }
    if kind is Kind.LLM:
        amounts["$ai_cache_read_cost_usd"] = cost.cache_read
        amounts["$ai_cache_creation_cost_usd"] = cost.cache_write
    where_any = {
        "$ai_request_cost_usd": cost.call,
        "audio_input_cost_usd": cost.audio_input,
        "audio_output_cost_usd": cost.audio_output,
        "stt_cost_usd": cost.stt,
        "tts_cost_usd": cost.tts,
    }
    amounts |= {name: amount for name, amount in where_any.items() if amount}
    return {"$ai_cost_passthrough": True, **{k: _number(v) for k, v in amounts.items()}}


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


def _number(amount: Decimal) -> float:
    return float(amount)
