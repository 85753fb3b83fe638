"""R4: PostHog is down, slow, or refuses."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from flow.sandbox.all_vendors import Vendors
from flow.sandbox.callers.conversation import EventKind
from flow.sandbox.faults import Fault
from flow.vendors.posthog import QUEUED_EVENTS, SHUTDOWN_SECS
from tests.chaos.conservation import conserved
from tests.chaos.experiment import Findings, Scale
from tests.chaos.hosts import Host
from tests.chaos.world import Caller, World, customer

FAULT = "PostHog hangs, drops, is slow, answers 401 to 500, or nonsense"
LONGEST_SECS = 900.0
LONGEST_SHORT_SECS = 240.0

FAULTS: Mapping[str, Fault] = {
    "hangs": Fault(kind="hang"),
    "drops": Fault(kind="drop"),
    "500": Fault(kind="status", status=500),
    "slow": Fault(kind="delay", delay_secs=5),
    "429": Fault(kind="status", status=429, headers={"retry-after": "30"}),
    "401": Fault(kind="status", status=401),
    "413": Fault(kind="status", status=413),
    "nonsense": Fault(kind="malformed"),
    "stalls": Fault(kind="stall", chunks=0),
}
IN_SHORT = ("hangs", "500")
ROOT = Path(__file__).parents[2]

CAPTURE_MS = 1.0
# Of the same requests with PostHog well, in the same run: machines are noisy.
SLOWER = 1.5
REPLY_SLOWER = 2.0
# The queue itself, and what sending takes: an event is a few kB.
GROWTH_MB = 150.0
LATER_GROWTH_MB = 25.0


@dataclass(frozen=True, slots=True)
class Joins:
    """What a row of joins took: of the caller's time, and of the process's."""

    p50_ms: float
    cpu_ms: float


async def run(world: World, scale: Scale, found: Findings) -> None:
    faults = scale.pick(FAULTS, {name: FAULTS[name] for name in IN_SHORT})
    async with (
        world.vendors() as standing,
        world.host(standing) as host,
        customer(host.url, standing) as http,
    ):
        await _captures(standing, faults, scale, found)
        await _joins(standing, host, http, faults, scale, found)
        await _calls(standing, host, faults, found)
        await conserved(found, world.postgres, standing, [host.folder])
        await _again(standing, host, found)


async def _captures(
    standing: Vendors, faults: Mapping[str, Fault], scale: Scale, found: Findings
) -> None:
    """What capturing takes of the event loop, and of the memory when nothing can be sent."""
    events = scale.pick(2 * QUEUED_EVENTS, QUEUED_EVENTS // 2)
    taken = {}
    for name, fault in {"well": None, **faults}.items():
        standing.posthog.faults.clear()
        if fault is not None:
            standing.posthog.faults.add(fault)
        taken[name] = await _captured(standing.posthog_url, events)
    standing.posthog.faults.clear()
    standing.posthog.events.clear()
    cpu = {name: one["cpu_ms"] for name, one in taken.items()}
    found.within(f"ms of the loop's CPU a capture ({_worst(cpu)})", CAPTURE_MS, max(cpu.values()))
    growth = {name: one["memory_mb"][-1] - one["memory_mb"][0] for name, one in taken.items()}
    found.within(
        f"MB that {3 * events:,} captures at once take ({_worst(growth)})",
        GROWTH_MB,
        max(growth.values()),
    )
    if not scale.short:  # the queue is full after the first third
        later = {name: one["memory_mb"][-1] - one["memory_mb"][1] for name, one in taken.items()}
        found.within(
            f"of that, MB of the last {2 * events:,} ({_worst(later)})",
            LATER_GROWTH_MB,
            max(later.values()),
        )
    stopped = {name: one["shutdown_secs"] for name, one in taken.items()}
    found.within(
        f"s until the process may go ({_worst(stopped)})", SHUTDOWN_SECS + 1, max(stopped.values())
    )


async def _captured(url: str, events: int) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos.capture_process", url, str(events)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(300):
            said, _ = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    return dict(json.loads(said.splitlines()[-1]))


async def _joins(
    standing: Vendors,
    host: Host,
    http: httpx.AsyncClient,
    faults: Mapping[str, Fault],
    scale: Scale,
    found: Findings,
) -> None:
    """Joins in turn with PostHog well and not."""
    rounds, joins = scale.pick(3, 2), scale.pick(60, 40)
    await _row(host, http, joins)  # warms up
    for name, fault in faults.items():
        well, ill = [], []
        for _ in range(rounds):
            well.append(await _row(host, http, joins))
            standing.posthog.faults.add(fault)
            ill.append(await _row(host, http, joins))
            standing.posthog.faults.clear()
        for what, of in (("p50", "p50_ms"), ("CPU", "cpu_ms")):
            ratio = median(getattr(one, of) for one in ill) / median(
                getattr(one, of) for one in well
            )
            found.within(
                f"{what} of a join while PostHog {name}, against well", SLOWER, round(ratio, 2)
            )


async def _row(host: Host, http: httpx.AsyncClient, joins: int) -> Joins:
    taken = []
    cpu = _cpu(host)
    for _ in range(joins):
        begun = time.perf_counter()
        answer = await http.post("/api/bot/join", json={})
        taken.append(1000 * (time.perf_counter() - begun))
        thread_id = answer.raise_for_status().json()["workflow_thread_id"]
        await http.post(f"/api/bot/{thread_id}/end")
    return Joins(median(taken), 1000 * (_cpu(host) - cpu) / joins)


def _cpu(host: Host) -> float:
    times = host.process.cpu_times()
    return float(times.user + times.system)


async def _calls(
    standing: Vendors, host: Host, faults: Mapping[str, Fault], found: Findings
) -> None:
    """Whole calls: how long the bot takes to reply, with PostHog well and not."""
    wrong: list[str] = []
    replies: dict[str, float] = {}
    for name, fault in {"well": None, **faults}.items():
        if fault is not None:
            standing.posthog.faults.add(fault)
        caller = await Caller().call(host.url, standing, time_limit_secs=60)
        standing.posthog.faults.clear()
        secs = _reply_secs(caller)
        if caller.report is None or secs is None:
            wrong.append(f"{name}: {caller.refusal or caller.failure or 'no reply'}")
        else:
            replies[name] = secs
    found.none("calls that did not go on", wrong)
    slowest = max((secs for name, secs in replies.items() if name != "well"), default=0.0)
    found.within(
        f"the slowest reply in a call, against {replies.get('well', 0):.2f} s when well",
        REPLY_SLOWER,
        round(slowest / replies.get("well", 1.0), 2),
    )


def _reply_secs(caller: Caller) -> float | None:
    """From the end of what the caller said to the beginning of the bot's reply."""
    said = [event.at_secs for event in caller.events if event.kind is EventKind.LINE_ENDED]
    begun = [event.at_secs for event in caller.events if event.kind is EventKind.BOT_STARTED]
    return next((at - said[0] for at in begun if at > said[0]), None) if said else None


async def _again(standing: Vendors, host: Host, found: Findings) -> None:
    """PostHog is well again: what happens from now on reaches it."""
    caller = await Caller().call(host.url, standing, time_limit_secs=60)
    arrived = False
    with suppress(TimeoutError):
        async with asyncio.timeout(90):
            while not arrived:
                arrived = any(
                    event.name == "$ai_trace"
                    and event.properties["workflow_thread_id"] == caller.thread_id
                    for event in standing.posthog.events
                )
                await asyncio.sleep(0.2)
    found.holds(
        "the trace of a call after PostHog is well again",
        "arrived",
        "arrived" if arrived else "lost",
    )


def _worst(values: Mapping[str, float]) -> str:
    return max(values, key=lambda name: values[name])
