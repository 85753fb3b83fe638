"""Spans of joins and calls, sent to an OpenTelemetry collector.

Imported only where ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set. The SDK reads the rest of the standard
``OTEL_*`` variables itself (headers, sampler, batches, resource); spans go over HTTP as protobuf.

A span is put in a bounded queue; a thread sends it. Nothing waits for the collector, and when the
queue is full spans are dropped.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import structlog
from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from flow.domain.calls.trace_parent import TraceParent
from flow.telemetry.content import WithoutContent

log = structlog.get_logger(__name__)

CLOSE_SECS = 3.0
_JOIN = "POST /api/bot/join"


class Tracing:
    """The tracing of one process. Close it with `aclose`.

    Args:
        capture_content: let prompts, transcripts and tool arguments into spans.
    """

    def __init__(self, *, capture_content: bool) -> None:
        exporter: SpanExporter = OTLPSpanExporter()
        if not capture_content:
            exporter = WithoutContent(exporter)
        name = os.environ.get("OTEL_SERVICE_NAME", "flow")
        self._provider = TracerProvider(
            resource=Resource.create({SERVICE_NAME: name}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("flow")
        self._propagator = TraceContextTextMapPropagator()
        # Pipecat takes its tracers from there and has no other door. It can be set only once in
        # a process, which serves one configuration.
        trace.set_tracer_provider(self._provider)

    def join(self, headers: Mapping[str, str]) -> JoinSpan:
        """Begin the span of a join, in the caller's trace if its headers name one."""
        parent = self._propagator.extract(dict(headers), context=context.Context())
        return JoinSpan(self._tracer.start_span(_JOIN, parent, SpanKind.SERVER))

    @contextmanager
    def joined(self, place: TraceParent | None) -> Iterator[None]:
        """Spans started in this block, and in tasks started in it, are children of ``place``."""
        token = context.attach(_context_of(place))
        try:
            yield
        finally:
            context.detach(token)

    async def aclose(self, timeout_secs: float = CLOSE_SECS) -> None:
        """Send what is queued and stop; give up when the collector takes too long.

        The SDK waits for the collector for as long as its retries take. Here it does so on a
        daemon thread, which is left behind.
        """
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            try:
                self._provider.shutdown()
            finally:
                with suppress(RuntimeError):  # nobody waits any more and the loop is closed
                    loop.call_soon_threadsafe(done.set)

        threading.Thread(target=shut_down, name="tracing-shutdown", daemon=True).start()
        try:
            await asyncio.wait_for(done.wait(), timeout_secs)
        except TimeoutError:
            log.warning("tracing_shutdown_timed_out", waited_secs=timeout_secs)


class JoinSpan:
    """The span of one join; `end` ends it."""

    def __init__(self, span: Span) -> None:
        self._span = span

    @property
    def place(self) -> TraceParent:
        """What the call's spans become children of."""
        here = self._span.get_span_context()
        return TraceParent(here.trace_id, here.span_id, here.trace_flags.sampled)

    def end(self, status: int, known: Mapping[str, str]) -> None:
        """The join was answered with ``status``; 0 if the caller was gone before."""
        self._span.set_attributes(
            {"http.request.method": "POST", "http.route": "/api/bot/join", **known}
        )
        if status:
            self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end()


def _context_of(place: TraceParent | None) -> context.Context:
    if place is None:
        return context.Context()
    flags = TraceFlags(TraceFlags.SAMPLED if place.is_sampled else TraceFlags.DEFAULT)
    parent = SpanContext(place.trace_id, place.span_id, is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(NonRecordingSpan(parent), context.Context())
