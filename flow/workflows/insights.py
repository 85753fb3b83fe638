"""The insights of a call, extracted by the model and on the terms of the product ``insights``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import structlog

from flow.domain.calls.thread import Thread
from flow.domain.limits.budget import Standing, Tier
from flow.domain.products.product import Product
from flow.domain.products.save_mode import decide
from flow.domain.usage.events import CostControl, Owner
from flow.errors import Unavailable
from flow.insights.attempt import Asking
from flow.insights.extract import ExtractInsightsStep

log = structlog.get_logger(__name__)

PROVIDER = "openai"


class CallInsights:
    """Runs the step after a call.

    Args:
        step: asks the model.
        product: what the step may use, and whether its usage is charged; usage of a call that
            is not billable is never charged.
        model: the model where the product names none.
        standing: how a thread's key stands.
        enabled: whether save mode is switched on for a thread's key; ``None``: unknown.
        forced: takes the place of ``enabled``, in debug mode.
    """

    def __init__(
        self,
        step: ExtractInsightsStep,
        product: Product,
        model: str,
        *,
        standing: Callable[[UUID], Awaitable[Standing]],
        enabled: Callable[[Owner], bool | None],
        forced: bool | None = None,
    ) -> None:
        self._step = step
        self._product = product
        self._model = model
        self._standing = standing
        self._enabled = enabled
        self._forced = forced

    async def __call__(self, thread: Thread, owner: Owner) -> dict[str, Any]:
        """The insights as JSON."""
        owner = replace(owner, billable=owner.billable and self._product.billable)
        result = await self._step.run(thread, owner, self._asking(await self._control(thread)))
        return result.to_json()

    def _asking(self, control: CostControl) -> Asking:
        default = self._product.llm.default
        asked_for = default.model if default else self._model
        cheaper = self._product.saving.cheaper(PROVIDER, asked_for) if control.save_mode else None
        return Asking(cheaper or asked_for, asked_for, control)

    async def _control(self, thread: Thread) -> CostControl:
        standing = await self._known_standing(thread.id)
        return decide(
            join=thread.join.save_mode,
            key=standing.save_mode,
            product=self._product.save_mode,
            tier=standing.tier,
            enabled=self._enabled(thread.owner),
            forced=self._forced,
        )

    async def _known_standing(self, thread_id: UUID) -> Standing:
        try:
            return await self._standing(thread_id)
        except Unavailable as error:
            log.warning("standing_unknown", workflow_thread_id=str(thread_id), error=str(error))
            return Standing(Tier.UNKNOWN)
