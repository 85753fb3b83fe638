"""What a running call does about its cost, by how its key stands at the moment."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flow.bot import cost_control
from flow.domain.limits.budget import Standing, Tier
from flow.domain.products.product import Product
from flow.domain.products.save_mode import SaveMode

PRODUCT = Product("voice_bot", billable=True, on_exceeded="wrap_up", save_mode=SaveMode.AUTO)


@pytest.mark.parametrize("tier", [None, *Tier])
@pytest.mark.parametrize("on_exceeded", ["wrap_up", "finish"])
def test_a_call_takes_its_leave_only_where_the_product_says_so_and_the_budget_is_spent(
    tier: Tier | None, on_exceeded: str
) -> None:
    product = replace(PRODUCT, on_exceeded=on_exceeded)
    control = cost_control.Spending(product, cache_key="a call")
    control.stand(Standing(tier))
    assert control.must_wrap_up == (on_exceeded == "wrap_up" and tier is Tier.EXCEEDED)
    assert control.tier is tier


def test_whoever_asks_hears_once_that_save_mode_goes_on_and_again_after_it_was_off() -> None:
    heard: list[str] = []
    control = cost_control.Spending(
        PRODUCT, cache_key="a call", enabled=lambda: True, on_engaged=heard.append
    )
    is_on = []
    for tier in (Tier.OK, Tier.ENGAGE, Tier.EXCEEDED, Tier.UNKNOWN, Tier.ENGAGE):
        control.stand(Standing(tier))
        is_on.append(control.control().save_mode)
    assert is_on == [False, True, True, False, True]
    assert heard == ["budget_engage", "budget_engage"]
