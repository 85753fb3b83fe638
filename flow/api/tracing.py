"""The span of a join, which the spans of its call become children of."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flow.api.dependencies import Traces
from flow.api.http_metrics import JOIN, join_outcome

_KNOWN = ("request_id", "api_key_id", "workflow_thread_id")


class TracedJoin:
    """Puts a join's place in its trace into ``request.state.trace``; other requests pass."""

    def __init__(self, app: ASGIApp, *, traces: Traces) -> None:
        self._app = app
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application within a span, if this is a join."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != JOIN:
            await self._app(scope, receive, send)
            return
        span = self._traces.join(Headers(scope=scope))
        state = scope.setdefault("state", {})
        state["trace"] = span.place
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            known = {name: str(state[name]) for name in _KNOWN if name in state}
            span.end(status, {**known, "flow.join.outcome": join_outcome(scope, status)})
