"""The calls of Twilio's stand-in as its REST API and its callbacks show them.

https://www.twilio.com/docs/voice/api/call-resource
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import format_datetime
from typing import Any, Literal
from uuid import uuid4

ACCOUNT_SID = f"AC{'0' * 32}"
API_VERSION = "2010-04-01"
# Twilio bills begun minutes.
MINUTE_USD = Decimal("0.01400")

Status = Literal[
    "queued", "initiated", "ringing", "in-progress",
    "completed", "busy", "no-answer", "failed", "canceled",
]  # fmt: skip
OVER = frozenset({"completed", "busy", "no-answer", "failed", "canceled"})


def now() -> datetime:
    """The time, as Twilio's messages have it: in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


@dataclass(slots=True)
class TwilioCall:
    """A call of the account's.

    ``hung_up`` is set when the REST API is asked to end it or to go on with another document, of
    which ``documents`` are those that it was given; ``asked`` is the form that placed it.
    ``price_looks`` is how often its price is still null when it is asked for after its end.
    """

    sid: str = field(default_factory=lambda: f"CA{uuid4().hex}")
    caller: str = "+15005550006"
    called: str = "+15005550001"
    status: Status = "in-progress"
    direction: Literal["inbound", "outbound-api"] = "inbound"
    asked: Mapping[str, list[str]] = field(default_factory=dict)
    documents: list[str] = field(default_factory=list)
    answered_by: str | None = None
    created_at: datetime = field(default_factory=now)
    answered_at: datetime | None = field(default_factory=now)
    ended_at: datetime | None = None
    seconds: int = 0
    price_looks: int = 1
    currency: str = "USD"
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    def first(self, name: str) -> str | None:
        """A parameter of the request that placed it."""
        values = self.asked.get(name)
        return values[0] if values else None

    def end(self, status: Status = "completed", seconds: int = 0) -> None:
        """The call is over; it lasted so many seconds from its answer."""
        if self.status in OVER:
            return
        self.status, self.ended_at, self.seconds = status, now(), seconds
        if status != "completed":
            self.answered_at = None
        self.hung_up.set()

    @property
    def bill(self) -> Decimal | None:
        """What it costs in ``currency`` in the end; ``None``: nothing is charged."""
        if self.status != "completed" or self.answered_at is None:
            return None
        return MINUTE_USD * max(1, -(-self.seconds // 60))

    def parameters(self) -> dict[str, str]:
        """What a Voice webhook is told of the call."""
        return {
            "AccountSid": ACCOUNT_SID,
            "ApiVersion": API_VERSION,
            "CallSid": self.sid,
            "CallStatus": self.status,
            "Direction": self.direction,
            "From": self.caller,
            "To": self.called,
            "CallerCity": "",
            "CallerName": "Zoë & Söhne",
        }

    def resource(self) -> dict[str, Any]:
        """The call as the REST API shows it; asking after its end brings its price nearer."""
        bill = self.bill
        if bill is not None and self.price_looks > 0:
            self.price_looks -= 1
            bill = None
        return {
            "sid": self.sid,
            "account_sid": ACCOUNT_SID,
            "api_version": API_VERSION,
            "parent_call_sid": None,
            "to": self.called,
            "from": self.caller,
            "status": self.status,
            "direction": self.direction,
            "answered_by": self.answered_by,
            "date_created": format_datetime(self.created_at),
            "date_updated": format_datetime(self.ended_at or self.created_at),
            "start_time": _shown(self.answered_at),
            "end_time": _shown(self.ended_at),
            "duration": str(self.seconds) if self.status in OVER else None,
            "price": None if bill is None else f"-{bill:.5f}",
            "price_unit": self.currency,
            "uri": f"/{API_VERSION}/Accounts/{ACCOUNT_SID}/Calls/{self.sid}.json",
        }


def _shown(at: datetime | None) -> str | None:
    return None if at is None else format_datetime(at)
