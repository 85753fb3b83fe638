"""What is known of a request, as one object: its id, whose it is, and what became of it."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from os import urandom
from typing import Any, Literal
from uuid import UUID

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flow.domain.calls.trace_parent import TraceParent
from flow.domain.gateway.operations import Protocol, protocol_of
from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.budget import Budget
from flow.domain.limits.lease import Rates

log = structlog.get_logger(__name__)

_SANE = re.compile(rb"[A-Za-z0-9._~-]{1,128}")

OnAnswer = Callable[[Message], Awaitable[None]]
"""Sees the first message of an answer, before it is sent, and may add to its headers."""


@dataclass(slots=True)
class RequestContext:
    """One request, from its arrival to its end. Middleware and handlers note what they learn.

    Args:
        request_id: the caller's own ``X-Request-Id`` where it is short and plain, else a new one.
        protocol: that of its path; ``None``: it is not one to the gateway.
        api_key: the verified key; ``permissions`` are those it has at Unkey.
        workflow_thread_id: the thread that the request is about.
        trace: the span of a join.
        budget: the key's, where a handler has learned it; ``"unasked"`` where none has.
        rates: the limits a minute of its requests to the gateway, where it has some.
        is_database_away: the request failed because the database is away.
        problem: the ``code`` of the problem it was answered with.
        status: of its answer; 101 for a WebSocket, 403 for one that is not accepted, and 0 as long
            as nothing of an answer was sent.
        on_answer: called, in this order, when an answer begins.
    """

    request_id: str
    protocol: Protocol | None = None
    api_key: ApiKey | None = None
    permissions: frozenset[str] = frozenset()
    workflow_thread_id: UUID | None = None
    trace: TraceParent | None = None
    budget: Budget | Literal["unasked"] | None = "unasked"
    rates: Rates | None = None
    is_database_away: bool = False
    problem: str | None = None
    status: int = 0
    on_answer: list[OnAnswer] = field(default_factory=list)
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

    async def answering(self, message: Message) -> None:
        """The answer begins with this message, whose headers may still be added to."""
        self.status = _status(message)
        for act in self.on_answer:
            await act(message)


def context_of(scope: Scope) -> RequestContext:
    """The context of a request; one that came by no middleware gets one here."""
    state = scope.setdefault("state", {})
    context = state.get("context")
    if context is None:
        context = RequestContext(_request_id(scope), protocol_of(scope["path"]))
        state["context"] = context
    assert isinstance(context, RequestContext)
    return context


def log_of(scope: Scope) -> Any:
    """The logger of a request, bound to the ids that are known."""
    return log.bind(**context_of(scope).ids)


class RequestContexts:
    """Gives every request its context, puts its id on the answer, and logs how it ended.

    It alone stands between the application and what is sent. Who has something to do when an answer
    begins asks for it by ``on_answer`` of the context, so that the parts of a long one pass one
    step instead of one for each.

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

        async def labelled(message: Message) -> None:
            if context.status == 0:
                await context.answering(message)
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
                status=context.status,
                secs=round(context.secs, 4),
            )


def _status(message: Message) -> int:
    match message["type"]:
        case "http.response.start" | "websocket.http.response.start":
            return int(message["status"])
        case "websocket.accept":
            return 101
        case "websocket.close":  # before it was accepted: the server answers 403
            return 403
    return 0


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE.fullmatch(value):
            return str(value.decode())
    return urandom(16).hex()
