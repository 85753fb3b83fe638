"""The short-lived token that lets a caller connect to one thread.

A join hands it out in place of the API key, so that a browser or a telephone bridge can open the
call without ever holding the key. The token is an expiry time and an HMAC-SHA256 over the thread
it is for and that time: nothing is stored, and it opens no other thread. One that is made for a
bearer, such as one telephone call, opens the thread for that bearer alone.
"""

from __future__ import annotations

import binascii
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from flow.errors import Refused

# Keeps these signatures apart from anything else ever signed with the same secret.
_PURPOSE = b"flow join token 1\0"
_EXPIRY_BYTES = 6
_LENGTH = 4 * -(-(_EXPIRY_BYTES + sha256().digest_size) // 3)


def sign(secret: bytes, thread_id: UUID, expires_at: datetime, bearer: str = "") -> str:
    """A URL-safe token for ``thread_id``, good until ``expires_at`` (whole seconds, aware)."""
    expiry = int(expires_at.timestamp()).to_bytes(_EXPIRY_BYTES, "big")
    signature = _signature(secret, thread_id, expiry, bearer)
    return urlsafe_b64encode(expiry + signature).rstrip(b"=").decode()


def check(secret: bytes, token: str, thread_id: UUID, now: datetime, bearer: str = "") -> None:
    """Return when `sign` made ``token`` for ``thread_id`` and ``bearer``, and it has not expired.

    Raises:
        Refused: code ``invalid_token`` or ``expired_token``.
    """
    raw = _decode(token)
    expiry, signature = raw[:_EXPIRY_BYTES], raw[_EXPIRY_BYTES:]
    if not hmac.compare_digest(signature, _signature(secret, thread_id, expiry, bearer)):
        raise _invalid()
    if now.timestamp() >= int.from_bytes(expiry, "big"):
        raise Refused("expired_token", "The token has expired; join again with the same request.")


def _signature(secret: bytes, thread_id: UUID, expiry: bytes, bearer: str) -> bytes:
    # All but the bearer is of fixed length, so no two of these read the same.
    signed = _PURPOSE + thread_id.bytes + expiry + bearer.encode()
    return hmac.digest(secret, signed, "sha256")


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
