"""How a call goes on, as server-sent events
(https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from fastapi.sse import format_sse_event
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from flow.api.auth import READ_MAX_AGE_SECS, credentials
from flow.api.call_connections import Token, thread_of
from flow.api.dependencies import services_of
from flow.api.event_feed import EventFeed
from flow.api.exact_json import dumps
from flow.api.http_protocol import ABORT
from flow.api.problems import documented
from flow.api.request_context import log_of
from flow.api.threads import ReplyLatency, TurnView
from flow.domain.calls import join_token as tokens
from flow.domain.calls.progress import Progress, Seen, events_of
from flow.domain.calls.thread import Status, Thread
from flow.domain.calls.tool_call import ToolOutcome
from flow.domain.limits.budget import Tier
from flow.errors import AuthUnavailable, Refused

router = APIRouter(prefix="/api/threads", tags=["threads"])

KEEP_ALIVE_SECS = 15.0
"""Less than proxies let a silent connection live."""
SEND_SECS = 10.0
"""A reader that takes nothing for so long is dropped."""
RETRY_MS = 1_000
KEY_SECS = 30.0
"""How often the key of a stream is looked at again: as old an answer lets other requests in."""
_NO_KEY = frozenset({"invalid_api_key", "expired_api_key", "disabled_api_key"})

_HEADERS = {
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # nginx, and what follows it, would wait for more
    "x-content-type-options": "nosniff",
}
_EXAMPLE = """retry: 1000

event: turn
data: {"seq":2,"role":"assistant","content":"Yes, until six.","interrupted":false,...}
id: 2.0-2.9f0c1d22

"""


class StatusData(BaseModel):
    """``status``: the thread has moved."""

    status: Status = Field(description="Where it is now.")
    at: datetime | None = Field(description="When, where that is known.")


class TurnData(TurnView):
    """``turn``: something was said. ``latency`` is there for whoever has the key."""

    latency: ReplyLatency | None = Field(
        None, description="Of a reply: how long the caller waited for it, and for what."
    )


class AccountData(BaseModel):
    """``usage``: the account so far; for whoever has the key."""

    total_cost_usd: Decimal = Field(description="USD, of all work that has a price.")
    total_tokens: int = Field(description="Of all models, input and output.")
    llm_calls: int = Field(description="Generations of language models.")
    call_seconds: Decimal = Field(description="How long the call was; 0 until it has ended.")
    budget_tier: Tier | None = Field(description="How the key's budget stands; null without one.")


class EndData(BaseModel):
    """``end``: the thread is final; nothing follows. ``error`` is for whoever has the key."""

    status: Status = Field(description="`completed`, `failed`, `expired` or `cancelled`.")
    at: datetime | None = Field(description="When, where that is known.")
    end_reason: str | None = Field(description="Why the call is over, as in the thread.")
    error: dict[str, Any] | None = Field(None, description="What went wrong, as in the thread.")


class ToolCallData(BaseModel):
    """``tool_call``: the bot has begun to use a tool, or is done; for whoever has the key."""

    id: UUID = Field(description="Names the use; the tool's server has it as `webhook-id`.")
    name: str = Field(examples=["find_booking"], description="Which tool.")
    arguments: dict[str, Any] = Field(description="What the model called it with.")
    started_at: datetime = Field(description="When the model asked for it.")
    outcome: ToolOutcome = Field(description="`running`, and when it is done how it went.")
    seconds: float | None = Field(description="How long it took; null while it runs.")
    transition_to: str | None = Field(
        description="The node of the bot's flow that the call went to with it."
    )


EVENTS = (StatusData, TurnData, ToolCallData, AccountData, EndData)

# Of a stream, OpenAPI 3.1 describes one event.
_EVENT = {
    "type": "object",
    "properties": {
        "event": {"type": "string", "enum": ["status", "turn", "tool_call", "usage", "end"]},
        "id": {"type": "string"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {
                "anyOf": [{"$ref": f"#/components/schemas/{data.__name__}"} for data in EVENTS]
            },
        },
    },
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The events, until the thread is final.",
        "content": {"text/event-stream": {"schema": _EVENT, "example": _EXAMPLE}},
    },
    204: {"description": "All has been seen: do not connect again."},
    **documented(404, 422),
}
_LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "Of the last event seen: what came after it follows.",
    "schema": {"type": "string"},
}


@router.get(
    "/{thread_id:uuid}/events",
    response_class=StreamingResponse,
    responses=_ANSWERS,
    openapi_extra={"parameters": [_LAST_EVENT_ID]},
)
async def stream_events(request: Request, thread_id: UUID, token: Token = None) -> Response:
    """What happens in a call, as it happens and from its beginning, whichever process runs it.

    With the token of the join it is told what was said, and neither cost nor latency.
    """
    services = services_of(request)
    seen = _seen(request)
    thread = await thread_of(request, thread_id, token)
    if token is not None and thread.status.is_final:
        # Of a call that is over, a token shows nothing for longer than it lets anybody in.
        tokens.check(services.secret, token, thread_id, services.now())
    if seen.is_all:
        return Response(status_code=204)
    [progress] = await services.database.during_calls.list_progress([(thread_id, seen)])
    key_check = None if token is not None else _KeyCheck(request)
    events = _events(services.feed, thread_id, progress, seen, key_check)
    return _EventStream(services.feed, thread, events)


def _seen(request: Request) -> Seen:
    given = request.headers.get("last-event-id")
    return Seen() if not given else Seen.from_event_id(given)


class _EventStream(StreamingResponse):
    """The answer: ends with the thread, with this process, or when its reader is too slow."""

    media_type = "text/event-stream"

    def __init__(self, feed: EventFeed, thread: Thread, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, headers=_HEADERS)
        self._feed = feed
        self._api_key_id = thread.api_key_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; raises `Refused` before any when too many streams are open."""

        async def in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(SEND_SECS):
                    await send(message)
            except TimeoutError:
                raise _SlowReader from None

        with self._feed.stream(self._api_key_id):
            try:
                await super().__call__(scope, receive, in_time)
            except _SlowReader:
                log_of(scope).warning("slow_reader_dropped")
                if (server := scope.get("extensions", {}).get(ABORT)) is not None:
                    server["call"]()


class _SlowReader(Exception):
    """It has taken nothing for too long."""


class _KeyCheck:
    """Whether the key of a request that is still being answered is good."""

    def __init__(self, request: Request) -> None:
        self._keys = services_of(request).keys
        self._secret = credentials(request.scope["headers"])
        self._log = log_of(request.scope)
        self._now = asyncio.get_running_loop().time
        self._due_at = self._now() + KEY_SECS

    async def is_good(self) -> bool:
        """Ask for it from time to time; while nobody can say it is as good as it was."""
        if self._now() < self._due_at:
            return True
        self._due_at = self._now() + KEY_SECS
        try:
            await self._keys.verify(self._secret, max_age_secs=READ_MAX_AGE_SECS)
        except Refused as error:
            if error.code in _NO_KEY:
                self._log.info("stream_of_bad_key_ended", code=error.code)
                return False
        except AuthUnavailable:
            pass
        return True


async def _events(
    feed: EventFeed,
    thread_id: UUID,
    progress: Progress | None,
    seen: Seen,
    key_check: _KeyCheck | None,
) -> AsyncIterator[bytes]:
    """The events of a thread: all of them for a key, as long as it is good; for a token those that
    are the caller's."""
    now, whole = asyncio.get_running_loop().time, key_check is not None
    yield format_sse_event(retry=RETRY_MS)
    sent_at = now()
    while progress is not None:
        for event in events_of(progress, seen, whole=whole):
            seen, sent_at = event.seen, now()
            yield format_sse_event(data_str=dumps(event.data), event=event.type, id=seen.event_id)
        if seen.is_all:
            return
        if now() - sent_at >= KEEP_ALIVE_SECS:
            sent_at = now()
            yield format_sse_event(comment="still there")
        progress = await feed.next(thread_id, seen)
        if key_check is not None and not await key_check.is_good():
            return
