"""Whether a request may be made: asked before anything is done, and told what it has cost.

The gateway knows this interface alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from flow.domain.gateway.operations import Operation
from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.budget import Budget, Standing
from flow.domain.limits.lease import Rates
from flow.domain.products.product import ModelName, Product
from flow.domain.usage.events import Quantities, UsageEvent


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """What a request would do.

    Args:
        model: the one asked for.
        estimate: what its input will consume, as well as can be told.
        most_output: the limit that it sets to the tokens of its answer; ``None``: none.
        is_priced: whether a price is known for the model.
    """

    key: ApiKey
    product: Product
    operation: Operation
    model: ModelName
    estimate: Quantities
    most_output: int | None = None
    is_priced: bool = True


class Admitted(Protocol):
    """A request that was let in.

    ``standing`` is how its key stands, and ``budget`` what the answer shows.
    """

    @property
    def standing(self) -> Standing:
        """The budget's tier and the key's own save mode."""

    @property
    def budget(self) -> Budget | None:
        """The key's budget; ``None`` without one."""

    def attempted(self, event_id: UUID) -> None:
        """A vendor is asked: the event of this id will say what that cost."""

    def closed(self) -> None:
        """The request is over. Its events are recorded by now, and not yet priced."""


class GatewayAdmission(Protocol):
    """Decides whether requests may be made."""

    async def admit(self, request: AdmissionRequest) -> Admitted:
        """Let a request in.

        Raises:
            Refused: ``budget_exceeded``, ``quota_exceeded``, ``concurrency_exceeded`` or
                ``rate_limited``.
            UnpricedModel: its cost could not be counted against the key's budget.
            Unavailable: nobody can say.
        """

    def rates(self, key: ApiKey, product: Product) -> Rates | None:
        """How far the limits a minute of a key's requests for a product have got; ``None``: it has
        none."""

    def recorded(self, events: Sequence[UsageEvent]) -> None:
        """These events, with their costs, are in the ledger now. Must not block."""
