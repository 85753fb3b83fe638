"""What a process tells the database of the requests that it has let in."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.lease import LeaseAnswer, LeaseQuestion, Resource
from flow.domain.limits.quota import Terms
from flow.domain.products.product import Product
from flow.gateway.cost_estimates import Hold
from flow.gateway.key_lease import COUNTED_SECS, KeyLease, Leasing

KEY = ApiKey(UUID(int=1), "key_1", "team_1", "Production")
PRODUCT = Product("gateway", billable=True, calls=False, gateway=True)


class Unlimited:
    """Leases of a key without limits, and what was asked for them."""

    def __init__(self) -> None:
        self.asked: list[LeaseQuestion] = []

    async def renew(self, *_: UUID | str, question: LeaseQuestion, **__: Any) -> LeaseAnswer:
        self.asked.append(question)
        return LeaseAnswer(dict.fromkeys(Resource))

    async def forget(self) -> None: ...


@pytest.mark.parametrize(("idle_secs", "told"), [(COUNTED_SECS - 1, 1), (COUNTED_SECS + 1, 0)])
async def test_what_was_let_in_more_than_a_minute_ago_counts_against_no_limit(
    idle_secs: float, told: int
) -> None:
    """Nobody is told of the last requests of a key without limits: its first one may come later."""
    at = 1_000.0
    leases = Unlimited()
    lease = KeyLease(Leasing(uuid4(), leases, lambda _: Terms(), lambda: at), KEY, PRODUCT)
    await lease.renew()
    lease.slices.take(Hold(Decimal(0), 0))
    lease.used()
    at += idle_secs
    await lease.renew()
    assert leases.asked[-1].done_requests == told
    await lease.aclose()
