"""Connections that are cut in the middle of a batch, of senders whose batches overlap."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random
from uuid import uuid4

import psycopg

from flow.db.database import Database
from flow.db.postgres_transport import PostgresTransport
from flow.domain.usage.events import Provenance, Quantities, UsageEvent
from flow.errors import Unavailable
from tests.db.making import a_key, a_request, a_thread, an_event
from tests.db.test_conservation import _agrees, _rollup_agrees

OTHERS = """
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() order by random() limit 1
"""


async def test_a_batch_whose_connection_is_cut_is_recorded_whole_or_not_at_all(
    direct: Database, sql: psycopg.Connection, postgres_url: str
) -> None:
    key, random = await a_key(direct), Random(7)
    threads = [await a_thread(direct, key) for _ in range(4)]
    of_threads = [an_event(threads[n % 4], model=f"m{n % 5}") for n in range(160)]
    unmetered = {"quantities": Quantities(), "provenance": Provenance.UNMETERED, "cost": None}
    of_threads += [an_event(thread, **unmetered) for thread in threads]
    gone = an_event(replace(threads[0], id=uuid4()))
    events: list[UsageEvent] = [*of_threads, *(a_request(key) for _ in range(60)), gone]
    senders = [direct, Database(await PostgresTransport.open(postgres_url))]
    failures, is_over = 0, asyncio.Event()

    async def send(database: Database, batch: list[UsageEvent]) -> None:
        nonlocal failures
        while True:
            try:
                await database.record_usage(batch)
                return
            except Unavailable:
                failures += 1

    async def cut() -> None:
        while not is_over.is_set():
            await asyncio.to_thread(sql.execute, OTHERS)
            await asyncio.sleep(random.uniform(0, 0.02))

    cutting = asyncio.create_task(cut())
    batches = [random.sample(events, 90) for _ in range(24)] + [events]
    await asyncio.gather(*(send(senders[n % 2], batch) for n, batch in enumerate(batches)))
    # A fast machine may have got through between the cuts; the ledger takes everything once.
    async with asyncio.timeout(60):
        while not failures:
            await send(direct, events)
    is_over.set()
    await cutting
    for thread in threads:
        ours = [e for e in of_threads if e.owner.workflow_thread_id == thread.id]
        await _agrees(direct, thread, ours)
    _rollup_agrees(sql, key.id)
    await senders[1].close()
