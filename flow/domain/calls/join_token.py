"""The short-lived token that lets a caller connect to one thread.

A join hands it out in place of the API key, so that a browser or a telephone bridge can open the
call without ever holding the key. It is a JSON web token (RFC 7519, HS256) about the thread, with
an expiry and the join's place in a trace where it has one: nothing is stored, and it opens no
other thread. One that is made for a bearer, such as one telephone call, opens the thread for that
bearer alone.
"""

from __future__ import annotations

import hmac
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from uuid import UUID

import jwt
from jwt.utils import base64url_decode, base64url_encode

from flow.domain.calls.trace_parent import TraceParent
from flow.errors import Refused

# Keeps these signatures apart from anything else ever signed with the same secret.
_PURPOSE = b"flow join token 2\0"
_ALGORITHM = "HS256"
_LONGEST = 1_024


def sign(
    secret: bytes,
    thread_id: UUID,
    expires_at: datetime,
    *,
    trace: TraceParent | None = None,
    bearer: str = "",
) -> str:
    """A URL-safe token for ``thread_id``, good until ``expires_at`` (whole seconds, aware).

    ``trace`` is the join's span: the call becomes part of its trace.
    """
    claims = {"sub": str(thread_id), "exp": int(expires_at.timestamp())}
    if trace is not None:
        claims["trace"] = trace.to_header()
    return jwt.encode(claims, _key(secret, bearer), _ALGORITHM)


def check(
    secret: bytes, token: str, thread_id: UUID, now: datetime | None, bearer: str = ""
) -> TraceParent | None:
    """Return the join's span when `sign` made ``token`` for ``thread_id`` and ``bearer``.

    ``now`` is ``None`` where it does not matter whether the token has expired.

    Raises:
        Refused: code ``invalid_token`` or ``expired_token``.
    """
    if len(token) > _LONGEST or not _is_canonical(token):
        raise _invalid()
    try:
        # The clock is the caller's, so that tests and expiry agree on one.
        claims = jwt.decode(
            token,
            _key(secret, bearer),
            algorithms=[_ALGORITHM],
            options={"require": ["exp", "sub"], "verify_exp": False},
        )
    except (jwt.InvalidTokenError, ValueError):
        raise _invalid() from None
    if claims["sub"] != str(thread_id):
        raise _invalid()
    if now is not None and now.timestamp() >= claims["exp"]:
        raise Refused("expired_token", "The token has expired; join again with the same request.")
    return TraceParent.from_header(claims.get("trace", ""))


@lru_cache(maxsize=8)
def _key_for_all(secret: bytes) -> bytes:
    return hmac.new(secret, _PURPOSE, sha256).digest()


def _key(secret: bytes, bearer: str) -> bytes:
    """The key of this bearer's tokens; it says nothing of anybody else's."""
    key = _key_for_all(secret)
    return hmac.new(key, bearer.encode(), sha256).digest() if bearer else key


def _is_canonical(token: str) -> bool:
    """Whether the signature is spelt as `sign` spells it: base64 has other spellings of it."""
    signature = token.rpartition(".")[2]
    try:
        return base64url_encode(base64url_decode(signature)).decode() == signature
    except (ValueError, UnicodeError):
        return False


def _invalid() -> Refused:
    return Refused("invalid_token", "The token is not valid for this thread.")
