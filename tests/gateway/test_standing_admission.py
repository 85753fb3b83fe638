"""Admission by how a key stands."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from flow.domain.gateway.operations import CHAT, COUNT_TOKENS
from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.budget import Budget, Tier
from flow.domain.limits.key_standing import KeyStanding
from flow.domain.limits.quota import LimitState, Terms
from flow.domain.products.product import ModelName, Product
from flow.domain.products.save_mode import SaveMode
from flow.domain.usage.events import Quantities
from flow.errors import DatabaseUnavailable, Refused, UnpricedModel
from flow.gateway.admission import AdmissionRequest
from flow.gateway.standing_admission import STANDING_SECS, StandingAdmission

SOON = datetime.now(UTC) + timedelta(hours=1)
REQUEST = AdmissionRequest(
    ApiKey(uuid4(), "key", "team", None),
    Product("apps", billable=True, gateway=True),
    CHAT,
    ModelName("openai", "gpt-4.1"),
    Quantities(input_tokens=9),
)


def a_budget(tier: Tier, spent: str = "1", reserved: str = "0") -> tuple[Budget, LimitState]:
    used, held, cap = Decimal(spent), Decimal(reserved), Decimal(10)
    return (
        Budget(tier, cap, used, held, cap - used, SOON),
        LimitState("budget_usd", "key", None, used, held, cap, SOON),
    )


class Database:
    def __init__(self, standing: KeyStanding) -> None:
        self.standing = standing
        self.asked = 0
        self.is_away = False

    async def get_key_standing(self, api_key_id: UUID, terms: Terms) -> KeyStanding:
        self.asked += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise DatabaseUnavailable
        return self.standing


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def admission(database: Database, clock: Clock | None = None) -> StandingAdmission:
    return StandingAdmission(database, lambda _: Terms(), clock=clock or Clock())


async def test_a_key_without_limits_is_let_in() -> None:
    admitted = await admission(Database(KeyStanding())).admit(replace(REQUEST, is_priced=False))
    assert (admitted.budget, admitted.standing.tier) == (None, None)


async def test_whoever_is_let_in_knows_how_the_key_stands() -> None:
    budget, limit = a_budget(Tier.WARN, "9")
    admitted = await admission(Database(KeyStanding(budget, SaveMode.ON, (limit,)))).admit(REQUEST)
    assert (admitted.budget, admitted.standing.tier) == (budget, Tier.WARN)
    assert admitted.standing.save_mode is SaveMode.ON


@pytest.mark.parametrize(
    ("spent", "reserved", "soon"), [("10", "0", False), ("9", "1", True), ("12", "0", False)]
)
async def test_a_budget_that_is_used_up_or_held_by_calls(
    spent: str, reserved: str, soon: bool
) -> None:
    budget, limit = a_budget(Tier.EXCEEDED, spent, reserved)
    asking = admission(Database(KeyStanding(budget, None, (limit,))))
    with pytest.raises(Refused) as raised:
        await asking.admit(REQUEST)
    assert raised.value.code == "budget_exceeded"
    assert (raised.value.retry_after_secs == 60) is soon
    assert raised.value.limit is not None
    await asking.admit(replace(REQUEST, operation=COUNT_TOKENS))


async def test_a_budget_that_is_lifted_holds_nothing() -> None:
    budget, limit = a_budget(Tier.OVERRIDE, "12")
    asking = admission(Database(KeyStanding(budget, None, (limit,))))
    await asking.admit(replace(REQUEST, is_priced=False))


async def test_a_model_without_a_price_under_a_budget() -> None:
    budget, limit = a_budget(Tier.OK)
    with pytest.raises(UnpricedModel):
        await admission(Database(KeyStanding(budget, None, (limit,)))).admit(
            replace(REQUEST, is_priced=False)
        )


@pytest.mark.parametrize(
    ("resource", "refuses"),
    [("ai_credits", True), ("call_seconds", False), ("concurrent_calls", False)],
)
async def test_a_teams_quotas_but_not_those_of_calls(resource: str, refuses: bool) -> None:
    limit = LimitState(resource, "team", None, Decimal(5), Decimal(0), Decimal(5), SOON)
    asking = admission(Database(KeyStanding(limits=(limit,))))
    if not refuses:
        await asking.admit(REQUEST)
        return
    with pytest.raises(Refused) as raised:
        await asking.admit(REQUEST)
    assert raised.value.code == "quota_exceeded"


async def test_the_database_is_asked_once_for_all_who_come_within_a_second() -> None:
    database, clock = Database(KeyStanding()), Clock()
    asking = admission(database, clock)
    await asyncio.gather(*(asking.admit(REQUEST) for _ in range(20)))
    await asking.admit(REQUEST)
    assert database.asked == 1
    clock.now += STANDING_SECS + 0.1
    await asking.admit(REQUEST)
    assert database.asked == 2
    other = replace(REQUEST, product=Product("others", billable=True, gateway=True))
    await asking.admit(other)
    assert database.asked == 3


async def test_nobody_is_let_in_while_the_database_is_away_for_longer_than_that() -> None:
    database, clock = Database(KeyStanding()), Clock()
    asking = admission(database, clock)
    await asking.admit(REQUEST)
    database.is_away = True
    await asking.admit(REQUEST)
    clock.now += STANDING_SECS + 0.1
    with pytest.raises(DatabaseUnavailable):
        await asking.admit(REQUEST)
    database.is_away = False
    await asking.admit(REQUEST)
