"""A filter that keeps the content of conversations out of spans.

Pipecat puts prompts, messages, transcripts, spoken text and tool definitions into span
attributes (``pipecat.utils.tracing.service_attributes``), and an exception's message may quote
any of them. Allowed attributes are listed; all others are dropped, so that an attribute of a later
Pipecat is left out until somebody has reviewed it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, Status

_NAMES = frozenset(
    {
        "ai_product",
        "api_key_id",
        "conversation.id",
        "conversation.type",
        "flow.join.outcome",
        "gen_ai.operation.name",
        "gen_ai.output.type",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "http.request.method",
        "http.response.status_code",
        "http.route",
        "is_final",
        "language",
        "request_id",
        "settings.language",
        "settings.model",
        "settings.voice",
        "stream",
        "stt.incomplete",
        "team_id",
        "tool_count",
        "tts.interrupted",
        "turn.type",
        "vad_enabled",
        "voice_id",
        "workflow_thread_id",
    }
)
# Numbers and switches of these may leave, texts may not.
_NUMBERS = ("gen_ai.request.", "gen_ai.usage.", "metrics.", "param.", "settings.", "turn.")
_EVENT_NAMES = frozenset({"exception.type", "exception.escaped"})


class WithoutContent(SpanExporter):
    """Passes spans on to ``exporter`` without a word of content."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export what may leave of each span."""
        return self._exporter.export([_bare(span) for span in spans])

    def shutdown(self) -> None:
        """Close the exporter."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what the exporter still holds."""
        return self._exporter.force_flush(timeout_millis)


def _bare(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=_allowed(span.attributes or {}),
        events=[_bare_event(event) for event in span.events],
        links=[Link(link.context) for link in span.links],
        kind=span.kind,
        # Its description is the message of an exception.
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _bare_event(event: Event) -> Event:
    kept = {k: v for k, v in (event.attributes or {}).items() if k in _EVENT_NAMES}
    return Event(event.name, kept, event.timestamp)


def _allowed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if _may_leave(name, value)}


def _may_leave(name: str, value: Any) -> bool:
    return name in _NAMES or (isinstance(value, int | float) and name.startswith(_NUMBERS))
