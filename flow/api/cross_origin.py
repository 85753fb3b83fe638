"""Pages of other origins (CORS): which may use this API, and what of it."""

from __future__ import annotations

import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from flow.api.budget_headers import REMAINING_HEADER, SCOPE_HEADER, TIER_HEADER

PREFLIGHT_SECS = 600
_THREAD = "[0-9a-f-]{36}"
_ROUTES = re.compile(
    r"/start"
    rf"|/sessions/{_THREAD}/api/offer"
    rf"|/api/bot/(?:join|{_THREAD}/(?:offer|end))"
    rf"|/api/threads/{_THREAD}(?:/usage|/events)?"
)
"""Beginning a call, being in it, and reading what became of it. What lists, sums up or
administrates is for programs that keep a key to themselves."""
_SENT = (
    "Authorization",
    "X-API-Key",
    "Content-Type",
    "Idempotency-Key",
    "Last-Event-ID",
    "X-Request-Id",
)
_SHOWN = (
    "X-Request-Id",
    "Retry-After",
    "Idempotent-Replayed",
    TIER_HEADER,
    REMAINING_HEADER,
    SCOPE_HEADER,
)


class CrossOrigin:
    """Lets pages of some origins use the routes of a call, and of none any other.

    A browser asks first, without credentials (a preflight, ``OPTIONS``): this stands before
    authentication, and refuses what no page may use as it refuses an origin that may not.
    No cookies are involved, so a page has what it is given: a join's token, or a key.

    Args:
        origins: such as ``https://app.example.com``; ``*`` is every one.
    """

    def __init__(self, app: ASGIApp, *, origins: Collection[str]) -> None:
        self._app = app
        self._shared = CORSMiddleware(
            app,
            allow_origins=tuple(origins),
            allow_methods=("GET", "POST", "PATCH"),
            allow_headers=_SENT,
            expose_headers=_SHOWN,
            max_age=PREFLIGHT_SECS,
        )
        # The one thing wrong with them is who asks.
        self._unshared = CORSMiddleware(app, allow_methods=("*",), allow_headers=("*",))
        self._is_shared = _ROUTES.fullmatch if origins else lambda _: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, and tell the browser whether the page may see the answer."""
        app = self._app
        if scope["type"] == "http" and self._is_shared(scope["path"]) is not None:
            app = self._shared
        elif scope["type"] == "http" and scope["method"] == "OPTIONS" and _is_preflight(scope):
            app = self._unshared
        await app(scope, receive, send)


def _is_preflight(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "origin" in headers and "access-control-request-method" in headers
