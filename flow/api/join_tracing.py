"""The span of a join, which the spans of its call become children of."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from flow.api.dependencies import Traces
from flow.api.http_metrics import JOINS, join_outcome
from flow.api.request_context import context_of


class TracedJoin:
    """Puts a join's place in its trace into the request's context; other requests pass."""

    def __init__(self, app: ASGIApp, *, traces: Traces) -> None:
        self._app = app
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application within a span, if this is a join."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in JOINS:
            await self._app(scope, receive, send)
            return
        span = self._traces.join(Headers(scope=scope))
        context = context_of(scope)
        context.trace = span.place
        try:
            await self._app(scope, receive, send)
        finally:
            outcome = join_outcome(scope, context.status)
            span.end(context.status, {**context.ids, "flow.join.outcome": outcome})
