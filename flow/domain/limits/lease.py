"""What a process of the gateway leases of a key's and its team's limits, and what it is granted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from flow.domain.limits.budget import Budget
from flow.domain.limits.quota import LimitState
from flow.domain.products.save_mode import SaveMode
from flow.errors import Refused


class Resource(StrEnum):
    """What slices are leased of: USD of budgets and of quotas of credits, requests and tokens a
    minute, and requests at once."""

    USD = "usd"
    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENCY = "concurrency"


Amounts = Mapping[Resource, Decimal]


@dataclass(frozen=True, slots=True)
class LeaseQuestion:
    """What a process says and asks when it renews a lease.

    Args:
        kept: what it keeps of the slices that it has.
        needed: what a request needs that waits for it.
        wanted: what it would like besides.
        done_requests: how many it has let in since it last said so.
        done_tokens: the tokens of those that were settled since.
        running: how many are under way.
    """

    kept: Amounts
    needed: Amounts
    wanted: Amounts
    done_requests: int = 0
    done_tokens: int = 0
    running: int = 0

    def slices(self) -> dict[str, dict[str, str]]:
        """The slices as the SQL function takes them."""
        return {
            resource.value: {
                name: str(amounts[resource])
                for name, amounts in (
                    ("kept", self.kept),
                    ("needed", self.needed),
                    ("wanted", self.wanted),
                )
                if amounts.get(resource)
            }
            for resource in Resource
        }

    def done(self) -> dict[str, Any]:
        """What was done, as the SQL function takes it."""
        return {
            "requests": self.done_requests,
            "tokens": self.done_tokens,
            "running": self.running,
        }


@dataclass(frozen=True, slots=True)
class LeaseAnswer:
    """What a process has been granted.

    Args:
        granted: what is added to each slice; ``None``: there is no limit.
        refused: why what is needed does not fit: then nothing is granted.
        is_used_up: a budget or quota is, so that nothing is free that may have been before.
        may_be_freed: some of what does not fit is held by requests to the gateway.
        rates: the limits of requests and tokens a minute and of requests at once.
    """

    granted: Mapping[Resource, Decimal | None]
    refused: Refused | None = None
    is_used_up: bool = False
    may_be_freed: bool = False
    rates: tuple[LimitState, ...] = ()
    budget: Budget | None = None
    save_mode: SaveMode | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """How far one limit a minute has got. ``resets_at``: when all of it is there again."""

    limit: int
    remaining: int
    resets_at: datetime


@dataclass(frozen=True, slots=True)
class Rates:
    """The limits a minute that rule a request; ``None``: there is none."""

    requests: Rate | None = None
    tokens: Rate | None = None
