"""Counting requests by route, and joins by what became of them."""

from __future__ import annotations

import asyncio
from functools import cache

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from flow.api.request_context import context_of
from flow.telemetry.metric_definitions import OTHER, Metrics, known

UNMATCHED = "unmatched"
JOINS = frozenset({"/api/bot/join", "/start"})
"""The paths of joins."""

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "WEBSOCKET"})
_JOINED = {201: "created", 200: "replayed"}


class Measured:
    """Counts every request when it is over, whatever became of it.

    It is the outermost middleware: what it counts is what the caller got. A request that nobody
    routed, because it was refused before, counts for the route its path belongs to.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        # Looking up what a label's values are counted in costs more than counting.
        self._requests = cache(metrics.requests.labels)
        self._secs = cache(metrics.request_secs.labels)
        self._joins = cache(metrics.joins.labels)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application and count."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        context, failed = context_of(scope), 0
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            raise
        except BaseException:
            # The server answers for whoever does not.
            failed = 500
            raise
        finally:
            self._count(scope, context.status or failed, context.secs)

    def _count(self, scope: Scope, status: int, secs: float) -> None:
        route = route_of(scope)
        method = known(scope.get("method", "WEBSOCKET"), _METHODS)
        # 0: the caller was gone before there was an answer.
        self._requests(route, method, str(status) if status else "none").inc()
        if scope["type"] == "http":
            self._secs(route, method).observe(secs)
            if route in JOINS and method == "POST":
                self._joins(join_outcome(scope, status)).inc()


def route_of(scope: Scope) -> str:
    """The template of the request's path, such as ``/api/threads/{thread_id:uuid}``."""
    route = scope.get("route")
    if route is None:
        routes: list[Route] = scope["app"].state.routes if "app" in scope else []
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        route = next((each for each in routes if each.path_regex.match(path)), None)
    return UNMATCHED if route is None else str(route.path)


def join_outcome(scope: Scope, status: int) -> str:
    """What became of a join that was answered with ``status``: the metric has the values."""
    if status in _JOINED:
        return _JOINED[status]
    if status == 0:
        return "abandoned"
    code = context_of(scope).problem or OTHER
    return "failed" if status == 500 else code
