"""Secrets and signatures by the Standard Webhooks convention."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from standardwebhooks import Webhook

# The convention asks for 24 to 64 random bytes.
SECRET_BYTES = 32
PREFIX = "whsec_"


def new_secret() -> str:
    """A fresh signing secret: ``whsec_`` and 32 random bytes in base64."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signature_headers(
    event_id: UUID, at: datetime, payload: str, keys: Sequence[str]
) -> dict[str, str]:
    """The headers of one attempt, with a signature for each key; ``at`` is the attempt's time.

    A receiver takes the message if any of the signatures is right.
    """
    signatures = [Webhook(key).sign(str(event_id), at, payload) for key in keys]
    return {
        "webhook-id": str(event_id),
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
