"""How a key stands that makes requests without a thread."""

from __future__ import annotations

from dataclasses import dataclass

from flow.domain.limits.budget import Budget
from flow.domain.limits.quota import LimitState
from flow.domain.products.save_mode import SaveMode


@dataclass(frozen=True, slots=True)
class KeyStanding:
    """A key's budget (``None`` without one), its own save mode (``None`` where the operator has set
    none), and every limit of the key and its team."""

    budget: Budget | None = None
    save_mode: SaveMode | None = None
    limits: tuple[LimitState, ...] = ()
