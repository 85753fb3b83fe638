"""P4: how soon a metric is in the ledger. P5: how many events a second the ledger takes."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import psycopg
from pipecat.frames.frames import MetricsFrame
from pipecat.metrics.metrics import LLMTokenUsage, LLMUsageMetricsData
from psycopg.types.json import Jsonb

from flow.bot.usage_metrics import UsageMetricsProcessor
from flow.db.database import Database, Recorded
from flow.db.postgres_transport import PostgresTransport
from flow.domain.calls.thread import Thread
from flow.domain.pricing.pricer import Pricer
from flow.domain.usage.events import Kind, UsageEvent
from flow.ledger.recorder import Recorder
from flow.metering.meter import Meter, Service
from tests.bench import world
from tests.bench.events import batches, threads
from tests.bench.measure import Measure, Options, at_least, at_most, middle, percentile

CALLS = 50
CONNECTIONS = 8
BATCH = 500


class _Timed:
    """A recorder that notes how long it kept the audio path waiting."""

    def __init__(self, recorder: Recorder, made: dict[UUID, float], took: list[float]) -> None:
        self._recorder, self._made, self._took = recorder, made, took

    def begin(self, event: UsageEvent) -> None:
        self._recorder.begin(event)

    def discard(self, event: UsageEvent) -> None:
        self._recorder.discard(event)

    def record(self, event: UsageEvent) -> None:
        begun = time.perf_counter()
        self._made[event.id] = begun
        self._recorder.record(event)
        self._took.append(time.perf_counter() - begun)


async def latency(options: Options) -> list[Measure]:
    """Fifty calls report what they used, several times a second each."""
    secs = options.pick(10.0, 1.5)
    made: dict[UUID, float] = {}
    took: list[float] = []
    committed: list[float] = []

    def on_recorded(events: Sequence[UsageEvent], recorded: Recorded) -> None:
        now = time.perf_counter()
        committed.extend(now - made.pop(event.id) for event in events if event.id in recorded.new)

    async with world.database() as url, world.folder() as folder:
        database = Database(await PostgresTransport.open(url))
        owners = [one[0] for one in await threads(database, options.pick(CALLS, 5), 1)]
        price = (await asyncio.to_thread(Pricer.read, None)).price
        recorder = Recorder(database, folder, price=price, on_recorded=on_recorded)
        recorder.start()
        async with asyncio.timeout(secs + 60), asyncio.TaskGroup() as calls:
            for n, thread in enumerate(owners):
                calls.create_task(_reports(thread, _Timed(recorder, made, took), n, secs))
        await recorder.close()
        await database.close()
    if made:
        raise RuntimeError(f"{len(made)} events never reached the ledger")
    numbers = {"calls": len(owners), "events": len(committed)}
    p50, p99 = (percentile(committed, percent) * 1000 for percent in (50, 99))
    record = percentile(took, 50) * 1000
    return [
        at_most("P4", "metric to committed ledger row, p50", p50, 20, "ms", **numbers),
        at_most("P4", "metric to committed ledger row, p99", p99, 150, "ms", **numbers),
        at_most(
            "P4",
            "what the audio path waits for, p50",
            record,
            0.1,
            "ms",
            p99_ms=round(percentile(took, 99) * 1000, 3),
        ),
    ]


async def _reports(thread: Thread, recorder: _Timed, seed: int, secs: float) -> None:
    """One call's usage frames, through the processor of its pipeline."""
    chance = random.Random(seed)
    meter = Meter(Service(Kind.LLM, "openai", "gpt-4.1"), thread.owner, recorder)
    counted = UsageMetricsProcessor({"llm": meter})
    usage = LLMTokenUsage(prompt_tokens=900, completion_tokens=40, total_tokens=940)
    until = time.monotonic() + secs
    while time.monotonic() < until:
        await asyncio.sleep(chance.uniform(0.1, 0.5))
        data = LLMUsageMetricsData(processor="llm", model="gpt-4.1", value=usage)
        for one in MetricsFrame(data=[data]).data:
            counted._count(one, meter)


async def throughput(options: Options) -> list[Measure]:
    """The same events into the ledger and, by multi-row INSERTs, into a bare table."""
    count = options.pick(24, 2)
    many: list[float] = []
    hot: list[float] = []
    bare: list[float] = []
    async with world.database() as url:
        database = Database(await PostgresTransport.open(url, max_size=CONNECTIONS))
        keys = await threads(database, options.pick(40, 3), 3)
        spread = [thread for key in keys for thread in key]
        await _record(database, batches(spread, CONNECTIONS, 50, 0))
        await _create(url)
        for n in range(options.pick(options.rounds, 1)):
            bare.append(await _insert(url, batches(spread, count, BATCH, 3 * n + 1)))
            many.append(await _record(database, batches(spread, count, BATCH, 3 * n + 2)))
            hot.append(await _record(database, batches(keys[0], count, BATCH, 3 * n + 3)))
        await database.close()
    details = {"bare_insert_per_sec": round(middle(bare)), "connections": CONNECTIONS}
    return [
        at_least(
            "P5",
            f"ledger events, {name}",
            middle(found),
            bar,
            "/s",
            to_bare=round(middle([a / b for a, b in zip(found, bare, strict=True)]), 3),
            **details,
        )
        for name, found, bar in (("many keys", many, 10_000), ("one hot key", hot, 8_000))
    ]


async def _record(database: Database, waiting: list[list[UsageEvent]]) -> float:
    """Events a second, each acknowledged as new."""
    total = sum(map(len, waiting))
    new = 0

    async def sender() -> None:
        nonlocal new
        while waiting:
            recorded = await database.record_usage(waiting.pop())
            new += len(recorded.new)

    begun = time.perf_counter()
    await asyncio.gather(*(sender() for _ in range(CONNECTIONS)))
    secs = time.perf_counter() - begun
    if new != total:
        raise RuntimeError(f"{total} events were sent and {new} recorded")
    return total / secs


async def _create(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(
            "create table bare_events (like public.usage_events including defaults)"
        )
        await connection.execute("alter table bare_events add primary key (id)")


_INSERT = b"""
insert into bare_events (
  id, workflow_thread_id, api_key_id, team_id, product, billable, kind, source, provider, model,
  lines, total_cost_usd, provenance, outcome, price_version, occurred_at, latency_secs, stream,
  capture, save_mode
)
select
  id, workflow_thread_id, api_key_id, team_id, product, billable, kind, source, provider, model,
  lines, total_cost_usd, provenance, outcome, price_version, occurred_at, latency_secs, stream,
  capture, coalesce(save_mode, false)
from jsonb_populate_recordset(null::bare_events, %s)
"""


async def _insert(url: str, waiting: list[list[UsageEvent]]) -> float:
    """Events a second by one INSERT a batch, with nothing else done about them."""
    total = sum(map(len, waiting))

    async def sender() -> None:
        options: dict[str, Any] = {"autocommit": True, "prepare_threshold": 0}
        async with await psycopg.AsyncConnection.connect(url, **options) as connection:
            while waiting:
                rows = [event.to_json() for event in waiting.pop()]
                await connection.execute(_INSERT, (Jsonb(rows),))

    begun = time.perf_counter()
    await asyncio.gather(*(sender() for _ in range(CONNECTIONS)))
    return total / (time.perf_counter() - begun)
