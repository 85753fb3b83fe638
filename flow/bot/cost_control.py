"""What a running call may cost, and what is done about it.

`Spending` follows how the key stands (the ledger says so with every acknowledgement), decides
whether save mode is on, and shapes each request to a language model accordingly. Nothing of it
waits for anybody: a decision is made from what is known at that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog

from flow.domain.limits.budget import Standing, Tier
from flow.domain.products.product import Product
from flow.domain.products.save_mode import SaveMode, decide, saving_request
from flow.domain.usage.events import CostControl

log = structlog.get_logger(__name__)


class Spending:
    """The cost control of one call.

    Args:
        cache_key: what names the call to a vendor's prompt cache.
        join_mode: the save mode the join asked for.
        enabled: whether save mode is switched on for the key; ``None``: unknown.
        forced: takes the place of ``enabled``, in debug mode.
        on_engaged: told the reason when save mode goes on.
    """

    def __init__(
        self,
        product: Product,
        *,
        cache_key: str,
        join_mode: SaveMode | None = None,
        standing: Standing | None = None,
        enabled: Callable[[], bool | None] = lambda: None,
        forced: bool | None = None,
        on_engaged: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._on_engaged = on_engaged
        self.product = product
        self._cache_key = cache_key
        self._join_mode = join_mode
        self._standing = standing or Standing()
        self._enabled = enabled
        self._forced = forced
        self._log = log.bind(workflow_thread_id=cache_key)
        self._last: CostControl | None = None

    def stand(self, standing: Standing) -> None:
        """Take in how the key stands now; save mode follows with the next request."""
        self._standing = standing

    @property
    def tier(self) -> Tier | None:
        """The tier of the key's budget, as last heard; ``None``: it has none."""
        return self._standing.tier

    @property
    def needs_prices(self) -> bool:
        """Whether a budget holds, and nothing may be used that has no price."""
        has_budget = self._standing.tier not in {None, Tier.OVERRIDE, Tier.UNKNOWN}
        return has_budget and self.product.unpriced == "refuse"

    @property
    def must_wrap_up(self) -> bool:
        """Whether the budget is exceeded and the product ends its calls for that."""
        return self.product.on_exceeded == "wrap_up" and self._standing.tier is Tier.EXCEEDED

    def control(self) -> CostControl:
        """Whether save mode is on at this moment, and why."""
        control = decide(
            join=self._join_mode,
            key=self._standing.save_mode,
            product=self.product.save_mode,
            tier=self._standing.tier,
            enabled=self._enabled(),
            forced=self._forced,
        )
        if self._last is None or control.save_mode is not self._last.save_mode:
            self._log.info("save_mode", on=control.save_mode, reason=control.save_mode_reason)
            if control.save_mode:
                self._on_engaged(control.save_mode_reason or "")
        self._last = control
        return control

    def may_ask_early(self) -> bool:
        """Whether a model may be asked before the caller's turn is surely over, for a reply that is
        thrown away if it was not."""
        return self.product.early_replies and not self.control().save_mode

    def model(self, provider: str, model: str) -> str:
        """The model to use in place of ``model``, where requests say nothing of it: a cheaper one
        in save mode."""
        cheaper = self.product.saving.cheaper(provider, model)
        return cheaper if cheaper is not None and self.control().save_mode else model

    def request(self, request: Mapping[str, Any], provider: str) -> dict[str, Any]:
        """The chat request to send in place of ``request``: a cheaper one in save mode."""
        if not self.control().save_mode:
            return dict(request)
        return saving_request(
            request, provider=provider, saving=self.product.saving, cache_key=self._cache_key
        )
