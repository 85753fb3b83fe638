"""What is known of a request, as one object: its id, whose it is, and what became of it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import urandom
from typing import Any, Literal
from uuid import UUID

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flow.domain.calls.trace_parent import TraceParent
from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.budget import Budget
from flow.domain.limits.lease import Rates

log = structlog.get_logger(__name__)

_SANE = re.compile(rb"[A-Za-z0-9._~-]{1,128}")
_ANSWERS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


@dataclass(slots=True)
class RequestContext:
    """One request, from its arrival to its end. Middleware and handlers note what they learn.

    Args:
        request_id: the caller's own ``X-Request-Id`` where it is short and plain, else a new one.
        api_key: the verified key; ``permissions`` are those it has at Unkey.
        workflow_thread_id: the thread that the request is about.
        trace: the span of a join.
        budget: the key's, where a handler has learned it; ``"unasked"`` where none has.
        rates: the limits a minute of its requests to the gateway, where it has some.
        is_database_away: the request failed because the database is away.
        problem: the ``code`` of the problem it was answered with.
    """

    request_id: str
    api_key: ApiKey | None = None
    permissions: frozenset[str] = frozenset()
    workflow_thread_id: UUID | None = None
    trace: TraceParent | None = None
    budget: Budget | Literal["unasked"] | None = "unasked"
    rates: Rates | None = None
    is_database_away: bool = False
    problem: str | None = None
    _seen_at: float = field(default_factory=time.perf_counter)

    @property
    def ids(self) -> dict[str, str]:
        """The ids that log lines and spans of the request have, as far as they are known."""
        known: Mapping[str, object] = {
            "request_id": self.request_id,
            "api_key_id": self.api_key and self.api_key.id,
            "workflow_thread_id": self.workflow_thread_id,
        }
        return {name: str(value) for name, value in known.items() if value is not None}

    @property
    def secs(self) -> float:
        """Seconds since the request arrived."""
        return time.perf_counter() - self._seen_at


def context_of(scope: Scope) -> RequestContext:
    """The context of a request; one that came by no middleware gets one here."""
    state = scope.setdefault("state", {})
    context = state.get("context")
    if context is None:
        context = state["context"] = RequestContext(_request_id(scope))
    assert isinstance(context, RequestContext)
    return context


def log_of(scope: Scope) -> Any:
    """The logger of a request, bound to the ids that are known."""
    return log.bind(**context_of(scope).ids)


class RequestContexts:
    """Gives every request its context, puts its id on the answer, and logs how it ended.

    The query is not logged: it may hold a token. (`asgi-correlation-id` keeps an id in a context
    variable; here it is in the request's own scope.)
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application with the context in ``request.state.context``."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        context = context_of(scope)
        header = (b"x-request-id", context.request_id.encode())
        status = 0

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
                **context.ids,
                method=scope.get("method", "WEBSOCKET"),
                path=scope["path"],
                status=status,
                secs=round(context.secs, 4),
            )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE.fullmatch(value):
            return str(value.decode())
    return urandom(16).hex()
