"""R16: the gateway's requests over several processes on a small budget, and a process that dies."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx

from flow.db.database import Database
from flow.sandbox.all_vendors import Vendors
from flow.sandbox.faults import Fault
from flow.sandbox.reconcile import reconcile_all
from tests.chaos.experiment import Findings, Scale
from tests.chaos.world import World, customer

FAULT = "100 clients of the gateway, over two processes, on a budget with room for a few requests"
LONGEST_SECS = 900.0
LONGEST_SHORT_SECS = 240.0

CLIENTS = 100
PATH = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "A table for two, please."}]
LEASE_SECS = 60.0
RECORDED_SECS = 30.0


async def run(world: World, scale: Scale, found: Findings) -> None:
    chance = scale.random()
    async with (
        world.vendors() as standing,
        world.postgres.database() as database,
        AsyncExitStack() as stack,
    ):
        hosts = [world.host(standing, name=f"host{n}") for n in range(2)]
        await asyncio.gather(*(stack.enter_async_context(host) for host in hosts))
        clients = [await stack.enter_async_context(customer(h.url, standing)) for h in hosts]
        first = await clients[0].post(PATH, json=_body(None))
        found.holds("a request without a budget", 200, first.status_code)
        key_id, cost = await _first_row(database)
        for _ in range(scale.pick(6, 1)):
            # What a request may cost at most: unknown, what it does, and much more than that.
            limit = chance.choice([None, _tokens(first), 20 * _tokens(first)])
            room = chance.randint(5, 60)
            await _a_round(database, key_id, clients, found, cost=cost, room=room, limit=limit)
        await _conserved(database, key_id, standing, found)
        await _a_death(database, key_id, standing, hosts, clients, found, cost)


async def _a_round(
    database: Database,
    key_id: UUID,
    clients: Sequence[httpx.AsyncClient],
    found: Findings,
    *,
    cost: Decimal,
    room: int,
    limit: int | None,
) -> None:
    spent = await _spent(database, key_id)
    cap = spent + room * cost
    await database.operating.set_budget(key_id, cap)
    # What processes know of the key is a second old at most.
    await asyncio.sleep(1.5)
    answers = await asyncio.gather(
        *(clients[n % 2].post(PATH, json=_body(limit)) for n in range(CLIENTS))
    )
    served = [one for one in answers if one.status_code == httpx.codes.OK]
    refused = Counter(
        (one.status_code, one.json()["error"]["code"], "retry-after" in one.headers)
        for one in answers
        if one not in served
    )
    what = f"of {CLIENTS} requests where {room} fit, max_tokens {limit}"
    found.holds(f"served {what}", room, len(served))
    expected = {(429, "budget_exceeded", True): CLIENTS - len(served)}
    found.holds(f"refused {what}", expected, dict(refused))
    spent = await _recorded(database, key_id, spent + len(served) * cost)
    # A request that may have all that is left is let in alone: that is all there is to overshoot.
    found.within(f"spent {what}, in USD", float(cap + cost), float(spent))


async def _conserved(database: Database, key_id: UUID, standing: Vendors, found: Findings) -> None:
    """Every request has one row, which says what the vendor's bill says, and all are in the sum."""
    rows: list[dict[str, Any]] = []
    cursor = None
    while not rows or cursor is not None:
        page = await database.list_requests(key_id, limit=200, cursor=cursor)
        rows += page.items
        cursor = page.next_cursor
    compared = reconcile_all(rows, await standing.billed())
    found.none("rows that are not as billed", [str(one) for one in compared if not one.agrees])
    spent = sum((Decimal(row["total_cost_usd"]) for row in rows), Decimal(0))
    found.holds("the sum of the rows is what was spent", await _spent(database, key_id), spent)


async def _a_death(
    database: Database,
    key_id: UUID,
    standing: Vendors,
    hosts: Sequence[Any],
    clients: Sequence[httpx.AsyncClient],
    found: Findings,
    cost: Decimal,
) -> None:
    """A process dies that holds all that is left of the budget, for a request under way."""
    await database.operating.set_budget(key_id, await _spent(database, key_id) + 10 * cost)
    await asyncio.sleep(1.5)
    standing.openai.faults.add(Fault(kind="hang", route="*/chat/completions", times=1))
    held = asyncio.create_task(clients[1].post(PATH, json=_body(100_000)))
    await asyncio.sleep(1.5)
    refused = await clients[0].post(PATH, json=_body(100_000))
    found.holds("while another process holds all of it", 429, refused.status_code)
    died_at = time.monotonic()
    await hosts[1].kill()
    with suppress(httpx.HTTPError):
        await held
    standing.openai.faults.clear()
    async with asyncio.timeout(2 * LEASE_SECS):
        while (await clients[0].post(PATH, json=_body(100_000))).status_code != httpx.codes.OK:
            await asyncio.sleep(1)
    secs = time.monotonic() - died_at
    # A request that is refused has waited for room, which is how often this looks.
    found.within("seconds until what the dead held is usable", LEASE_SECS + 2, secs)


def _body(limit: int | None) -> dict[str, Any]:
    limited = {} if limit is None else {"max_tokens": limit}
    return {"model": "gpt-4.1", "messages": QUESTION, **limited}


def _tokens(answer: httpx.Response) -> int:
    return int(answer.json()["usage"]["completion_tokens"])


async def _first_row(database: Database) -> tuple[UUID, Decimal]:
    """The key's id, and what a request costs."""
    (account,) = (await database.operating.list_api_keys()).items
    spent = await _recorded(database, account.key.id, Decimal("0.0000001"))
    return account.key.id, spent


async def _spent(database: Database, key_id: UUID) -> Decimal:
    account = await database.operating.get_api_key(str(key_id))
    return account.budget.spent_usd


async def _recorded(database: Database, key_id: UUID, least: Decimal) -> Decimal:
    """What was spent, once the ledger has so much of it."""
    async with asyncio.timeout(RECORDED_SECS):
        while (spent := await _spent(database, key_id)) < least:
            await asyncio.sleep(0.05)
    return spent
