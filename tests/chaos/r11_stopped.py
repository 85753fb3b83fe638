"""R11: a process that is asked to stop under load lets calls finish, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import monotonic

import httpx
from websockets.exceptions import InvalidHandshake, InvalidStatus

from flow.sandbox.callers.caller import open_socket
from flow.sandbox.callers.conversation import EventKind
from tests.chaos.conservation import conserved, spooled
from tests.chaos.experiment import Findings, Scale
from tests.chaos.scripts import SHOP, first
from tests.chaos.world import Caller, World, customer

FAULT = "SIGTERM while calls run, end and arrive"
LONGEST_SECS = 600.0
LONGEST_SHORT_SECS = 240.0

GRACE_SECS, GRACE_SHORT_SECS = 30, 12
# For what follows calls: the last words to the database, insights, workflows.
AFTERWARDS_SECS = 45.0
ASK_SECS = 0.25
# How long the signal may be on its way to every part of a busy process.
NOTICED_SECS = 2.0

Answer = tuple[int, str, bool]
"""The status, the problem's code if there is one, and whether it says when to come again."""

REFUSALS: Mapping[str, Answer] = {
    "joins": (503, "shutting_down", True),
    "connections": (503, "shutting_down", True),
    "/readyz": (503, "", False),
}

_THREADS = "select id::text, status, end_reason from workflow_threads"


async def run(world: World, scale: Scale, found: Findings) -> None:
    grace = scale.pick(GRACE_SECS, GRACE_SHORT_SECS)
    async with (
        world.vendors(SHOP) as standing,
        world.host(standing, FLOW_DRAIN_SECS=str(grace)) as host,
    ):
        # Those of one line are over within the grace time, those of ten are not.
        callers = [Caller() for _ in range(scale.pick(8, 4))]
        scripts = [first(1) if n % 2 else SHOP for n in range(len(callers))]
        talking = [
            asyncio.create_task(caller.call(host.url, standing, script))
            for caller, script in zip(callers, scripts, strict=True)
        ]
        async with asyncio.timeout(60):
            while not all(caller.has(EventKind.BOT_STARTED) for caller in callers):
                await asyncio.sleep(0.05)
        async with customer(host.url, standing) as http:
            late = (await http.post("/api/bot/join", json={})).json()
            begun = monotonic()
            host.terminate()
            asking = asyncio.create_task(_answers(http, late["connection"]["url"]))
            code = await host.gone(grace + AFTERWARDS_SECS)
            took = monotonic() - begun
            answers = await asking
        await asyncio.gather(*talking)
        found.holds("exit code", 0, code)
        found.within("seconds until it was gone", grace + AFTERWARDS_SECS, took)
        for what, refusal in REFUSALS.items():
            found.holds(f"{what} once it had been told", [refusal], sorted(answers[what]))
        await _check_threads(world, found, callers, late["workflow_thread_id"])
        found.none("lines left in a spool by the process that stopped", spooled(host.folder))
        await host.start()
        async with customer(host.url, standing) as http:
            await http.post(f"/api/bot/{late['workflow_thread_id']}/end")
        await conserved(found, world.postgres, standing, [host.folder])


async def _answers(http: httpx.AsyncClient, late_url: str) -> dict[str, set[Answer]]:
    """What was answered, once the news may be expected to have spread, until nobody answers."""
    await asyncio.sleep(NOTICED_SECS)
    answers: dict[str, set[Answer]] = {what: set() for what in REFUSALS}
    with suppress(httpx.TransportError):
        while True:
            join = await http.post("/api/bot/join", json={})
            code = join.json().get("code", "")
            answers["joins"].add((join.status_code, code, "retry-after" in join.headers))
            ready = await http.get("/readyz")
            answers["/readyz"].add((ready.status_code, "", False))
            if (connected := await _connect(late_url)) is not None:
                answers["connections"].add(connected)
            await asyncio.sleep(ASK_SECS)
    return answers


async def _connect(url: str) -> Answer | None:
    try:
        async with open_socket(url):
            return 101, "", False
    except InvalidStatus as refused:
        body = json.loads(refused.response.body or b"{}")
        has_time = "retry-after" in refused.response.headers
        return refused.response.status_code, str(body.get("code", "")), has_time
    except (OSError, InvalidHandshake):
        return None


async def _check_threads(
    world: World, found: Findings, callers: Sequence[Caller], late: str
) -> None:
    """What has become of each call when the process is gone, and nobody else was there to help."""
    threads = {id_: (status, why) for id_, status, why in await world.postgres.rows(_THREADS)}
    short = [threads.get(caller.thread_id or "") for caller in callers[1::2]]
    long = [threads.get(caller.thread_id or "") for caller in callers[::2]]
    finished, ended = ("completed", "caller_hung_up"), ("completed", "shutdown")
    found.holds(
        "calls that could end within the grace time",
        Counter({finished: len(short)}),
        Counter(short),
    )
    found.holds("calls that could not", Counter({ended: len(long)}), Counter(long))
    found.holds("a call that was joined and not begun", ("created", None), threads.get(late))
    by = Counter(caller.report.ended_by if caller.report else caller.failure for caller in callers)
    found.holds("who ended them", Counter(caller=len(short), service=len(long)), by)
    answered = {caller.thread_id for caller in callers} | {late}
    found.none("threads that nobody was told of", sorted(set(threads) - answered))
