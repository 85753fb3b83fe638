"""R10: callers who say nothing, never hang up, vanish, or only pretend to listen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx

from flow.db.database import Database
from flow.domain.calls.thread import Thread
from flow.sandbox.callers.frames import Audio, encode
from flow.sandbox.speech.synthesis import synthesize
from tests.chaos import wire
from tests.chaos.conservation import conserved
from tests.chaos.experiment import Findings, Scale
from tests.chaos.world import World, customer

FAULT = "callers who never connect, say nothing, never hang up, vanish, or stop reading"
LONGEST_SECS = 600.0
LONGEST_SHORT_SECS = 150.0

IDLE_SECS = 6.0
MOST_SECS = 12
TOKEN_SECS = 20
RATE = 16_000
CHUNK_SECS = 0.02
SILENCE = bytes(2 * int(RATE * CHUNK_SECS))
# What stopping a bot may take beyond its limit, on a busy machine: `flow.bot.session.STOP_SECS`.
STOPPED_SECS = 20.0
GREETING = "Hello! " + " ".join(
    f"This is sentence number {n} of what there is to be said to you at the beginning."
    for n in range(12)
)


@dataclass(frozen=True, slots=True)
class Bad:
    """A caller, why its call must end, and how long after it connected at the latest.

    ``accounts`` are the states its thread may end in, each with the calls in its ledger.
    """

    name: str
    behave: Callable[[str], Awaitable[None]]
    reasons: frozenset[str]
    within_secs: float
    accounts: frozenset[tuple[str, int]] = frozenset({("completed", 1)})
    greeting: str | None = None


async def never_connects(url: str) -> None:
    """Join, and no more."""


async def sends_nothing(url: str) -> None:
    """Connect, and read what comes."""
    async with wire.upgraded(url) as (line, _):
        await line.answer(60)


async def sends_silence(url: str) -> None:
    """Be a microphone in an empty room."""
    async with wire.upgraded(url) as (line, _):
        await _plays(line, SILENCE, 60)


async def talks_for_ever(url: str) -> None:
    """Never stop talking, whatever the bot says."""
    speech = await asyncio.to_thread(synthesize, "And so I went on, " * 6, sample_rate=RATE)
    async with wire.upgraded(url) as (line, _):
        await _plays(line, speech, 60)


async def vanishes(url: str) -> None:
    """Connect, say a little, and reset the connection."""
    async with wire.upgraded(url) as (line, _):
        await _plays(line, SILENCE, 1.5)
        line.reset()


async def vanishes_at_once(url: str) -> None:
    """Ask for a WebSocket and be gone before the answer."""
    async with wire.connected(url) as line:
        await line.send(wire.handshake(url))
        line.reset()


async def closes_the_sending_side(url: str) -> None:
    """End what one sends, and stay to read."""
    async with wire.upgraded(url) as (line, _):
        await _plays(line, SILENCE, 1)
        line.half_close()
        await line.answer(60)


async def stops_reading(url: str) -> None:
    """Take nothing in, answer no ping, and stay: a half-open connection."""
    async with wire.upgraded(url, small=True) as (line, _):
        line.stop_reading()
        await asyncio.sleep(50)


async def talks_and_stops_reading(url: str) -> None:
    """Keep talking to a bot one never listens to."""
    speech = await asyncio.to_thread(synthesize, "Are you there? " * 8, sample_rate=RATE)
    async with wire.upgraded(url, small=True) as (line, _):
        line.stop_reading()
        await _plays(line, speech, 50)


async def half_a_handshake(url: str) -> None:
    """Begin to ask for a WebSocket and never get to the end of it."""
    async with wire.connected(url) as line:
        await line.send(wire.handshake(url)[:-2])
        await asyncio.sleep(10)


PUT_FORWARD = """
update workflow_threads set created_at = created_at - interval '3 minutes',
                            lease_until = lease_until - interval '3 minutes'
where status = 'created' returning id
"""

IDLE = frozenset({"idle_timeout"})
GONE = frozenset({"caller_hung_up"})
LIMIT = frozenset({"max_duration"})
NOBODY = frozenset({("expired", 0)})
CALLERS = (
    Bad("never connects", never_connects, frozenset(), 0, NOBODY),
    Bad("half a handshake", half_a_handshake, frozenset(), 0, NOBODY),
    Bad("sends nothing", sends_nothing, IDLE, IDLE_SECS),
    Bad("sends silence", sends_silence, IDLE, IDLE_SECS),
    Bad("talks for ever", talks_for_ever, LIMIT, MOST_SECS, greeting="Hello!"),
    Bad("resets the connection", vanishes, GONE, 2),
    # It may be gone before there is a call, before the call begins, or just after.
    Bad(
        "resets it in the handshake",
        vanishes_at_once,
        GONE,
        0,
        NOBODY | {("completed", 0), ("completed", 1)},
    ),
    Bad("closes its sending side", closes_the_sending_side, GONE, 2),
    Bad("stops reading", stops_reading, GONE | IDLE | LIMIT, MOST_SECS, greeting=GREETING),
    Bad(
        "talks and stops reading",
        talks_and_stops_reading,
        GONE | LIMIT,
        MOST_SECS,
        greeting=GREETING,
    ),
)


async def run(world: World, scale: Scale, found: Findings) -> None:
    """All of them at once, several of each in the long form; then everything is added up."""
    settings = {
        "FLOW_IDLE_TIMEOUT_SECS": f"{IDLE_SECS:g}",
        "FLOW_JOIN_TOKEN_SECS": str(TOKEN_SECS),
    }
    callers = [bad for bad in CALLERS for _ in range(scale.pick(2, 1))]
    async with (
        world.vendors() as standing,
        world.host(standing, **settings) as host,
        world.postgres.database() as database,
        customer(host.url, standing) as http,
    ):
        seen = await asyncio.gather(*(_called(bad, http, database) for bad in callers))
        if scale.short:
            # A minute after the last moment to connect: here time is put forward instead.
            await world.postgres.rows(PUT_FORWARD)
        found.none(
            f"of {len(callers)} callers, those whose call ended late or otherwise",
            [said for _, said in seen if said],
        )
        await conserved(
            found, world.postgres, standing, [host.folder], settle_secs=scale.pick(180, 60)
        )
        found.none(
            "callers whose call is not in the ledger once, or is in another state",
            [
                said
                for bad, (thread_id, _) in zip(callers, seen, strict=True)
                if (said := await _account(bad, thread_id, database))
            ],
        )
        # Those on which the calls were joined may wait for more, which is not looked at here.
        await http.aclose()
        found.holds("sockets still open at the service", 0, _sockets(host.process))


async def _called(bad: Bad, http: httpx.AsyncClient, database: Database) -> tuple[UUID, str | None]:
    """The caller's thread, and what was wrong with how its call ended."""
    bot: dict[str, Any] = {"greeting": bad.greeting} if bad.greeting else {}
    body: Mapping[str, Any] = {
        "bot": bot,
        "max_duration_secs": MOST_SECS,
        "insights": {"enabled": False},
    }
    joined = (await http.post("/api/bot/join", json=body)).raise_for_status().json()
    thread_id = UUID(joined["workflow_thread_id"])
    url = joined["connection"]["url"].replace("ws://", "http://")
    behaving = asyncio.create_task(bad.behave(url))
    try:
        return thread_id, await _judged(bad, thread_id, database)
    finally:
        behaving.cancel()
        await asyncio.gather(behaving, return_exceptions=True)


async def _judged(bad: Bad, thread_id: UUID, database: Database) -> str | None:
    if not bad.within_secs:
        await asyncio.sleep(3)
        return None
    begun, limit = time.monotonic(), bad.within_secs + STOPPED_SECS
    thread: Thread | None = None
    with suppress(TimeoutError):
        async with asyncio.timeout(limit):
            while thread is None or thread.ended_at is None:
                thread = await database.get_workflow_thread_data(thread_id)
                await asyncio.sleep(0.1)
    if thread is None or thread.ended_at is None:
        return f"{bad.name}: still {thread and thread.status} after {limit:g} s"
    if thread.end_reason not in bad.reasons:
        return f"{bad.name}: {thread.end_reason} after {time.monotonic() - begun:.0f} s"
    return None


async def _account(bad: Bad, thread_id: UUID, database: Database) -> str | None:
    thread = await database.get_workflow_thread_data(thread_id)
    rows = await database.get_thread_usage(thread_id)
    calls = sum(row["kind"] == "call" for row in rows)
    seen = (thread.status.value, calls)
    return None if seen in bad.accounts else f"{bad.name}: {calls} calls, {thread.status}"


async def _plays(line: wire.Wire, speech: bytes, secs: float) -> None:
    """Send sound in real time, over and over, for as long as somebody takes it."""
    reading = asyncio.create_task(line.answer(secs))
    begun, at, n = time.monotonic(), 0, 0
    with suppress(TimeoutError):
        async with asyncio.timeout(secs):
            while not reading.done():
                chunk = speech[at : at + len(SILENCE)].ljust(len(SILENCE), b"\0")
                at = 0 if at + len(SILENCE) >= len(speech) else at + len(SILENCE)
                if not await line.send(wire.frame(encode(Audio(chunk, RATE)))):
                    break
                n += 1
                await asyncio.sleep(max(0.0, begun + n * CHUNK_SECS - time.monotonic()))
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


def _sockets(process: Any) -> int:
    """Connections of customers that the service holds; those to vendors go out from it."""
    listening = {one.laddr.port for one in process.net_connections() if one.status == "LISTEN"}
    return sum(
        one.laddr.port in listening and one.status not in {"LISTEN", "TIME_WAIT"}
        for one in process.net_connections()
    )
