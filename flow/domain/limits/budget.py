"""What a key may spend in a month (UTC), and how far it has got."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from flow.domain.products.save_mode import SaveMode


class Tier(StrEnum):
    """How much of the budget is spent: below 85 %, from 85, 95 and 100 % on.

    ``override``: the operator has lifted the budget for a time, or this one call is exempt from
    it. ``unknown``: what was spent could not be read.
    """

    OK = "ok"
    WARN = "warn"
    ENGAGE = "engage"
    EXCEEDED = "exceeded"
    OVERRIDE = "override"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Budget:
    """A key's budget, or its team's, as the database sees it; every amount in USD.

    Without a cap ``tier``, ``cap_usd`` and ``remaining_usd`` are ``None``. ``remaining_usd`` is
    the cap less what is spent, and never negative; ``reserved_usd`` is what running calls hold
    of it beyond what they have spent already. ``scope`` says whose budget it is, the ``key``'s or
    its ``team``'s: where both have one, this is the one that rules.
    """

    tier: Tier | None
    cap_usd: Decimal | None
    spent_usd: Decimal
    reserved_usd: Decimal
    remaining_usd: Decimal | None
    resets_at: datetime
    scope: str = "key"


@dataclass(frozen=True, slots=True)
class Standing:
    """What a running call is told about its key: the budget's tier (``None`` without a cap) and
    the key's own save mode (``None`` where the operator has set none)."""

    tier: Tier | None = None
    save_mode: SaveMode | None = None
