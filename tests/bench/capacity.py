"""What one Postgres carries, reckoned from the CPU time that each part of a call costs it.

CPU time hardly changes when other work slows everything down, so this says more than a count of
calls a second would on a busy machine. Nothing is judged: it is for sizing.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from flow.bot.heartbeat import HEARTBEAT_SECS
from flow.db.connection_url import url_of
from flow.db.database import Database
from flow.db.postgres_transport import PostgresTransport
from flow.domain.calls.ending import Ending, EndReason
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.thread import Status, Thread, Turn
from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.quota import Admission
from flow.domain.usage.events import Owner, UsageEvent
from flow.workflows.finish import FinishCall, Steps
from flow.workflows.finish_workflow import Executor, Finishing
from tests.bench import world
from tests.bench.events import an_event
from tests.bench.measure import Measure, Options
from tests.bench.server_cpu import ServerCpu

# A usual call, as in `make demo`: what it does in a minute, and how long it is.
MINUTES = 3.0
EVENTS_A_MINUTE = 24
TURNS_A_MINUTE = 10
# Of a core; the rest is for reports, autovacuum, checkpoints and hours busier than others.
IN_USE = 0.6
SETTLE_SECS = 120.0


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU time of the server in milliseconds, each of one."""

    join: float
    connect: float
    heartbeat: float
    turn: float
    event: float
    finish: float

    @property
    def running_minute(self) -> float:
        """Of a minute of a running call; each event comes to the ledger by itself."""
        return (
            self.heartbeat * 60 / HEARTBEAT_SECS
            + self.event * EVENTS_A_MINUTE
            + self.turn * TURNS_A_MINUTE
        )

    @property
    def call(self) -> float:
        """Of a whole call, from its join to its settled account."""
        return self.join + self.connect + self.running_minute * MINUTES + self.finish

    def at_once(self, cores: float) -> float:
        """Calls that run at any time, new ones taking the place of those that end."""
        return cores * IN_USE * 60_000 * MINUTES / self.call

    def a_day(self, cores: float) -> float:
        """Calls in 24 hours, were they spread evenly."""
        return self.at_once(cores) * 24 * 60 / MINUTES


class _Ledger:
    """Usage of finishing calls, recorded when it is waited for."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[UsageEvent] = []

    def record(self, event: UsageEvent) -> None:
        self._waiting.append(event)

    async def drain(self, thread_id: UUID, timeout_secs: float) -> bool:
        mine = [e for e in self._waiting if e.owner.workflow_thread_id == thread_id]
        self._waiting = [e for e in self._waiting if e not in mine]
        await self._database.record_usage(mine)
        return True


async def carried(options: Options) -> list[Measure]:
    """Each part of a call, many times over, and the sum."""
    calls = options.pick(60, 5)
    async with world.database() as url:
        database = Database(await PostgresTransport.open(url))
        bench = _Bench(database, ServerCpu.of(url))
        try:
            costs = await bench.costs(url, calls, options.pick(10, 2))
            big = await bench.batch(options.pick(20, 2), 500)
        finally:
            await database.close()
    return [
        *(
            _said(what, value)
            for what, value in (
                ("a join", costs.join),
                ("connecting: claim, in_call", costs.connect),
                ("a heartbeat", costs.heartbeat),
                ("a turn stored", costs.turn),
                ("a ledger event that comes by itself", costs.event),
                ("a ledger event of 500 at once", big),
                ("finishing: insights, settling, the workflow", costs.finish),
                (f"a call of {MINUTES:g} minutes, all of it", costs.call),
            )
        ),
        *(
            Measure(
                "carry",
                f"{what}, on {cores} cores at {IN_USE:.0%}",
                float(round(number)),
                "calls",
                "",
                None,
            )
            for cores in (1, 2, 8)
            for what, number in (
                ("calls at once", costs.at_once(cores)),
                ("calls a day", costs.a_day(cores)),
            )
        ),
    ]


def _said(what: str, millis: float) -> Measure:
    details = {"a_second_and_core": round(1000 / millis)} if millis else {}
    return Measure("carry", what, round(millis, 3), "ms CPU", "", None, details)


class _Bench:
    """Does each thing many times and reads off what it cost the server."""

    def __init__(self, database: Database, cpu: ServerCpu) -> None:
        self._database = database
        self._cpu = cpu
        self._chance = random.Random(7)

    async def costs(self, url: str, calls: int, beats: int) -> Costs:
        """What the parts of ``calls`` calls cost, one after the other."""
        keys = [
            await self._database.resolve_api_key(f"key_{n}", f"team_{n}", "bench")
            for n in range(20)
        ]
        for key in keys:
            await self._database.operating.set_budget(key.id, Decimal(1_000_000))
        threads: list[Thread] = []

        async def join(n: int) -> None:
            threads.append(await self._join(keys[n % len(keys)]))

        await self._each(20, join)
        threads.clear()
        return Costs(
            join=await self._each(calls, join),
            connect=await self._each(calls, lambda n: self._connect(threads[n])),
            heartbeat=await self._each(calls * beats, lambda n: self._save(threads[n % calls])),
            turn=await self._each(
                calls * beats, lambda n: self._save(threads[n % calls], n // calls)
            ),
            event=await self._each(calls * beats, lambda n: self._record([threads[n % calls]])),
            finish=await self._finish(url_of(url), threads),
        )

    async def batch(self, batches: int, size: int) -> float:
        """Milliseconds an event where many come at once, of many keys' calls."""
        key = await self._database.resolve_api_key("key_big", "team_big", "bench")
        threads = [await self._join(key) for _ in range(100)]
        each = await self._each(
            batches, lambda _: self._record([self._chance.choice(threads) for _ in range(size)])
        )
        return each / size

    async def _each(self, times: int, one: Callable[[int], Awaitable[Any]]) -> float:
        self._cpu.lap()
        for n in range(times):
            await one(n)
        return self._cpu.lap() * 1000 / times

    async def _join(self, key: ApiKey) -> Thread:
        joined = await self._database.join_thread(
            key,
            uuid4(),
            JoinRequest(product="voice_bot"),
            billable=True,
            idempotency_key=str(uuid4()),
            fingerprint="bench",
            admission=Admission(reserve_usd=Decimal("0.1"), reserve_secs=600),
        )
        return joined.thread

    async def _connect(self, thread: Thread) -> None:
        await self._database.claim_thread(thread.id, "bench/1")
        await self._database.save_workflow_thread_data(thread.id, status=Status.IN_CALL)

    async def _save(self, thread: Thread, seq: int | None = None) -> None:
        turns = (
            []
            if seq is None
            else [
                Turn(
                    seq, "user", "I would like a table for four, please.", datetime.now(UTC), False
                )
            ]
        )
        await self._database.save_workflow_thread_data(thread.id, turns=turns)

    async def _record(self, owners: Sequence[Thread]) -> None:
        await self._database.record_usage([an_event(one, self._chance) for one in owners])

    async def _finish(self, url: str, threads: Sequence[Thread]) -> float:
        """Milliseconds a call, from its hang-up until the workflow has settled it."""

        async def extract(thread: Thread, owner: Owner) -> dict[str, Any]:
            ledger.record(an_event(thread, self._chance))
            return {"status": "ok", "summary": "A table for four."}

        ledger = _Ledger(self._database)
        steps = Steps(self._database, ledger, extract, lambda _: None)
        finishing = await Finishing.open(url)
        executor = await Executor.launch(url, "bench", steps.all)
        finish = FinishCall(self._database, ledger, finishing.start)
        try:
            self._cpu.lap()
            for thread in threads:
                await finish(thread.id, Ending(EndReason.CALLER_HUNG_UP))
            if not await finishing.settled(SETTLE_SECS):
                raise RuntimeError("not all calls were settled in time")
            each = self._cpu.lap() * 1000 / len(threads)
        finally:
            await executor.close()
            await finishing.close()
        for thread in threads:
            found = await self._database.get_workflow_thread_data(thread.id)
            if found.status is not Status.COMPLETED:
                raise RuntimeError(f"a call is {found.status}")
        return each
