"""R14: a vendor's socket of speech fails in every way it can, at any moment of a call."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from random import Random
from typing import Any
from uuid import UUID

from flow.db.database import Database
from flow.domain.calls.thread import Status, Thread
from flow.sandbox.all_vendors import Vendors
from flow.sandbox.bill import Line
from flow.sandbox.callers.script import AfterBot
from flow.sandbox.faults import Fault
from flow.sandbox.reconcile import reconcile_all
from tests.calls.test_call import SHORT
from tests.chaos.conservation import conserved, disagreements
from tests.chaos.experiment import Findings, Scale
from tests.chaos.world import Caller, World

FAULT = "a vendor's socket refuses, stalls, closes with a code, drops, or sends nonsense"
LONGEST_SECS = 3600.0
LONGEST_SHORT_SECS = 120.0

SCRIPT = replace(SHORT, hang_up=AfterBot(0.5), patience_secs=6.0)
SETTLE_SECS = 60.0
LONGEST_CALL_SECS = 60.0
MOST_MESSAGES = 24
"""In the first moments of a call, before a fault."""
IN_SHORT = 4


@dataclass(frozen=True, slots=True)
class Socket:
    """A service over WebSockets.

    Args:
        route: where its stand-in serves it.
        codes: those that the vendor closes with when something is wrong.
        reports: whether it ends with a report of what it took.
    """

    part: str
    vendor: str
    model: str
    route: str
    codes: Sequence[int]
    reports: bool = False


SOCKETS: Sequence[Socket] = (
    Socket("stt", "deepgram", "nova-3", "/v1/listen", (1008, 1011), reports=True),
    Socket("stt", "deepgram", "flux-general-en", "/v2/listen", (1008, 1011)),
    Socket("tts", "deepgram", "aura-2-thalia-en", "/v1/speak", (1003, 1008, 1009, 1011)),
    Socket("stt", "elevenlabs", "scribe_v2_realtime", "/v1/speech-to-text/*", (1008, 1011)),
    Socket("tts", "elevenlabs", "eleven_flash_v2_5", "/v1/text-to-speech/*", (1008, 1011)),
    Socket("tts", "elevenlabs", "eleven_v4_turbo", "/v1/text-to-dialogue/*", (1008, 1011)),
    Socket("stt", "cartesia", "ink-whisper", "/stt/websocket", (1011,)),
    Socket("stt", "cartesia", "ink-2", "/stt/turns/websocket", (1011,)),
    Socket("tts", "cartesia", "sonic-3", "/tts/websocket", (1011,)),
)
VENDORS = tuple(dict.fromkeys(socket.vendor for socket in SOCKETS))


@dataclass(frozen=True, slots=True)
class Round:
    """One call whose ``socket`` has a fault; ``other`` is the socket of its other part.

    ``may_end`` where no call can go on after it, or the vendor says that trying again is no use.
    """

    socket: Socket
    other: Socket
    name: str
    fault: Fault
    may_end: bool = False

    @property
    def bot(self) -> dict[str, Any]:
        """The ``bot`` of the join."""
        speech = {
            one.part: {"provider": one.vendor, "model": one.model}
            for one in (self.socket, self.other)
        }
        return {"system_prompt": SHORT.system_prompt, "greeting": SHORT.greeting, **speech}

    def __str__(self) -> str:
        return f"{self.socket.vendor} {self.socket.part}: {self.name}"


async def run(world: World, scale: Scale, found: Findings) -> None:
    """One call a round, one after the other: a vendor that is told no thread cannot tell whose
    its work was."""
    chance = scale.random()
    rounds = [one for socket in SOCKETS for one in _rounds(socket, chance)]
    if scale.short:
        rounds = chance.sample(rounds, IN_SHORT)
    unclean: list[str] = []
    unbilled: list[str] = []
    async with (
        world.vendors(SCRIPT, VENDORS) as standing,
        world.host(standing) as host,
        world.postgres.database() as database,
    ):
        for one in rounds:
            before = _billed(standing)
            thread, wrong = await _held(one, host.url, standing, database)
            unclean += wrong
            if thread is not None:
                unbilled += await _unbilled(one, thread, before, standing, database)
        found.none(f"of {len(rounds)} calls, those that did not go on or end cleanly", unclean)
        found.none("calls whose ledger is not the vendors' bills", unbilled)
        if not scale.short:
            found.none("sockets without any work", _idle(standing))
        await conserved(found, world.postgres, standing, [host.folder])


def _rounds(socket: Socket, chance: Random) -> Iterable[Round]:
    others = [one for one in SOCKETS if one.part != socket.part]

    def once(name: str, *, may_end: bool = False, **how: Any) -> Round:
        fault = Fault(route=socket.route, times=1, **how)
        return Round(socket, chance.choice(others), name, fault, may_end)

    def moment() -> int:
        return chance.randrange(MOST_MESSAGES)

    for status in (400, 401, 429, 500):
        is_last_word = status < 500  # that which Pipecat's services take for one differs
        yield once(f"refused with {status}", may_end=is_last_word, kind="status", status=status)
    yield once("refused without a word", kind="drop")
    yield once("answered late", kind="delay", delay_secs=2.0)
    yield once("never answered", kind="hang")
    for code in (1000, 1001, *socket.codes):
        after = moment()
        yield once(f"closed with {code} after {after}", kind="close", code=code, chunks=after)
    for kind in ("cut", "stall", "malformed", "malformed_chunk"):
        after = moment()
        yield once(f"{kind} after {after}", kind=kind, chunks=after)
    yield once("slow", kind="slow_tokens", delay_secs=0.3)
    if socket.reports:
        yield once("reports never", kind="no_usage")
        yield once("reports something else", kind="other_usage", factor=1.25)
    for_ever = Fault(kind="status", route=socket.route, status=500)
    yield Round(socket, chance.choice(others), "500 for ever", for_ever, may_end=True)


async def _held(
    one: Round, url: str, standing: Vendors, database: Database
) -> tuple[Thread | None, list[str]]:
    """The thread of the round's call, and what was not clean about it."""
    faults = standing.models[one.socket.vendor].faults
    faults.add(one.fault)
    caller = await Caller().call(
        url, standing, SCRIPT, join={"bot": one.bot}, time_limit_secs=LONGEST_CALL_SECS
    )
    if caller.thread_id is None:
        faults.clear()
        return None, [f"{one}: no thread: {caller.refusal or caller.failure}"]
    thread = await _settled(database, caller.thread_id)
    wrong = _unclean(one, thread, caller)
    if not faults.to_json()[0]["seen"]:
        wrong.append("the fault met no connection")
    faults.clear()
    return thread, [f"{one}: {said}" for said in wrong]


def _unclean(one: Round, thread: Thread, caller: Caller) -> list[str]:
    wrong = [caller.failure] if caller.failure else []
    if not thread.status.is_final:
        wrong.append(f"is {thread.status}")
    elif thread.status is Status.FAILED and thread.error is None:
        wrong.append("failed without a reason")
    elif not one.may_end and thread.status is not Status.COMPLETED:
        wrong.append(f"is {thread.status}: {thread.error}")
    return wrong


async def _settled(database: Database, thread_id: str) -> Thread:
    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_SECS):
            while True:
                thread = await database.get_workflow_thread_data(UUID(thread_id))
                if thread.status.is_final:
                    return thread
                await asyncio.sleep(0.1)
    return await database.get_workflow_thread_data(UUID(thread_id))


def _idle(standing: Vendors) -> list[str]:
    """Sockets of which nothing is on any bill: most calls of each work."""
    billed = {(name, line.kind) for name in VENDORS for line in standing.models[name].bill.lines}
    return [f"{s.vendor} {s.part}" for s in SOCKETS if (s.vendor, s.part) not in billed]


def _billed(standing: Vendors) -> dict[str, Collection[Line]]:
    return {name: list(standing.models[name].bill.lines) for name in VENDORS}


async def _unbilled(
    one: Round,
    thread: Thread,
    before: dict[str, Collection[Line]],
    standing: Vendors,
    database: Database,
) -> list[str]:
    """What the call's ledger and the vendors' bills of it do not agree on."""
    async with asyncio.timeout(SETTLE_SECS):
        bills = {name: await standing.models[name].bill.settled() for name in VENDORS}
    new = {name: lines[len(before[name]) :] for name, lines in bills.items()}
    rows = await database.get_thread_usage(thread.id)
    ours = [row for row in rows if row["provider"] in VENDORS]
    return [f"{one}: {wrong}" for wrong in disagreements(reconcile_all(ours, new))]
