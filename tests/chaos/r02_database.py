"""R2: calls go on while their database is away, and their account is whole when it is back."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from time import monotonic

from flow.sandbox.all_vendors import Vendors
from flow.sandbox.callers.conversation import EventKind
from flow.sandbox.callers.script import Script
from tests.chaos.conservation import conserved
from tests.chaos.experiment import Findings, Scale
from tests.chaos.hosts import Host
from tests.chaos.scripts import SHOP, first
from tests.chaos.spoken import missing, spoken
from tests.chaos.world import Caller, World, customer

FAULT = "Postgres stopped, killed -9 and cut off in mid-call; then the process too while it is away"
LONGEST_SECS = 900.0
LONGEST_SHORT_SECS = 360.0

AWAY_SECS, AWAY_SHORT_SECS = 30.0, 6.0
# How long the service may take to say that it cannot take a call now.
REFUSED_WITHIN_SECS = 15.0
FINISHED_SECS = 60.0
# How long before the end a turn may still have been in the making.
IN_THE_MAKING_SECS = 1.5

_TURNS = "select workflow_thread_id::text, role, content from workflow_thread_turns order by 1, seq"


async def run(world: World, scale: Scale, found: Findings) -> None:
    calls = scale.pick(5, 2)
    async with world.vendors(SHOP) as standing, world.host(standing) as host:
        await _calls_go_on(world, scale, found, standing, host, calls)
        await _killed_meanwhile(world, scale, found, standing, host, calls)
        await conserved(found, world.postgres, standing, [host.folder])


async def _calls_go_on(
    world: World, scale: Scale, found: Findings, standing: Vendors, host: Host, calls: int
) -> None:
    """Some calls that live through all of it, and one that ends while the database is away."""
    away = scale.pick(AWAY_SECS, AWAY_SHORT_SECS)
    scripts = [scale.pick(SHOP, first(4))] * calls + [scale.pick(first(3), first(2))]
    callers, talking = _talk(host, standing, scripts)
    await _everybody(callers, EventKind.LINE_ENDED)
    cut = 0
    for _ in range(scale.pick(5, 2)):
        cut += await world.postgres.cut()
        await asyncio.sleep(0.7)
    found.holds("connections were cut", True, cut > 0)
    await world.postgres.kill()
    await world.postgres.start()
    await asyncio.sleep(scale.pick(3.0, 1.0))
    await world.postgres.stop()
    begun = monotonic()
    await _refused(found, host, standing)
    await asyncio.sleep(max(0.0, away - (monotonic() - begun)))
    spoke = sum(_spoke_since(caller, begun) for caller in callers[:calls])
    found.holds(f"calls in which the bot spoke in the {away:g} s without", calls, spoke)
    await world.postgres.start()
    await asyncio.gather(*talking)
    broken = [str(caller.failure) for caller in callers if caller.report is None]
    found.none("calls that broke off", broken)
    unanswered = [
        f"{caller.thread_id}: {line.text}"
        for caller, script in zip(callers, scripts, strict=True)
        for line in script.lines
        if ("user", line.text) not in spoken(caller, monotonic())
    ]
    found.none("lines that were not answered", unanswered)
    lost = await _lost_turns(world, callers, monotonic())
    found.none("transcripts that lack what had been said", lost)


async def _killed_meanwhile(
    world: World, scale: Scale, found: Findings, standing: Vendors, host: Host, calls: int
) -> None:
    """What only the process knew when it was killed, since its database was away."""
    callers, talking = _talk(host, standing, [first(4)] * calls)
    await _everybody(callers, EventKind.BOT_STARTED)
    await world.postgres.stop()
    await _everybody(callers, EventKind.LINE_ENDED)
    await asyncio.sleep(scale.pick(9.0, 5.0))
    at = monotonic()
    await host.kill()
    await asyncio.gather(*talking)
    await world.postgres.start()
    await host.start()
    lost = await _lost_turns(world, callers, at - IN_THE_MAKING_SECS)
    found.none("transcripts that lack what a killed process knew, its database being away", lost)


async def _refused(found: Findings, host: Host, standing: Vendors) -> None:
    async with customer(host.url, standing) as http:
        begun = monotonic()
        answer = await http.post("/api/bot/join", json={})
    seen = (answer.status_code, answer.json().get("code"), "retry-after" in answer.headers)
    found.holds("a join meanwhile", (503, "database_unavailable", True), seen)
    found.within("seconds until that is said", REFUSED_WITHIN_SECS, monotonic() - begun)


def _talk(
    host: Host, standing: Vendors, scripts: Sequence[Script]
) -> tuple[list[Caller], list[asyncio.Task[Caller]]]:
    callers = [Caller() for _ in scripts]
    talking = [
        asyncio.create_task(caller.call(host.url, standing, script))
        for caller, script in zip(callers, scripts, strict=True)
    ]
    return callers, talking


async def _everybody(callers: Sequence[Caller], kind: EventKind) -> None:
    """Return when that has happened in every call."""
    async with asyncio.timeout(60):
        while not all(caller.has(kind) for caller in callers):
            await asyncio.sleep(0.05)


def _spoke_since(caller: Caller, moment: float) -> bool:
    happened = zip(caller.events, caller.times, strict=True)
    return any(event.kind is EventKind.BOT_STARTED and at > moment for event, at in happened)


async def _lost_turns(world: World, callers: Sequence[Caller], moment: float) -> list[str]:
    """What was said by then and is not in the transcripts, for which it is waited a while."""
    deadline = monotonic() + FINISHED_SECS
    while True:
        turns: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for thread_id, role, content in await world.postgres.rows(_TURNS):
            turns[thread_id].append((role, content))
        lost = [
            f"{caller.thread_id} lacks {lacking}"
            for caller in callers
            if (lacking := missing(spoken(caller, moment), turns[caller.thread_id or ""]))
        ]
        if not lost or monotonic() > deadline:
            return lost
        await asyncio.sleep(0.25)
