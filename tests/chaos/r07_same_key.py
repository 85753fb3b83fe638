"""R7: however often one request is sent at once, it makes one thread."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

from tests.chaos.conservation import conserved
from tests.chaos.experiment import Findings, Scale
from tests.chaos.world import World, customer

FAULT = "the same Idempotency-Key 100 times at once, at two processes"
AT_ONCE = 100


async def run(world: World, scale: Scale, found: Findings) -> None:
    async with world.vendors() as standing, AsyncExitStack() as stack:
        hosts = [world.host(standing, name=f"host{n}") for n in range(2)]
        await asyncio.gather(*(stack.enter_async_context(host) for host in hosts))
        clients = [await stack.enter_async_context(customer(host.url, standing)) for host in hosts]
        rounds = scale.pick(20, 3)
        odd: list[str] = []
        for n in range(rounds):
            same = {"Idempotency-Key": f"call {n}"}
            answers = await asyncio.gather(
                *(
                    clients[i % 2].post("/api/bot/join", json={}, headers=same)
                    for i in range(AT_ONCE)
                )
            )
            statuses = Counter(answer.status_code for answer in answers)
            threads = {answer.json().get("workflow_thread_id") for answer in answers}
            if statuses != {201: 1, 200: AT_ONCE - 1} or len(threads) != 1:
                odd.append(f"{dict(statuses)}, {len(threads)} threads")
            if n == 0:
                other = {"metadata": {"another": "request"}}
                conflict = await clients[1].post("/api/bot/join", json=other, headers=same)
                found.holds("another request under the same key", 409, conflict.status_code)
        found.none(f"rounds of {AT_ONCE} not answered 201 once, else 200, with one thread", odd)
        made = await world.postgres.rows("select id from workflow_threads")
        found.holds(f"threads made in {rounds} rounds", rounds, len(made))
        for (thread_id,) in made:
            await clients[0].post(f"/api/bot/{thread_id}/end")
        await conserved(found, world.postgres, standing, [host.folder for host in hosts])
