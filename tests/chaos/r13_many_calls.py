"""R13: after many calls a process is as it was after a few."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random
from statistics import linear_regression
from typing import Any

import psutil

from flow.sandbox.all_vendors import Vendors
from flow.sandbox.callers.caller import open_socket
from flow.sandbox.callers.script import AfterBot
from flow.settings import Settings
from tests.calls.conftest import SECRET, _listening, run_service
from tests.chaos.conservation import FINAL, conserved
from tests.chaos.experiment import Findings, Scale
from tests.chaos.postgres import Postgres
from tests.chaos.scripts import SHOP, first
from tests.chaos.world import Caller, World, customer

FAULT = "one short call after the other, some broken off at any moment"
LONGEST_SECS = 5400.0
LONGEST_SHORT_SECS = 240.0

AT_ONCE = 5
# A process fills its caches and arenas for some 80 calls: fewer can show only a large leak.
KB_PER_CALL, KB_PER_CALL_SHORT = 12.0, 600.0
# The pools of connections and of threads have limits, which they reach when there is a rush.
MORE_FILES, MORE_THREADS = 12, 8
SETTLE_SECS = 90.0
REST_SECS = 1.0

HELLO = replace(first(0), hang_up=AfterBot(0.3))
QUICK = replace(first(1), hang_up=AfterBot(0.3))


@dataclass(frozen=True, slots=True)
class Sample:
    """A process at rest after so many calls."""

    calls: int
    kilobytes: float
    files: int
    threads: int


async def run(world: World, scale: Scale, found: Findings) -> None:
    async with world.vendors(SHOP) as standing:
        async with world.host(standing) as host:
            samples = [
                _sample(calls, host.process)
                async for calls in _calls(world.postgres, host.url, standing, scale)
            ]
        _flat(found, scale, samples)
        tasks = await _tasks_left(world, scale, standing)
        found.none("tasks left behind", tasks)
        folders = [host.folder, world.data("inside")]
        await conserved(found, world.postgres, standing, folders)


async def _calls(
    postgres: Postgres, url: str, standing: Vendors, scale: Scale
) -> AsyncIterator[int]:
    """Make all calls; gives how many there have been, each time that all are settled."""
    batches, each = scale.pick((20, 50), (4, 10))
    chance = scale.random()
    for n in range(batches):
        await _batch(url, standing, each, chance)
        await _settled(postgres)
        yield (n + 1) * each


async def _batch(url: str, standing: Vendors, calls: int, chance: Random) -> None:
    turn = asyncio.Semaphore(AT_ONCE)

    async def in_turn(call: Callable[[], Awaitable[object]]) -> None:
        async with turn:
            await call()

    async with asyncio.TaskGroup() as group:
        for _ in range(calls):
            group.create_task(in_turn(_some_call(url, standing, chance)))


def _some_call(url: str, standing: Vendors, chance: Random) -> Callable[[], Awaitable[object]]:
    kind = chance.choice(["whole", "greeted", "whole", "broken off"])
    if kind == "broken off":
        after_secs = chance.choice([0.0, chance.uniform(0, 0.1), chance.uniform(0, 2)])
        return lambda: _broken_off(url, standing, after_secs)
    return lambda: Caller().call(url, standing, QUICK if kind == "whole" else HELLO)


async def _broken_off(url: str, standing: Vendors, after_secs: float) -> None:
    """Connect, and be gone without a word."""
    async with customer(url, standing) as http:
        joined = (await http.post("/api/bot/join", json={})).json()
    async with open_socket(joined["connection"]["url"]) as socket:
        await asyncio.sleep(after_secs)
        socket.transport.abort()


async def _settled(postgres: Postgres) -> None:
    query = "select count(*) from workflow_threads where not status = any(%(final)s)"
    async with asyncio.timeout(SETTLE_SECS):
        while (await postgres.rows(query, final=list(FINAL)))[0][0]:
            await asyncio.sleep(0.2)
    await asyncio.sleep(REST_SECS)


def _sample(calls: int, process: psutil.Process) -> Sample:
    with process.oneshot():
        kilobytes = process.memory_info().rss / 1024
        return Sample(calls, kilobytes, process.num_fds(), process.num_threads())


def _flat(found: Findings, scale: Scale, samples: list[Sample]) -> None:
    """What counts is the second half: before that caches and pools fill."""
    late = samples[len(samples) // 2 - 1 :]
    calls = [float(sample.calls) for sample in late]
    slope = linear_regression(calls, [sample.kilobytes for sample in late]).slope
    size = f"{samples[-1].kilobytes / 1024:.0f} MB after {samples[-1].calls} calls"
    limit = scale.pick(KB_PER_CALL, KB_PER_CALL_SHORT)
    found.within(f"kB that each call adds to the process, {size}", limit, round(slope, 1))
    files = samples[-1].files - late[0].files
    found.within(f"files and sockets more than after {late[0].calls} calls", MORE_FILES, files)
    threads = samples[-1].threads - late[0].threads
    found.within("threads more", MORE_THREADS, threads)


async def _tasks_left(world: World, scale: Scale, standing: Vendors) -> list[str]:
    """Run the service in this process; the tasks there are after some calls and not before."""
    chance = scale.random()
    async with _inside(world, standing) as url:
        await _batch(url, standing, 2, chance)
        await _settled(world.postgres)
        before = _tasks()
        await _batch(url, standing, scale.pick(100, 12), chance)
        await _settled(world.postgres)
        async with asyncio.timeout(SETTLE_SECS):
            left = _tasks() - before
            for _ in range(40):
                if not left:
                    break
                await asyncio.sleep(0.5)
                left = _tasks() - before
    return [f"{count} {name}" for name, count in left.items()]


@asynccontextmanager
async def _inside(world: World, standing: Vendors) -> AsyncIterator[str]:
    known: dict[str, Any] = {k.lower(): v for k, v in standing.environment.items()}
    own = {"database_url": world.postgres.url, "secret": SECRET, "data_dir": world.data("inside")}
    async with run_service(Settings(**(known | own))) as service, _listening(service) as url:
        yield url


def _tasks() -> Counter[str]:
    """The tasks of this loop by name, or by what they run where they were given none."""
    return Counter(map(_named, asyncio.all_tasks()))


def _named(task: asyncio.Task[Any]) -> str:
    given = task.get_name()
    name = getattr(task.get_coro(), "__qualname__", "") if given.startswith("Task-") else given
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+", "N", name)
