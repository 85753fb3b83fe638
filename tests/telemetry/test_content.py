"""What may leave with a span, whoever put it there."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext

from flow.telemetry.content import WithoutContent

SAID = "my card number is 1234"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def traced(exporter: InMemorySpanExporter, attributes: dict[str, Any]) -> ReadableSpan:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(WithoutContent(exporter)))
    span = provider.get_tracer("pipecat").start_span("llm", attributes=attributes)
    span.end()
    provider.shutdown()
    (finished,) = exporter.get_finished_spans()
    return finished


@pytest.mark.parametrize(
    "name",
    [
        "input", "output", "text", "text_output", "transcript", "tools", "tools_serialized",
        "tools.definitions", "context_messages", "instructions", "function_calls",
        "gen_ai.system_instructions", "gen_ai.input.messages", "gen_ai.output.messages",
        "gen_ai.request.stop", "param.user", "settings.system_instruction", "settings.instructions",
        "settings.prompt", "metrics.note", "turn.text", "session_properties", "tool.arguments",
        "url.query", "user_id", "what a later Pipecat may add",
    ],
)  # fmt: skip
def test_a_text_that_is_not_listed_stays(name: str, exporter: InMemorySpanExporter) -> None:
    assert traced(exporter, {name: SAID}).attributes == {}


def test_what_is_worth_knowing_leaves(exporter: InMemorySpanExporter) -> None:
    kept = {
        "gen_ai.request.model": "gpt-4.1",
        "gen_ai.usage.input_tokens": 12,
        "metrics.ttfb": 0.25,
        "settings.temperature": 0.7,
        "turn.was_interrupted": True,
        "conversation.id": "a thread",
        "tts.interrupted": True,
    }
    span = traced(exporter, {**kept, "input": SAID})
    assert span.attributes == kept
    assert span.name == "llm"


def test_of_an_exception_only_its_type_leaves(exporter: InMemorySpanExporter) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(WithoutContent(exporter)))
    linked = Link(SpanContext(1, 2, is_remote=True), {"said": SAID})
    tracer = provider.get_tracer("pipecat")
    with pytest.raises(ValueError), tracer.start_as_current_span("llm", links=[linked]):  # noqa: PT011
        raise ValueError(SAID)
    provider.shutdown()
    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok
    assert span.status.description is None
    (event,) = span.events
    assert dict(event.attributes or {})["exception.type"] == "ValueError"
    assert [link.context.trace_id for link in span.links] == [1]
    assert SAID not in span.to_json()
