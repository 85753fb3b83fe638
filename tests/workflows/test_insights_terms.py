"""On which terms the insights of a call are asked for."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

import pytest

from flow.domain.calls.thread import Thread
from flow.domain.insights.insights import InsightsResult
from flow.domain.limits.budget import Standing, Tier
from flow.domain.products.product import Product
from flow.domain.usage.events import Owner
from flow.errors import DatabaseUnavailable
from flow.insights.attempt import Asking
from flow.insights.extract import ExtractInsightsStep
from flow.workflows.insights import CallInsights
from tests.insights.conftest import a_thread, owner_of


class Step:
    """Keeps on which terms it was asked, and whose the usage is."""

    def __init__(self) -> None:
        self.asking: Asking | None = None
        self.owner: Owner | None = None

    async def run(self, thread: Thread, owner: Owner, asking: Asking) -> InsightsResult:
        self.asking, self.owner = asking, owner
        return InsightsResult("skipped", reason="no_conversation")


async def asked(standing: Standing | None, *, billable: bool = True) -> Step:
    async def known(thread_id: UUID) -> Standing:
        if standing is None:
            raise DatabaseUnavailable
        return standing

    step, thread = Step(), a_thread("Hi.", instructions="Sum it up.")
    insights = CallInsights(
        cast(ExtractInsightsStep, step),
        Product("insights", billable=billable, calls=False),
        "gpt-4.1-mini",
        standing=known,
        enabled=lambda _: True,
    )
    await insights(thread, owner_of(thread))
    return step


@pytest.mark.parametrize(
    ("standing", "tier"),
    [
        (None, Tier.UNKNOWN),
        (Standing(), Tier.OK),
        (Standing(Tier.ENGAGE), Tier.ENGAGE),
        (Standing(Tier.EXCEEDED), Tier.EXCEEDED),
    ],
    ids=["away", "no-budget", "engage", "exceeded"],
)
async def test_a_standing_that_cannot_be_read_is_unknown_and_not_a_missing_budget(
    standing: Standing | None, tier: Tier
) -> None:
    step = await asked(standing)
    assert step.asking is not None
    assert step.asking.control.budget_tier == tier


@pytest.mark.parametrize("billable", [True, False])
async def test_what_insights_use_is_charged_only_where_the_product_charges_it(
    billable: bool,
) -> None:
    step: Any = await asked(Standing(), billable=billable)
    assert step.owner.billable is billable
