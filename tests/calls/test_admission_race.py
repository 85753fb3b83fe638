"""Joins at once over several service processes: exactly those that a limit has room for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from flow.db.database import Database
from flow.domain.calls.thread import Status
from flow.domain.limits.api_key import ApiKey
from flow.domain.usage.events import Cost, Quantities
from flow.sandbox.all_vendors import TEAM, Vendors, vendors
from tests.calls.processes import flow_serve
from tests.events import an_event

PRODUCTS = """
[voice_bot]
billable = true
reservation_usd = "0.25"
"""
JOINS = 200
OTHER_KEY = "flow_another_key_not_a_secret"


class Processes:
    """Two ``flow serve`` over one database, and customers who join at both."""

    def __init__(self, standing: Vendors, clients: list[httpx.AsyncClient]) -> None:
        self.secret = standing.api_key
        self._clients = clients
        self._turn = asyncio.Semaphore(48)

    async def join(self, n: int, headers: dict[str, str]) -> httpx.Response:
        async with self._turn:
            client = self._clients[n % len(self._clients)]
            return await client.post("/api/bot/join", json={}, headers=headers)

    async def at_once(
        self, joins: int, secrets: list[str], headers: dict[str, str] | None = None
    ) -> list[httpx.Response]:
        """The answers to that many joins; each key's go to both processes."""
        shared = headers or {}
        sent = (
            self.join(n, {"X-API-Key": secrets[n // 2 % len(secrets)], **shared})
            for n in range(joins)
        )
        return await asyncio.gather(*sent)


def admitted(answers: list[httpx.Response], code: str) -> list[UUID]:
    """The threads of those let in; all others were refused for that reason."""
    refused = [answer for answer in answers if answer.status_code != httpx.codes.CREATED]
    assert Counter((a.status_code, a.json()["code"]) for a in refused) == {
        (429, code): len(refused)
    }
    assert all(int(a.headers["retry-after"]) == 5 for a in refused)
    return [UUID(a.json()["workflow_thread_id"]) for a in answers if a not in refused]


@pytest.fixture
async def processes(
    database: Database, postgres_url: str, tmp_path: Path
) -> AsyncIterator[Processes]:
    """Both processes, ready; they take their products from one file."""
    products = tmp_path / "products.toml"
    products.write_text(PRODUCTS)
    variables = {"FLOW_PRODUCTS_FILE": str(products), "FLOW_MAX_CALLS": "1000"}
    async with vendors() as standing, AsyncExitStack() as stack:
        standing.unkey.add_key(OTHER_KEY, name="other", team_id=TEAM)
        starting = [
            stack.enter_async_context(flow_serve(standing, postgres_url, tmp_path / n, **variables))
            for n in "ab"
        ]
        started = await asyncio.gather(*starting)
        clients = [httpx.AsyncClient(base_url=p.url, timeout=60, trust_env=False) for p in started]
        for client in clients:
            await stack.enter_async_context(client)
        yield Processes(standing, clients)


async def key_of(database: Database, processes: Processes, secret: str) -> ApiKey:
    """The row of a customer's key, once it has been seen."""
    (answer,) = await processes.at_once(1, [secret])
    thread_id = UUID(answer.json()["workflow_thread_id"])
    thread = await database.finish_thread(thread_id, Status.CANCELLED)
    return (await database.operating.get_api_key(str(thread.api_key_id))).key


async def spend(database: Database, thread_id: UUID, usd: str) -> None:
    thread = await database.get_workflow_thread_data(thread_id)
    event = an_event(
        thread.owner,
        quantities=Quantities(input_tokens=10),
        cost=Cost(input_tokens=Decimal(usd)),
    )
    assert (await database.record_usage([event])).new


async def test_limits_hold_over_two_processes(database: Database, processes: Processes) -> None:
    """One start of two processes serves a budget, a team's calls at once, and a repeat."""
    secret = processes.secret
    key = await key_of(database, processes, secret)
    await _a_budget(database, processes, key, secret)
    await database.operating.set_budget(key.id, None)
    await _calls_at_once(database, processes, [secret, OTHER_KEY])
    await _equal_joins(database, processes, key, secret)


async def _a_budget(database: Database, processes: Processes, key: ApiKey, secret: str) -> None:
    await database.operating.set_budget(key.id, Decimal("1.75"))
    first = admitted(await processes.at_once(JOINS, [secret]), "budget_exceeded")
    assert len(first) == 7
    made = await database.list_workflow_threads(key.id, status=Status.CREATED)
    assert {thread.id for thread in made.items} == set(first)
    for thread_id in first[:5]:
        await spend(database, thread_id, "0.02")
        await database.finish_thread(thread_id, Status.CANCELLED)
    second = admitted(await processes.at_once(JOINS, [secret]), "budget_exceeded")
    # 0.10 is spent and 0.50 held: of the 1.15 that are left four calls may hold 0.25 each.
    assert len(second) == 4
    budget = await database.get_budget(key.id)
    assert budget is not None
    assert (budget.spent_usd, budget.reserved_usd) == (Decimal("0.10"), Decimal("1.5"))
    for thread_id in first[5:] + second:
        await database.finish_thread(thread_id, Status.CANCELLED)


async def _calls_at_once(database: Database, processes: Processes, secrets: list[str]) -> None:
    await database.operating.set_team_quota(TEAM, "concurrent_calls", Decimal(9))
    first = admitted(await processes.at_once(JOINS, secrets), "concurrency_exceeded")
    assert len(first) == 9
    for thread_id in first[:4]:
        await database.finish_thread(thread_id, Status.CANCELLED)
    second = admitted(await processes.at_once(JOINS, secrets), "concurrency_exceeded")
    assert len(second) == 4
    for thread_id in first[4:] + second:
        await database.finish_thread(thread_id, Status.CANCELLED)


async def _equal_joins(database: Database, processes: Processes, key: ApiKey, secret: str) -> None:
    await database.operating.set_budget(key.id, Decimal("0.35"))
    answers = await processes.at_once(100, [secret], {"Idempotency-Key": "the only one"})
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 99}
    assert len({answer.json()["workflow_thread_id"] for answer in answers}) == 1
    made = await database.list_workflow_threads(key.id, status=Status.CREATED)
    assert len(made.items) == 1
