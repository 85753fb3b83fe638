"""The short-lived token that lets a caller connect to one thread.

A join hands it out in place of the API key, so that a browser or a telephone bridge can open the
call without ever holding the key. The token is an expiry time, the join's place in a trace where
it has one, and an HMAC-SHA256 over the thread it is for and both: nothing is stored, and it opens
no other thread. One that is made for a bearer, such as one telephone call, opens the thread for
that bearer alone.
"""

from __future__ import annotations

import binascii
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from uuid import UUID

from flow.domain.calls import trace_parent
from flow.domain.calls.trace_parent import TraceParent
from flow.errors import Refused

# Keeps these signatures apart from anything else ever signed with the same secret.
_PURPOSE = b"flow join token 1\0"
_EXPIRY_BYTES = 6
_SIGNATURE_BYTES = sha256().digest_size
_LENGTH = 4 * -(-(_EXPIRY_BYTES + trace_parent.BYTES + _SIGNATURE_BYTES) // 3)


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
    said = int(expires_at.timestamp()).to_bytes(_EXPIRY_BYTES, "big")
    said += trace.to_bytes() if trace is not None else b""
    signature = _signature(secret, thread_id, said, bearer)
    return urlsafe_b64encode(said + signature).rstrip(b"=").decode()


def check(
    secret: bytes, token: str, thread_id: UUID, now: datetime, bearer: str = ""
) -> TraceParent | None:
    """Return the join's span when `sign` made ``token`` for ``thread_id`` and ``bearer``.

    Raises:
        Refused: code ``invalid_token`` or ``expired_token``.
    """
    raw = _decode(token)
    said, signature = raw[:-_SIGNATURE_BYTES], raw[-_SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _signature(secret, thread_id, said, bearer)):
        raise _invalid()
    if now.timestamp() >= int.from_bytes(said[:_EXPIRY_BYTES], "big"):
        raise Refused("expired_token", "The token has expired; join again with the same request.")
    return TraceParent.from_bytes(said[_EXPIRY_BYTES:])


def _signature(secret: bytes, thread_id: UUID, said: bytes, bearer: str) -> bytes:
    # With the length of what is said, no two of these read the same.
    signature = _keyed(secret).copy()
    signature.update(thread_id.bytes + bytes([len(said)]) + said + bearer.encode())
    return signature.digest()


# Making one takes longer than the signature.
@lru_cache(maxsize=8)
def _keyed(secret: bytes) -> hmac.HMAC:
    return hmac.new(secret, _PURPOSE, sha256)


def _decode(token: str) -> bytes:
    """The bytes of the one spelling `sign` gives them; base64 has others, all refused."""
    if len(token) > _LENGTH or not token.isascii():
        raise _invalid()
    try:
        raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        raise _invalid() from None
    if urlsafe_b64encode(raw).rstrip(b"=").decode() != token:
        raise _invalid()
    return raw


def _invalid() -> Refused:
    return Refused("invalid_token", "The token is not valid for this thread.")
