"""The state of a team's quota: read from a billing service's answer, and refused when limited.

::

    {"limited": false, "resource": "ai_credits", "used": "120.5", "limit": "1000",
     "resets_at": "2026-12-01T00:00:00Z"}

The answer is a JSON object. Only ``limited`` is required, as a JSON boolean. ``resource`` is up to
100 printable characters; ``used`` and ``limit`` are numbers, or strings of a number, from 0 and
below 10^100; ``resets_at`` is a time as in RFC 3339. Each of these may be null or left out. Members
of other names are ignored. Anything else, a name that stands twice too, makes the answer malformed.

Read by hand, not with pydantic: its JSON parser keeps the last of two equal names, and its types
take more forms of numbers and times than these.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from flow.domain.limits.quota import plain
from flow.errors import Refused

DEFAULT_RETRY_SECS = 60
MAX_RETRY_SECS = 24 * 3600
MAX_RESOURCE = 100
MAX_DIGITS = 100

_AMOUNT = re.compile(r"-?[0-9]{1,100}(\.[0-9]{1,100})?([eE][+-]?[0-9]{1,3})?")
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,20})?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class QuotaState:
    """How much of its quota a team has used.

    Attributes:
        limited: the team must not go on, until ``resets_at``.
        resource: what is counted.
        used, limit: in units of ``resource``, from 0 on.
        resets_at: in UTC.

    ``None``: the billing service did not say.
    """

    limited: bool
    resource: str | None
    used: Decimal | None
    limit: Decimal | None
    resets_at: datetime | None

    def refusal(self, product: str, now: float) -> Refused:
        """The error ``quota_exceeded`` for a call of ``product``; ``now`` is seconds since 1970."""
        retry_after_secs = DEFAULT_RETRY_SECS
        if self.resets_at is not None:
            left_secs = math.ceil(self.resets_at.timestamp() - now)
            retry_after_secs = min(max(left_secs, 1), MAX_RETRY_SECS)
        return Refused("quota_exceeded", self._sentence(), retry_after_secs, self._limit(product))

    def _sentence(self) -> str:
        resource = self.resource and self.resource.replace("_", " ")
        if self.limit is None:
            quota = f"quota of {resource}" if resource else "quota"
        else:
            quota = f"quota of {plain(self.limit)}" + (f" {resource}" if resource else "")
        used = "" if self.used is None else f": {plain(self.used)} used"
        anew = ""
        if self.resets_at is not None:
            resets_at = self.resets_at.isoformat(timespec="seconds").replace("+00:00", "Z")
            anew = f" It starts anew at {resets_at}."
        return (
            f"The billing service says that this team's {quota} is used up{used}.{anew}"
            " Whoever handles the team's billing can raise it."
        )

    def _limit(self, product: str) -> dict[str, Any]:
        """The limit that was reached; amounts are strings, which keep every digit."""
        return {
            "resource": self.resource or "external",
            "scope": "team",
            "product": product,
            "used": None if self.used is None else plain(self.used),
            "reserved": None,
            "limit": None if self.limit is None else plain(self.limit),
            "limited": self.limited,
            "resets_at": self.resets_at,
            "source": "external",
        }


class MalformedAnswer(ValueError):
    """The answer breaks the protocol; the message says where, and quotes nothing of it."""


def parse_quota_state(body: bytes) -> QuotaState:
    """The state in the body of an answer.

    Raises:
        MalformedAnswer: the body breaks the protocol.
    """
    said = _object(body)
    limited = said.get("limited")
    if not isinstance(limited, bool):
        raise MalformedAnswer("limited is not a boolean")
    return QuotaState(
        limited=limited,
        resource=_resource(said.get("resource")),
        used=_amount("used", said.get("used")),
        limit=_amount("limit", said.get("limit")),
        resets_at=_moment(said.get("resets_at")),
    )


@dataclass(frozen=True, slots=True)
class _Number:
    """A number as it is written: the digits of an ignored member are never converted."""

    text: str


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        said = json.loads(
            body.decode("utf-8"),
            parse_int=_Number,
            parse_float=_Number,
            parse_constant=_constant,
            object_pairs_hook=_members,
        )
    except MalformedAnswer:
        raise
    except (ValueError, RecursionError):
        raise MalformedAnswer("not JSON") from None
    if not isinstance(said, dict):
        raise MalformedAnswer("not an object")
    return said


def _constant(_name: str) -> Any:
    raise MalformedAnswer("NaN and Infinity are not JSON")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise MalformedAnswer("a name stands twice")
    return members


def _resource(said: Any) -> str | None:
    if said is None:
        return None
    if isinstance(said, str) and 0 < len(said) <= MAX_RESOURCE and said.isprintable():
        return said
    raise MalformedAnswer("resource is not a name")


def _amount(name: str, said: Any) -> Decimal | None:
    if said is None:
        return None
    text = said.text if isinstance(said, _Number) else said
    if not isinstance(text, str) or not _AMOUNT.fullmatch(text):
        raise MalformedAnswer(f"{name} is not an amount")
    amount = Decimal(text)
    # Whoever shows the amount writes it out, and an exponent can make that very long.
    if amount < 0 or (amount and abs(amount.adjusted()) >= MAX_DIGITS):
        raise MalformedAnswer(f"{name} is out of range")
    return amount or Decimal(0)


def _moment(said: Any) -> datetime | None:
    if said is None:
        return None
    if not isinstance(said, str) or not _RFC3339.fullmatch(said):
        raise MalformedAnswer("resets_at is not a time")
    try:
        return datetime.fromisoformat(said.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise MalformedAnswer("resets_at is not a time") from None
