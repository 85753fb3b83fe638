"""Webhooks: what is sent to a customer, what the receiver said, and when it is tried again.

The convention is Standard Webhooks
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

# The pauses that the convention gives as its example: 10 attempts in 75.6 hours.
PAUSES = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
ATTEMPTS = len(PAUSES) + 1
JITTER = 0.2
MAX_RETRY_AFTER = timedelta(hours=24)
# How long the secret before a rotation goes on signing.
SECRET_OVERLAP = timedelta(hours=24)


class Outcome(StrEnum):
    """What came of one attempt. ``GONE``: the receiver wants nothing more of this."""

    DELIVERED = "delivered"
    GONE = "gone"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one attempt: the HTTP status if there was one, and else why not."""

    outcome: Outcome
    status: int | None = None
    error: str | None = None
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """An event that this process has to send now. ``attempt`` counts from 1.

    ``payload`` is the body, the same text at every attempt. ``secrets`` sign it, the current one
    first; there are none until the key's first webhook.
    """

    event_id: UUID
    type: str
    api_key_id: UUID
    workflow_thread_id: UUID | None
    url: str
    attempt: int
    claim: UUID
    payload: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Secrets:
    """A key's signing secrets; ``previous`` signs too until ``previous_until``."""

    current: str = field(repr=False)
    previous: str | None = field(default=None, repr=False)
    previous_until: datetime | None = None

    @property
    def signing(self) -> tuple[str, ...]:
        """Those that sign, the current one first."""
        return (self.current,) if self.previous is None else (self.current, self.previous)


class State(StrEnum):
    """Where a delivery is. ``SENDING``: an attempt is under way somewhere."""

    WAITING = "waiting"
    SENDING = "sending"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event and how far it has got. ``payload`` is left out of lists."""

    event_id: UUID
    type: str
    api_key_id: UUID
    team_id: str
    workflow_thread_id: UUID | None
    created_at: datetime
    url: str
    state: State
    attempts: int
    next_attempt_at: datetime | None
    delivered_at: datetime | None
    dead_at: datetime | None
    last_status: int | None
    last_error: str | None
    payload: str | None = None


def retry_in(attempt: int, answer: Answer, chance: float) -> timedelta | None:
    """How long to wait after this failed attempt; ``None``: the event is given up.

    ``chance``, from 0 to 1, spreads what failed together. A receiver that says when it will be
    well again (``Retry-After``) is given that time, up to a day.
    """
    if answer.outcome is Outcome.GONE or attempt >= ATTEMPTS:
        return None
    pause = PAUSES[attempt - 1] * (1 - JITTER + 2 * JITTER * chance)
    asked = min(answer.retry_after or timedelta(0), MAX_RETRY_AFTER)
    return max(pause, asked)
