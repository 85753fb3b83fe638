"""R3: the model, the voice and the ears fail in every way they can."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from flow.db.database import Database
from flow.domain.calls.thread import Status, Thread
from flow.sandbox.all_vendors import Vendors
from flow.sandbox.callers.script import AfterBot
from flow.sandbox.faults import Fault, Kind
from tests.calls.test_call import SHORT
from tests.chaos.conservation import THREAD_HEADER, conserved
from tests.chaos.experiment import Findings, Scale
from tests.chaos.world import Caller, World

FAULT = "OpenAI refuses, fails, drops, hangs, breaks off or garbles: chat, voice and ears"
LONGEST_SECS = 1500.0
LONGEST_SHORT_SECS = 240.0

CHAT, SPEECH, EARS = "/v1/chat/completions", "/v1/audio/speech", "/v1/audio/transcriptions"
KINDS = {CHAT: "llm", SPEECH: "tts", EARS: "stt"}
SETTLE_SECS = 90.0
SPOILING = {"cut", "stall", "error_chunk", "malformed_chunk", "malformed"}
"""Faults of an answer that began well, with 200."""
SURVIVES, ENDS = "survives", "ends"

# A caller with little patience for a bot that says nothing: rounds are many.
SCRIPT = replace(SHORT, hang_up=AfterBot(0.5), patience_secs=6.0)
PATIENT = replace(SHORT, hang_up=AfterBot(0.5), patience_secs=45.0)


@dataclass(frozen=True, slots=True)
class Round:
    """One call under some faults. ``longest_secs`` is what a caller may have to bear of them."""

    name: str
    faults: Sequence[Fault]
    call: str = SURVIVES
    patient: bool = False
    longest_secs: float = 60.0


def everywhere(kind: Kind, **how: Any) -> list[Fault]:
    """The fault once at each of the three services."""
    return [Fault(kind=kind, route=route, times=1, **how) for route in KINDS]


ROUNDS: Sequence[Round] = (
    Round(
        "429, then 500",
        [
            *everywhere("status", status=429, headers={"retry-after": "1"}),
            *everywhere("status", status=500, skip=1),
        ],
    ),
    Round(
        "cut mid-way",
        [
            Fault(kind="cut", route=CHAT, times=1, chunks=6),
            Fault(kind="cut", route=SPEECH, times=1, chunks=2),
            Fault(kind="cut", route=EARS, times=1),
        ],
    ),
    Round("malformed chunk", [Fault(kind="malformed_chunk", route=CHAT, times=1, chunks=4)]),
    Round("500 for ever: chat", [Fault(kind="status", route=CHAT)], ENDS, longest_secs=90),
    Round("malformed answer of the ears", [Fault(kind="malformed", route=EARS, times=1)]),
    Round("no usage", [Fault(kind="no_usage", route=CHAT)]),
    Round("dropped once", everywhere("drop")),
    Round("lost before the headers", everywhere("cut")),
    Round("error in the stream", [Fault(kind="error_chunk", route=CHAT, times=1, chunks=4)]),
    Round("usage on every chunk", [Fault(kind="cumulative_usage", route=CHAT)]),
    Round("no details of usage", [Fault(kind="null_usage_details", route=CHAT)]),
    Round("events without choices", [Fault(kind="empty_choices", route=CHAT)]),
    Round("every reply has one id", [Fault(kind="same_id", route=CHAT)]),
    Round("wrong content type", everywhere("content_type")),
    Round("an empty reply", [Fault(kind="empty_reply", route=CHAT, times=1)]),
    Round("a refusal", [Fault(kind="refusal", route=CHAT, times=1)]),
    Round("401 for ever: chat", [Fault(kind="status", route=CHAT, status=401)], ENDS),
    Round("500 for ever: voice", [Fault(kind="status", route=SPEECH)], ENDS, longest_secs=90),
    Round("500 for ever: ears", [Fault(kind="status", route=EARS)], ENDS, longest_secs=90),
    *(
        Round(
            f"timeout once: {name}",
            [Fault(kind="hang", route=route, times=1)],
            patient=True,
            longest_secs=180,
        )
        for name, route in (("chat", CHAT), ("voice", SPEECH), ("ears", EARS))
    ),
    Round(
        "stalls mid-way",
        [
            Fault(kind="stall", route=CHAT, times=1, chunks=6),
            Fault(kind="stall", route=SPEECH, times=1, chunks=2),
        ],
        patient=True,
        longest_secs=180,
    ),
)
IN_SHORT = 4


async def run(world: World, scale: Scale, found: Findings) -> None:
    """One call a round, one after the other: the stand-in's faults are everybody's."""
    rounds = scale.pick(ROUNDS, ROUNDS[:IN_SHORT])
    unclean: list[str] = []
    unaccounted: list[str] = []
    async with (
        world.vendors(SCRIPT) as standing,
        world.host(standing) as host,
        world.postgres.database() as database,
    ):
        threads = []
        for one in rounds:
            thread, wrong = await _held(one, host.url, standing, database)
            unclean += wrong
            if thread is not None:
                threads.append(thread)
                unaccounted += await _unaccounted(one, thread, standing, database)
        found.none(f"of {len(rounds)} calls, those that did not go on or end cleanly", unclean)
        found.none("failed attempts that are not in the ledger, once", unaccounted)
        found.none(
            "failures PostHog was not told of as billed", await _untold(threads, standing, database)
        )
        await conserved(found, world.postgres, standing, [host.folder])


async def _held(
    one: Round, url: str, standing: Vendors, database: Database
) -> tuple[Thread | None, list[str]]:
    """The thread of the round's call, and what was not clean about it."""
    standing.openai.faults.add(*one.faults)
    script = PATIENT if one.patient else SCRIPT
    caller = await Caller().call(url, standing, script, time_limit_secs=one.longest_secs)
    if caller.thread_id is None:
        standing.openai.faults.clear()
        return None, [f"{one.name}: no thread: {caller.refusal or caller.failure}"]
    thread = await _settled(database, caller.thread_id)
    standing.openai.faults.clear()
    wrong = [caller.failure] if caller.failure else []
    if not thread.status.is_final:
        wrong.append(f"is {thread.status}")
    elif one.call == SURVIVES and thread.status is not Status.COMPLETED:
        wrong.append(f"is {thread.status}: {thread.error}")
    elif one.call == SURVIVES and not any(turn.role == "assistant" for turn in thread.transcript):
        wrong.append("the bot said nothing at all")
    elif thread.status is Status.FAILED and thread.error is None:
        wrong.append("failed without a reason")
    return thread, [f"{one.name}: {said}" for said in wrong]


async def _settled(database: Database, thread_id: str) -> Thread:
    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_SECS):
            while True:
                thread = await database.get_workflow_thread_data(UUID(thread_id))
                if thread.status.is_final:
                    return thread
                await asyncio.sleep(0.1)
    return await database.get_workflow_thread_data(UUID(thread_id))


async def _unaccounted(
    one: Round, thread: Thread, standing: Vendors, database: Database
) -> list[str]:
    """What the vendor saw fail of this call and the ledger does not have, by kind and status."""
    rows = await database.get_thread_usage(thread.id)
    hung = any(fault.kind == "hang" for fault in one.faults)
    ours = Counter(
        (row["kind"], (row["failure"] or {}).get("http_status"))
        for row in rows
        # One that nobody answered before the call ended was cut off with it.
        if row["outcome"] == "error" or (row["outcome"] == "interrupted" and hung)
    )
    refused: Counter[tuple[str, int | None]] = Counter()
    spoilt: Counter[str] = Counter()
    for exchange in standing.openai.requests:
        if exchange.headers.get(THREAD_HEADER) == str(thread.id):
            kind, status = KINDS[exchange.path], exchange.status
            if status is None or status >= 400:
                refused[kind, status] += 1
            elif SPOILING & set(exchange.faults):
                spoilt[kind] += 1
    by_kind = Counter(kind for kind, _ in ours.elements())
    wrong = [f"{what}, {n} times" for what, n in refused.items() if ours[what] != n]
    for kind, n in spoilt.items():
        if by_kind[kind] - sum(m for (k, _), m in refused.items() if k == kind) != n:
            wrong.append(f"{kind} spoilt {n} times")
    return [f"{one.name}: {said}, and the ledger has {dict(ours)}" for said in wrong]


async def _untold(threads: Iterable[Thread], standing: Vendors, database: Database) -> list[str]:
    """Failed rows of the ledger whose event at PostHog is missing, or does not say all it must.

    PostHog's own wrapper, which captures the insights, takes every answer with 200 for a success.
    """
    failed = {
        str(row["id"]): row
        for thread in threads
        for row in await database.get_thread_usage(thread.id)
        if row["outcome"] == "error" and row["kind"] != "call"
    }
    with suppress(TimeoutError):
        async with asyncio.timeout(15):
            while not set(failed) <= {event.uuid for event in standing.posthog.events}:
                await asyncio.sleep(0.2)
    told = {event.uuid: event.properties for event in standing.posthog.unique_events}
    if not failed:
        return ["nothing failed at all"]
    return [
        f"{row['kind']} of {row['source']}: {_shown(told.get(id_))}"
        for id_, row in failed.items()
        if not _is_right(told.get(id_), row)
    ]


def _is_right(properties: Any, row: Any) -> bool:
    return properties is not None and (
        (properties.get("$ai_is_error") is True or _is_unusable(row))
        and properties.get("$ai_billable") is row["billable"] is True
        and properties.get("ai_product") == row["product"]
        and properties.get("$ai_trace_id") == str(row["workflow_thread_id"])
    )


def _is_unusable(row: Any) -> bool:
    return row["source"] == "insights" and (row["failure"] or {}).get("http_status") is None


def _shown(properties: Any) -> str:
    if properties is None:
        return "no event"
    names = ("$ai_is_error", "$ai_billable", "ai_product", "$ai_trace_id")
    return ", ".join(f"{name} {properties.get(name)}" for name in names)
