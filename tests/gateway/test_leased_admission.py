"""Admission by leases: several processes on one database, and requests that race."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from flow.db.database import Database
from flow.db.postgres_transport import PostgresTransport
from flow.domain.gateway.operations import CHAT, COUNT_TOKENS
from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.budget import Tier
from flow.domain.limits.quota import Terms
from flow.domain.products.product import ModelName, Product
from flow.domain.products.save_mode import SaveMode
from flow.domain.usage.events import Cost, Quantities, UsageEvent
from flow.errors import DatabaseUnavailable, Refused, UnpricedModel
from flow.gateway.admission import AdmissionRequest
from flow.gateway.leased_admission import LeasedAdmission
from tests.db.making import a_key, a_request

PRODUCT = Product("gateway", billable=True, calls=False, gateway=True)
USD_A_TOKEN = Decimal("0.001")


def price(event: UsageEvent) -> UsageEvent:
    """A thousandth of a dollar for each token of output."""
    tokens = event.quantities.count("output_tokens")
    return event.priced(Cost(output_tokens=tokens * USD_A_TOKEN), "of the test")


@dataclass
class Process:
    """A process's admission and the requests that it has served."""

    database: Database
    admission: LeasedAdmission
    key: ApiKey
    served: int = 0
    refused: list[Refused] = field(default_factory=list)

    def wish(self, **given: Any) -> AdmissionRequest:
        known: dict[str, Any] = {
            "key": self.key,
            "product": PRODUCT,
            "operation": CHAT,
            "model": ModelName("openai", "gpt-4.1"),
            "estimate": Quantities(),
        }
        return AdmissionRequest(**(known | given))

    async def serve(self, tokens: int, secs: float = 0.01, **given: Any) -> None:
        """A request that uses so many tokens."""
        try:
            admitted = await self.admission.admit(self.wish(**given))
        except Refused as error:
            self.refused.append(error)
            return
        event = price(
            a_request(
                self.key,
                quantities=Quantities(output_tokens=tokens),
                occurred_at=datetime.now(UTC),
            )
        )
        admitted.attempted(event.id)
        await asyncio.sleep(secs)
        admitted.closed()
        await self.database.record_usage([event])
        self.admission.recorded([event])
        self.served += 1


@asynccontextmanager
async def processes(
    url: str, count: int = 2, cap: str | None = None, terms: Terms | None = None
) -> AsyncIterator[list[Process]]:
    """So many processes that serve one key."""
    database = Database(await PostgresTransport.open(url))
    key = await a_key(database, f"team_{uuid4().hex}")
    await database.operating.set_budget(key.id, None if cap is None else Decimal(cap))
    found = []
    for _ in range(count):
        admission = LeasedAdmission(
            database.gateway_leases, lambda _: terms or Terms({"ai_credits": ["gateway"]}), price
        )
        admission.start()
        found.append(Process(database, admission, key))
    try:
        yield found
    finally:
        for process in found:
            await process.admission.aclose()
        budget = await database.get_budget(key.id)
        assert budget is None or budget.reserved_usd == 0
        await database.close()


@pytest.mark.parametrize("limit", [100, 1_000, None], ids=["exact", "tenfold", "unlimited"])
@pytest.mark.parametrize("room", [7, 40])
async def test_a_hundred_clients_on_a_budget_with_room_for_some(
    postgres_url: str, room: int, limit: int | None
) -> None:
    cap = room * 100 * USD_A_TOKEN
    async with processes(postgres_url, 2, str(cap)) as two:
        await asyncio.gather(
            *(two[at % 2].serve(100, most_output=limit) for at in range(100)),
        )
        budget = await two[0].database.get_budget(two[0].key.id)
        assert budget is not None
        served = sum(process.served for process in two)
        assert served == room
        assert budget.spent_usd == cap
        refused = [one for process in two for one in process.refused]
        assert {one.code for one in refused} == {"budget_exceeded"}
        assert len(refused) == 100 - room


async def test_a_first_question_that_takes_long_is_not_asked_twice(postgres_url: str) -> None:
    async with processes(postgres_url, 1, "1") as (one,):
        leasing = one.admission._leasing
        ask = leasing.leases.renew

        async def slow(*args: Any, **given: Any) -> Any:
            await asyncio.sleep(1.2)  # longer than it takes to look for leases of nothing
            return await ask(*args, **given)

        one.admission._leasing = replace(leasing, leases=_Renewing(slow))
        first = asyncio.create_task(one.serve(100, most_output=100))
        await asyncio.sleep(0.8)
        leases = list(one.admission._leases.values())
        assert len(leases) == 1
        await first
        assert list(one.admission._leases.values()) == leases


async def test_a_client_after_the_other_on_either_process_gets_all_there_is(
    postgres_url: str,
) -> None:
    async with processes(postgres_url, 2, "2") as two:
        for at in range(25):
            await two[at % 2].serve(100, secs=0, most_output=100)
        assert sum(process.served for process in two) == 20


async def test_most_requests_ask_nobody(postgres_url: str) -> None:
    async with processes(postgres_url, 1, "10000") as (one,):
        asked = 0
        renew = one.database.gateway_leases.renew

        async def counted(*args: Any, **given: Any) -> Any:
            nonlocal asked
            asked += 1
            return await renew(*args, **given)

        one.admission._leasing = replace(
            one.admission._leasing,
            leases=_Renewing(counted),
        )
        for _ in range(10):
            await asyncio.gather(*(one.serve(100, most_output=100) for _ in range(20)))
        assert one.served == 200
        assert asked < 40


@dataclass
class _Renewing:
    renew: Any

    async def forget(self) -> None:
        """Nothing is left."""


async def test_a_key_without_limits_holds_nothing(postgres_url: str) -> None:
    async with processes(postgres_url, 1) as (one,):
        admitted = await one.admission.admit(one.wish(is_priced=False))
        assert (admitted.budget, admitted.standing.tier) == (None, None)
        await one.database.operating.set_save_mode(one.key.id, SaveMode.ON)


async def test_a_budget_is_known_soon_after_it_was_set(postgres_url: str) -> None:
    async with processes(postgres_url, 1) as (one,):
        await one.serve(100)
        await one.database.operating.set_budget(one.key.id, Decimal("0.05"))
        async with asyncio.timeout(10):
            while not one.refused:
                await one.serve(100)
                await asyncio.sleep(0.1)
        admitted = await one.admission.admit(one.wish(operation=COUNT_TOKENS))
        assert admitted.standing.tier is Tier.EXCEEDED
        refused = one.refused[0]
        assert refused.limit is not None
        assert refused.limit["limit"] == "0.05"


async def test_a_model_without_a_price_under_a_budget(postgres_url: str) -> None:
    async with processes(postgres_url, 1, "10") as (one,):
        with pytest.raises(UnpricedModel):
            await one.admission.admit(one.wish(is_priced=False))


async def test_requests_a_minute_over_two_processes(postgres_url: str) -> None:
    terms = Terms(rates={"gateway": {"requests_per_minute": 30}})
    async with processes(postgres_url, 2, terms=terms) as two:
        await asyncio.gather(*(two[at % 2].serve(1) for at in range(80)))
        assert sum(process.served for process in two) == 30
        refused = [one for process in two for one in process.refused]
        assert {one.code for one in refused} == {"rate_limited"}
        assert all(one.retry_after_secs and 50 <= one.retry_after_secs <= 61 for one in refused)
        rates = two[0].admission.rates(two[0].key, PRODUCT)
        assert rates is not None
        assert rates.requests is not None
        assert (rates.requests.limit, rates.requests.remaining) == (30, 0)


async def test_tokens_a_minute_are_those_used_and_not_those_asked_for(postgres_url: str) -> None:
    terms = Terms(rates={"gateway": {"tokens_per_minute": 1_000}})
    async with processes(postgres_url, 2, terms=terms) as two:
        await asyncio.gather(*(two[at % 2].serve(50, most_output=400) for at in range(40)))
        assert sum(process.served for process in two) >= 12
        assert sum(process.served for process in two) * 50 <= 1_000


async def test_requests_at_once_over_two_processes(postgres_url: str) -> None:
    terms = Terms(rates={"gateway": {"concurrent_requests": 5}})
    async with processes(postgres_url, 2, terms=terms) as two:
        await asyncio.gather(*(two[at % 2].serve(1, secs=4) for at in range(20)))
        assert sum(process.served for process in two) == 5
        assert {one.code for one in two[0].refused} == {"concurrency_exceeded"}
        await asyncio.gather(*(two[at % 2].serve(1) for at in range(5)))
        assert sum(process.served for process in two) == 10


async def test_a_lease_is_good_for_a_while_without_the_database(postgres_url: str) -> None:
    now = 0.0
    database = Database(await PostgresTransport.open(postgres_url))
    key = await a_key(database, f"team_{uuid4().hex}")
    await database.operating.set_budget(key.id, Decimal(100))
    leases = _Away(database.gateway_leases.renew)
    admission = LeasedAdmission(leases, lambda _: Terms(), price, clock=lambda: now)
    one = Process(database, admission, key)
    for _ in range(4):
        await one.serve(100, most_output=100)
    leases.is_away = True
    now = 40.0
    await one.admission.admit(one.wish(most_output=100))
    now = 60.0
    with pytest.raises(DatabaseUnavailable):
        await one.admission.admit(one.wish(most_output=100))
    leases.is_away = False
    now = 62.0
    await one.serve(100, most_output=100)
    assert one.served == 5
    with suppress(DatabaseUnavailable):
        await admission.aclose()
    await database.close()


@pytest.mark.parametrize("most_output", [1, 90_000], ids=["held", "not-held"])
async def test_nobody_waits_in_turn_for_a_database_that_is_away(
    postgres_url: str, most_output: int
) -> None:
    database = Database(await PostgresTransport.open(postgres_url))
    key = await a_key(database, f"team_{uuid4().hex}")
    await database.operating.set_budget(key.id, Decimal(100))
    leases = _Away(database.gateway_leases.renew, secs=2)
    admission = LeasedAdmission(leases, lambda _: Terms(), price)
    one = Process(database, admission, key)
    for _ in range(4):
        await one.serve(100, most_output=100)
    await asyncio.sleep(1.1)
    leases.is_away = True
    wishes = (admission.admit(one.wish(most_output=most_output)) for _ in range(10))
    async with asyncio.timeout(5):
        found = await asyncio.gather(*wishes, return_exceptions=True)
    unlike = [one for one in found if isinstance(one, DatabaseUnavailable) is (most_output == 1)]
    assert unlike == []
    leases.is_away = False
    await admission.aclose()
    await database.close()


@dataclass
class _Away:
    ask: Any
    is_away: bool = False
    secs: float = 0

    async def renew(self, *args: Any, **given: Any) -> Any:
        if self.is_away:
            await asyncio.sleep(self.secs)
            raise DatabaseUnavailable
        return await self.ask(*args, **given)

    async def forget(self) -> None:
        """Nothing is left."""
