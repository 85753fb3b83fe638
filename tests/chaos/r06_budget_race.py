"""R6: joins at once over several processes are admitted as far as the key's budget goes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from decimal import Decimal
from uuid import UUID

import httpx

from flow.db.database import Database
from flow.sandbox.all_vendors import Vendors
from flow.sandbox.callers.caller import Internet
from flow.sandbox.callers.conversation import Conversation
from flow.sandbox.speech.synthesis import recordings
from tests.chaos.conservation import conserved
from tests.chaos.experiment import Findings, Scale
from tests.chaos.scripts import SHOP, first
from tests.chaos.world import World, customer

FAULT = "200 joins at once, over several processes, on a key whose budget has room for a few"
LONGEST_SECS = 1200.0
LONGEST_SHORT_SECS = 240.0

JOINS = 200
AT_ONCE = 64
RESERVED = Decimal("0.25")
PRODUCTS = f"""
[voice_bot]
billable = true
reservation_usd = "{RESERVED}"
"""
SETTLE_SECS = 60.0


async def run(world: World, scale: Scale, found: Findings) -> None:
    chance = scale.random()
    products = world.folder / "products.toml"
    products.write_text(PRODUCTS)
    own = {"FLOW_PRODUCTS_FILE": str(products), "FLOW_MAX_CALLS": "1000"}
    async with (
        world.vendors(SHOP) as standing,
        world.postgres.database() as database,
        AsyncExitStack() as stack,
    ):
        hosts = [world.host(standing, name=f"host{n}", **own) for n in range(scale.pick(3, 2))]
        await asyncio.gather(*(stack.enter_async_context(host) for host in hosts))
        customers = [await stack.enter_async_context(customer(h.url, standing)) for h in hosts]
        key_id = await _key(database, customers[0])
        for _ in range(scale.pick(10, 1)):
            budget = await database.get_budget(key_id)
            spent = Decimal(0) if budget is None else budget.spent_usd
            room = chance.randint(3, 40)
            await database.operating.set_budget(key_id, spent + room * RESERVED)
            await _a_round(database, key_id, customers, standing, found, room)
        await conserved(found, world.postgres, standing, [host.folder for host in hosts])


async def _a_round(
    database: Database,
    key_id: UUID,
    customers: Sequence[httpx.AsyncClient],
    standing: Vendors,
    found: Findings,
    room: int,
) -> None:
    admitted = await _at_once(customers, found)
    found.holds(f"admitted of {JOINS} joins where {room} fit", room, len(admitted))
    # Two calls are held, for much less than was reserved for them; all others go on holding theirs.
    held, kept = admitted[:2], admitted[2:]
    await asyncio.gather(*(_talk(answer) for answer in held))
    await _settled(database, held)
    budget = await database.get_budget(key_id)
    assert budget is not None
    assert budget.cap_usd is not None
    fit = int((budget.cap_usd - budget.spent_usd - budget.reserved_usd) / RESERVED)
    found.holds("room again once two calls are settled", True, fit >= 1)
    again = await _at_once(customers, found)
    found.holds(f"admitted of {JOINS} joins after that", fit, len(again))
    for n, answer in enumerate(kept + again):
        thread_id = answer.json()["workflow_thread_id"]
        await customers[n % len(customers)].post(f"/api/bot/{thread_id}/end")


async def _at_once(customers: Sequence[httpx.AsyncClient], found: Findings) -> list[httpx.Response]:
    """The joins that were admitted; all others are to be refused for the budget, with a time."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def join(n: int) -> httpx.Response:
        async with turn:
            return await customers[n % len(customers)].post("/api/bot/join", json={})

    answers = await asyncio.gather(*(join(n) for n in range(JOINS)))
    admitted = [one for one in answers if one.status_code == httpx.codes.CREATED]
    refused = Counter(
        (one.status_code, one.json()["code"], "retry-after" in one.headers)
        for one in answers
        if one not in admitted
    )
    expected = {(429, "budget_exceeded", True): JOINS - len(admitted)}
    found.holds("how the others were refused", expected, dict(refused))
    return admitted


async def _talk(answer: httpx.Response) -> None:
    """Hold the call of a join that was admitted."""
    script, carrier = first(1), Internet()
    speech = await asyncio.to_thread(
        recordings, [line.text for line in script.lines], voice=script.voice
    )
    conversation = Conversation(
        script,
        speech,
        sample_rate=carrier.sample_rate,
        chunk_bytes=carrier.chunk_bytes,
        on_event=lambda _: None,
    )
    connection = answer.json()["connection"]
    async with (
        httpx.AsyncClient(trust_env=False) as http,
        carrier.phone(http, connection, conversation, lambda _: None) as phone,
    ):
        await phone.talk()
        await phone.hang_up()
        await phone.ended()


async def _settled(database: Database, answers: Sequence[httpx.Response]) -> None:
    async with asyncio.timeout(SETTLE_SECS):
        for answer in answers:
            thread_id = UUID(answer.json()["workflow_thread_id"])
            while not (await database.get_workflow_thread_data(thread_id)).status.is_final:
                await asyncio.sleep(0.1)


async def _key(database: Database, http: httpx.AsyncClient) -> UUID:
    """The row of the customer's key, which is made when it is first seen."""
    thread_id = (await http.post("/api/bot/join", json={})).json()["workflow_thread_id"]
    await http.post(f"/api/bot/{thread_id}/end")
    return (await database.get_workflow_thread_data(UUID(thread_id))).api_key_id
