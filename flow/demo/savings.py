"""What save mode saved: the usage it changed, priced as the model that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from flow.domain.usage.events import Kind, UsageEvent


@dataclass(frozen=True, slots=True)
class Saved:
    """In USD: what the work cost, and what the same work of the model asked for would have.

    Work that save mode did not touch, or that has no price either way, is not in it.
    """

    generations: int = 0
    cost_usd: Decimal = Decimal(0)
    asked_for_usd: Decimal = Decimal(0)

    @property
    def saved_usd(self) -> Decimal:
        """The difference."""
        return self.asked_for_usd - self.cost_usd


def saved(ledger: Iterable[Mapping[str, Any]], price: Callable[[UsageEvent], UsageEvent]) -> Saved:
    """What save mode saved in these rows of a ledger."""
    found = Saved()
    for row in ledger:
        if row["kind"] != Kind.LLM or not row.get("save_mode") or row.get("total_cost_usd") is None:
            continue
        asked_for = price(_as_asked_for(row)).cost
        if asked_for is not None:
            found = Saved(
                found.generations + 1,
                found.cost_usd + Decimal(row["total_cost_usd"]),
                found.asked_for_usd + asked_for.total,
            )
    return found


def _as_asked_for(row: Mapping[str, Any]) -> UsageEvent:
    """The row's usage as if the model that was asked for had served it."""
    event = UsageEvent.from_json(row)
    model = event.requested_model or event.model
    return replace(event, model=model, requested_model=None, sent_model=None)
