"""One id per request: on its answer, in its log line, and in any problem it ends with."""

from __future__ import annotations

import re
import time
from os import urandom
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger(__name__)

_SANE = re.compile(rb"[A-Za-z0-9._~-]{1,128}")


class RequestId:
    """Gives every request an id and logs how it ended.

    A caller's own ``X-Request-Id`` is kept when it is short and plain. The query is not logged:
    it may hold a token.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application with ``request.state.request_id`` set."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        request_id = _incoming(scope) or urandom(16).hex()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        bind(scope, request_id=request_id)
        header = (b"x-request-id", request_id.encode())
        status, started = 0, time.perf_counter()

        async def labelled(message: Message) -> None:
            nonlocal status
            if message["type"] in _ANSWERS:
                status = message.get("status", 101)
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        try:
            await self._app(scope, receive, labelled)
        finally:
            log.info(
                "request",
                **state["known"],
                method=scope.get("method", "WEBSOCKET"),
                path=scope["path"],
                status=status,
                secs=round(time.perf_counter() - started, 4),
            )


def bind(scope: Scope, **known: str) -> None:
    """Have every later log line of the request of ``scope`` say this too."""
    # A logger is made of them only if there is something to log.
    scope.setdefault("state", {}).setdefault("known", {}).update(known)


def log_of(scope: Scope) -> Any:
    """The logger of a request: bound to its id, and to its key as soon as that is known."""
    return log.bind(**scope.get("state", {}).get("known", {}))


_ANSWERS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


def _incoming(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return value.decode() if _SANE.fullmatch(value) else None
    return None
