"""Who is calling: the API key of a request, verified, and the row it belongs to.

Everything under ``/api``, on the paths of Pipecat's runner and on those of the gateway needs a
key, except a connection that brings the token of its join: the route checks that. A route also
asks for its `caller_of`, so that a path this middleware never saw is refused and not served.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from flow.api.dependencies import Keys
from flow.api.request_context import context_of
from flow.db.database import Database
from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.permissions import ADMIN
from flow.errors import Refused
from flow.vendors.key_verification_cache import VerifiedKey

READ_MAX_AGE_SECS = 30.0
WRITE_MAX_AGE_SECS = 10.0
ROW_SECS = 60.0
MAX_ROWS = 10_000
OPERATORS_PATH = "/api/admin/"

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_PIPECAT = re.compile(r"/start|/sessions/.*")
# A carrier's signature takes the key's place there.
_SIGNED = re.compile(r"/api/telephony/[^/]+/(?:voice|calls/[^/]+)")
_TOKEN = re.compile(rb"(?:^|&)token=")

OnKey = Callable[[ApiKey], None]


class Auth:
    """Puts the key and its permissions into the request's context, and ``api_key_id`` and
    ``unkey_key_id`` into ``request.state`` as well.

    Args:
        token_routes: where the token in a call's link will do in place of a key: by what follows
            ``/api/``, the last parts of the paths of a call.
        on_key: told of the row of a key whenever it was read; must neither wait nor raise.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Keys,
        database: Database,
        token_routes: Mapping[str, Iterable[str]],
        on_key: OnKey,
    ) -> None:
        self._app = app
        self._keys = keys
        self._rows = KeyRows(database, on_key)
        of_calls = [
            rf"/api/{under}/[^/]+/(?:{'|'.join(map(re.escape, names))})"
            for under, names in token_routes.items()
        ]
        self._by_token = re.compile("|".join(of_calls))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application for a known caller.

        Raises:
            Refused: the credentials are missing, contradictory or not good.
            AuthUnavailable, DatabaseUnavailable: nobody can say whose key it is.
        """
        if scope["type"] == "http" and self._needs_key(scope):
            secret = credentials(scope["headers"])
            reads = scope["method"] in _READS
            max_age = READ_MAX_AGE_SECS if reads else WRITE_MAX_AGE_SECS
            verified = await self._keys.verify(secret, max_age_secs=max_age)
            key = await self._rows.of(verified)
            context = context_of(scope)
            context.api_key, context.permissions = key, frozenset(verified.permissions)
            scope["state"].update(api_key_id=key.id, unkey_key_id=key.unkey_key_id)
            if scope["path"].startswith(OPERATORS_PATH):
                # Before routing, so that nobody else learns what there is.
                require_permission(HTTPConnection(scope), ADMIN)
        await self._app(scope, receive, send)

    def _needs_key(self, scope: Scope) -> bool:
        path: str = scope["path"]
        if not path.startswith("/api/"):
            return context_of(scope).protocol is not None or _PIPECAT.fullmatch(path) is not None
        if _SIGNED.fullmatch(path) is not None:
            return False
        query = scope.get("query_string", b"")
        return not (self._by_token.fullmatch(path) and _TOKEN.search(query))


class KeyRows:
    """The rows of verified keys, asked of the database once a minute or when they change."""

    def __init__(
        self, database: Database, on_key: OnKey, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._on_key = on_key
        self._clock = clock
        self._rows: OrderedDict[str, tuple[ApiKey, float]] = OrderedDict()

    async def of(self, verified: VerifiedKey) -> ApiKey:
        """The row of the key, made at first sight; follows Unkey's team and name."""
        key, read_at = self._rows.get(verified.unkey_key_id, (None, 0.0))
        if key is not None and self._clock() - read_at < ROW_SECS and _matches(key, verified):
            return key
        read_at = self._clock()
        key = await self._database.resolve_api_key(
            verified.unkey_key_id, verified.team_id, verified.name
        )
        self._rows[verified.unkey_key_id] = (key, read_at)
        self._rows.move_to_end(verified.unkey_key_id)
        if len(self._rows) > MAX_ROWS:
            self._rows.popitem(last=False)
        self._on_key(key)
        return key


def caller_of(connection: HTTPConnection) -> ApiKey:
    """The key this request was made with.

    Raises:
        Refused: ``missing_api_key``.
    """
    if (key := context_of(connection.scope).api_key) is None:
        raise _missing()
    return key


def require_permission(connection: HTTPConnection, permission: str) -> None:
    """Raise `Refused`, ``insufficient_permissions``, unless the key has this one at Unkey."""
    if permission not in context_of(connection.scope).permissions:
        raise Refused(
            "insufficient_permissions", f"This needs a key with the permission {permission!r}."
        )


def credentials(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The secret in ``Authorization: Bearer`` or ``X-API-Key``; both are fine if they agree.

    Raises:
        Refused: ``missing_api_key``, ``invalid_api_key`` (another scheme) or
            ``conflicting_credentials`` (two that differ, or a header sent twice).
    """
    bearer = _only("Authorization", [v for n, v in headers if n == b"authorization"])
    plain = _only("X-API-Key", [v for n, v in headers if n == b"x-api-key"])
    if bearer is not None:
        scheme, _, bearer = bearer.partition(" ")
        if scheme.lower() != "bearer":
            raise Refused("invalid_api_key", "Authorization must be of the form 'Bearer KEY'.")
        bearer = bearer.strip(" ")
    if bearer is not None and plain is not None and bearer != plain:
        raise Refused(
            "conflicting_credentials", "Authorization and X-API-Key hold different keys; send one."
        )
    if not (secret := bearer or plain):
        raise _missing()
    return secret


def _only(name: str, values: list[bytes]) -> str | None:
    if len(values) > 1:
        raise Refused("conflicting_credentials", f"The header {name} was sent twice.")
    return values[0].decode("latin-1").strip(" ") if values else None


def _matches(key: ApiKey, verified: VerifiedKey) -> bool:
    return key.team_id == verified.team_id and key.name == verified.name


def _missing() -> Refused:
    return Refused(
        "missing_api_key", "Send an API key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
    )
