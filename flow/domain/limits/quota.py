"""What keys and teams may use, how far they have got, and how a refusal says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from flow.errors import Refused

BUDGET = "budget_usd"
CALL_SECONDS = "call_seconds"
CONCURRENT_CALLS = "concurrent_calls"
CREDITS = "ai_credits"
REQUESTS_PER_MINUTE = "requests_per_minute"
TOKENS_PER_MINUTE = "tokens_per_minute"
CONCURRENT_REQUESTS = "concurrent_requests"
RATES = (REQUESTS_PER_MINUTE, TOKENS_PER_MINUTE, CONCURRENT_REQUESTS)


@dataclass(frozen=True, slots=True)
class Terms:
    """What the operator's products say about limits.

    ``buckets`` names the products whose billable cost counts against each kind of credits (1
    credit is 1 cent); ``concurrency`` how many calls of a product one key may have at once;
    ``rates`` the limits of a product's requests to the gateway, by resource.
    """

    buckets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    concurrency: Mapping[str, int] = field(default_factory=dict)
    rates: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The terms as the SQL functions take them."""
        return {
            "buckets": {name: list(products) for name, products in self.buckets.items()},
            "concurrency": dict(self.concurrency),
            "rates": {name: dict(limits) for name, limits in self.rates.items()},
        }


@dataclass(frozen=True, slots=True)
class Admission:
    """What a call needs to be let in.

    ``reserve_usd`` and ``reserve_secs`` are held for it until it has used as much;
    ``waiting_secs`` is how long they are held for a caller who does not come. With ``override``
    the key's budget does not refuse it.
    """

    reserve_usd: Decimal = Decimal(0)
    reserve_secs: int = 0
    waiting_secs: int = 360
    terms: Terms = Terms()
    override: bool = False


@dataclass(frozen=True, slots=True)
class LimitState:
    """One limit of a key or its team.

    ``resource`` is ``budget_usd`` (USD), ``call_seconds`` (s), ``concurrent_calls``, or a kind of
    credits. ``scope`` is ``key`` or ``team``; ``product`` is set where it is one product's.
    ``reserved`` is held by running calls beyond ``used``. ``limit=None``: there is none.
    ``resets_at=None``: it frees itself when a call ends.
    """

    resource: str
    scope: str
    product: str | None
    used: Decimal
    reserved: Decimal
    limit: Decimal | None
    resets_at: datetime | None

    @property
    def is_reached(self) -> bool:
        """Whether nothing is left for another call."""
        return self.limit is not None and self.used + self.reserved >= self.limit

    def to_json(self) -> dict[str, Any]:
        """The limit for a customer: amounts as strings, which keep every digit."""
        return {
            "resource": self.resource,
            "scope": self.scope,
            "product": self.product,
            "used": plain(self.used),
            "reserved": plain(self.reserved),
            "limit": None if self.limit is None else plain(self.limit),
            "limited": self.is_reached,
            "resets_at": self.resets_at,
        }


def refused(code: str, limit: LimitState, retry_after_secs: int) -> Refused:
    """A join that was not admitted, as the error that says what was reached, until when, and what
    to do about it."""
    sentence, hint = _sentence(limit), _hint(limit)
    return Refused(code, sentence, retry_after_secs, limit.to_json(), hint=hint)


def plain(amount: Decimal) -> str:
    """An exact amount without an exponent or needless zeros."""
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def dollars(amount: Decimal) -> str:
    """An exact amount of USD with two places or as many as it needs."""
    whole, _, cents = plain(amount).partition(".")
    return f"{whole}.{cents.ljust(2, '0')}"


def _sentence(limit: LimitState) -> str:
    if limit.resource in (CONCURRENT_CALLS, CONCURRENT_REQUESTS):
        return _concurrency_sentence(limit)
    assert limit.limit is not None
    if limit.resource in (REQUESTS_PER_MINUTE, TOKENS_PER_MINUTE):
        return _rate_sentence(limit)
    if limit.resource == BUDGET:
        what = f"This {limit.scope}'s monthly budget of ${dollars(limit.limit)}"
        said_used, said_held = f"${dollars(limit.used)} spent", f"${dollars(limit.reserved)}"
    else:
        name = limit.resource.replace("_", " ")
        what = f"This team's monthly quota of {plain(limit.limit)} {name}"
        said_used, said_held = f"{plain(limit.used)} used", plain(limit.reserved)
    raised = "whoever issued the key can raise it"
    if limit.used >= limit.limit:
        assert limit.resets_at is not None
        return (
            f"{what} is used up: {said_used}. It starts anew at"
            f" {limit.resets_at:%Y-%m-%dT%H:%M:%SZ}; {raised}."
        )
    return (
        f"{what} has no room for more now: {said_used}, and running calls and requests hold"
        f" {said_held}. Try again when one of them has ended; {raised}."
    )


def _concurrency_sentence(limit: LimitState) -> str:
    assert limit.limit is not None
    what = limit.resource.removeprefix("concurrent_")
    of = f" of {limit.product}" if limit.product else ""
    has = plain(min(limit.used + limit.reserved, limit.limit))
    return (
        f"This {limit.scope} may have {plain(limit.limit)} {what}{of} at once and has {has}."
        " Try again when one of them has ended; whoever issued the key can raise the limit."
    )


def _rate_sentence(limit: LimitState) -> str:
    assert limit.limit is not None
    what = limit.resource.removesuffix("_per_minute")
    of = f" of {limit.product}" if limit.product else ""
    return (
        f"This {limit.scope} may use {plain(limit.limit)} {what}{of} a minute and has used"
        f" {plain(limit.used)} in the last one; whoever issued the key can raise the limit."
    )


def _hint(limit: LimitState) -> str:
    """How the operator raises a limit."""
    if limit.resource == BUDGET:
        group = "teams" if limit.scope == "team" else "keys"
        return f"`flow {group} budget` raises it."
    if limit.scope == "team":
        return "`flow keys quota` raises it."
    if limit.resource in RATES and limit.product is None:
        return "`flow keys rates` raises it."
    return f"The product's {limit.resource.replace('_', ' ')} in FLOW_PRODUCTS_FILE raise it."
