"""A stand-in for an OpenTelemetry collector: OTLP over HTTP, as protobuf.

See https://opentelemetry.io/docs/specs/otlp/#otlphttp: ``POST /v1/traces`` takes an
``ExportTraceServiceRequest`` and answers an ``ExportTraceServiceResponse``.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flow.sandbox.stand_in import OWN_PAGES, StandIn, exchange_of

_PROTOBUF = "application/x-protobuf"


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it arrived. Ids are hexadecimal; ``parent_id`` is empty for a root.

    ``events`` and ``links`` are names with attributes, and trace ids.
    """

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    scope: str
    resource: Mapping[str, Any]
    attributes: Mapping[str, Any]
    events: Sequence[tuple[str, Mapping[str, Any]]]
    links: Sequence[str]
    status: str
    status_message: str
    seconds: float


class OtlpSandbox(StandIn):
    """The app; its URL is what ``OTEL_EXPORTER_OTLP_ENDPOINT`` wants. ``spans`` is what came."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        super().__init__(
            [
                Route("/v1/traces", self._take, methods=["POST"]),
                Route(f"{OWN_PAGES}/spans", self._list_spans),
            ],
            refuse,
        )

    async def _take(self, request: Request) -> Response:
        request_id = exchange_of(request).request_id
        if request.headers.get("content-type") != _PROTOBUF:
            return refuse(415, f"Only {_PROTOBUF} is taken.", request_id)
        message = ExportTraceServiceRequest()
        try:
            message.ParseFromString(_decompressed(request, await request.body()))
        except (DecodeError, OSError, EOFError, zlib.error):
            return refuse(400, "The body is no ExportTraceServiceRequest.", request_id)
        self.spans += _spans(message)
        return Response(ExportTraceServiceResponse().SerializeToString(), media_type=_PROTOBUF)

    async def _list_spans(self, _request: Request) -> Response:
        return JSONResponse([asdict(span) for span in self.spans])


def refuse(status: int, message: str, request_id: str) -> Response:
    """An error answer; collectors send a ``google.rpc.Status``, which no client reads."""
    return Response(message, status, {"x-request-id": request_id}, "text/plain")


def _decompressed(request: Request, body: bytes) -> bytes:
    how = request.headers.get("content-encoding", "")
    if how == "gzip":
        return gzip.decompress(body)
    return zlib.decompress(body) if how == "deflate" else body


def _spans(message: ExportTraceServiceRequest) -> Iterable[Span]:
    for of_resource in message.resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield _span(span, of_scope.scope.name, resource)


def _span(span: trace_pb2.Span, scope: str, resource: Mapping[str, Any]) -> Span:
    return Span(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        scope=scope,
        resource=resource,
        attributes=_attributes(span.attributes),
        events=[(event.name, _attributes(event.attributes)) for event in span.events],
        links=[link.trace_id.hex() for link in span.links],
        status=trace_pb2.Status.StatusCode.Name(span.status.code),
        status_message=span.status.message,
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
    )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return None if kind is None else getattr(value, kind)
