"""A team as an operator sees it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from flow.domain.limits.quota import CONCURRENT_CALLS, LimitState


@dataclass(frozen=True, slots=True)
class Team:
    """What a team spent this month (UTC), and every limit it could have.

    ``keys`` counts those that were not revoked. ``billable_usd`` is the part of ``spent_usd`` in
    products that are billed.
    """

    team_id: str
    keys: int
    spent_usd: Decimal
    billable_usd: Decimal
    resets_at: datetime
    limits: tuple[LimitState, ...]

    @property
    def running_calls(self) -> int:
        """The calls that it has now, and those that wait for their caller."""
        states = (state for state in self.limits if state.resource == CONCURRENT_CALLS)
        return next((int(state.used) for state in states), 0)
