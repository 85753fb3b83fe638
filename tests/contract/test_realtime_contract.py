"""The contract of speech-to-speech services: whatever happens to a session, what it cost is in the
ledger as the vendor bills it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pipecat.frames.frames import BotStoppedSpeakingFrame, InputAudioRawFrame

from flow.bot.vendors import google_live, openai_realtime_service
from flow.domain.usage.events import Outcome, Provenance, Quantities, UsageEvent
from flow.domain.usage.token_estimates import warm_up
from flow.domain.usage.units import Kind
from flow.metering.taps import socket as socket_tap
from flow.sandbox.bill import Bill, Line
from flow.sandbox.faults import Fault
from tests.contract.case import Case, after_a_kill, case, of, outcomes
from tests.contract.service_run import PATIENCE_SECS, RATE_IN
from tests.contract.vendors import (
    GEMINI_LIVE,
    OPENAI_REALTIME,
    REALTIME_ROWS,
    RealtimeRow,
    assert_conserved,
    gemini_live_stand_in,
)

FRAME_SECS = 0.1
RETRIES, RETRY_SECS = 5, 3.0
LOUD = b"\x10\x20" * int(RATE_IN * FRAME_SECS)
QUIET = bytes(len(LOUD))
SLOW = Fault(kind="slow_tokens", delay_secs=0.02)
NEVER = Fault(kind="slow_tokens", delay_secs=60)
LLM, STT = Kind.LLM, Kind.STT
ATTEMPTS = 3

every_row = pytest.mark.parametrize("row", REALTIME_ROWS, ids=lambda row: row.name)


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm_up()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_realtime_service, "DIAL_WAITS", (0.01,) * ATTEMPTS)
    monkeypatch.setattr(google_live, "DIAL_WAITS", (0.01,) * (ATTEMPTS - 1))
    monkeypatch.setattr(socket_tap, "REPORT_SECS", 0.5)


async def hear(c: Case, *sounds: bytes) -> None:
    await c.run.send(*(InputAudioRawFrame(sound, RATE_IN, 1) for sound in sounds))


async def speak(c: Case) -> None:
    """The caller speaks, and says no more."""
    await hear(c, *[LOUD] * 10)


async def speak_and_wait(c: Case) -> None:
    """The caller speaks, and waits for an answer."""
    await hear(c, *[LOUD] * 10, *[QUIET] * 8)


async def ask(c: Case, row: RealtimeRow) -> None:
    """An answer is wanted: by the caller, or where nobody may be heard yet, by the bot itself."""
    await (speak_and_wait(c) if row.hears_at_once else c.run.tell())


async def transcribed(c: Case, row: RealtimeRow, count: int = 1) -> None:
    """Wait until what the caller has said is transcribed, where that is work of its own."""
    if row.transcribes:
        await c.events(count, STT)


def billed(lines: Sequence[Line]) -> list[tuple[int, int, int, int]]:
    """Of each response: what was read as sound, from the cache of that, and made of both."""
    amounts = [line.amounts for line in lines if line.kind == "llm"]
    heard = [(a.prompt_audio_tokens, a.cached_audio_tokens) for a in amounts]
    made = [(a.completion_tokens, a.completion_audio_tokens) for a in amounts]
    return [(*one, *other) for one, other in zip(heard, made, strict=True)]


def accounted(events: Sequence[UsageEvent]) -> list[tuple[int, int, int, int]]:
    """The same as the ledger has it."""
    return [
        (
            q.count("input_audio_tokens") + q.count("cache_read_audio_tokens"),
            q.count("cache_read_audio_tokens"),
            q.count("output_tokens"),
            q.count("output_audio_tokens"),
        )
        for q in (event.quantities for event in events)
    ]


def assert_exact(c: Case) -> None:
    """Every token is in the ledger as the vendor has it, and reported."""
    events = c.notebook.events
    assert {event.provenance for event in events} == {Provenance.REPORTED}
    assert_conserved(events, c.vendor.bill)
    assert accounted(c.used(LLM)) == billed(c.vendor.bill.lines)


def assert_conserved_by_kind(c: Case) -> None:
    """Sound that is transcribed is apart from what the model has heard of it."""
    for kind in (LLM, STT):
        bill = Bill()
        bill.lines = [line for line in c.vendor.bill.lines if line.kind == kind.value]
        assert_conserved(c.used(kind), bill)


def is_gone(c: Case) -> bool:
    """Whether the service says that the call cannot go on with it."""
    processor = c.run.errors[-1].processor
    return processor is not None and not processor.is_usable


@every_row
async def test_whole_turns_are_counted_with_all_of_the_session_as_they_are_billed(
    row: RealtimeRow,
) -> None:
    async with case(row) as c:
        for n in range(3):
            await (speak_and_wait(c) if n == 1 else ask(c, row))
            await c.events(n + 1, LLM)
            await transcribed(c, row, n + 1)
            await c.run.send(BotStoppedSpeakingFrame())
    events = c.notebook.events
    assert set(outcomes(events)) == {Outcome.OK}
    assert {event.provider for event in events} == {row.vendor}
    assert {event.requested_model for event in c.used(LLM)} == {row.model}
    assert {event.model for event in events} == {line.model for line in c.vendor.bill.lines}
    assert all(event.time_to_first_token_secs is not None for event in events)
    assert all(event.note is None for event in events)
    assert_exact(c)
    # The conversation is read again and again, from a cache as far as there is one.
    heard = [heard for heard, *_ in accounted(c.used(LLM))]
    assert heard[0] < heard[1] < heard[2]
    assert row is not OPENAI_REALTIME or accounted(c.used(LLM))[-1][1] > 0


@every_row
async def test_a_barge_in_in_mid_output(row: RealtimeRow) -> None:
    async with case(row, SLOW) as c:
        await ask(c, row)
        await c.run.output(3)
        await speak(c)
        (event,) = await c.events(1, LLM)
        assert event.outcome is Outcome.INTERRUPTED
        assert event.quantities["output_audio_tokens"]
        await hear(c, *[QUIET] * 8)
        await c.begun(2)
        await c.run.output(c.run.outputs + 3)
        await transcribed(c, row, 2)
    assert outcomes(c.used(LLM)) == [Outcome.INTERRUPTED] * 2
    assert_exact(c)


async def test_a_barge_in_before_any_output_is_told_by_openai() -> None:
    async with case(OPENAI_REALTIME, NEVER) as c:
        await ask(c, OPENAI_REALTIME)
        await c.begun()
        await speak(c)
        (event,) = await c.events(1, LLM)
        assert event.outcome is Outcome.INTERRUPTED
        await c.events(1, STT)
    assert_exact(c)


@every_row
async def test_hanging_up_stops_an_answer_and_keeps_its_account(row: RealtimeRow) -> None:
    async with case(row, SLOW) as c:
        await ask(c, row)
        await c.run.output(3)
        await transcribed(c, row)
        await c.run.hang_up()
    assert outcomes(c.used(LLM)) == [Outcome.INTERRUPTED]
    assert_exact(c)


async def test_hanging_up_before_any_output_is_told_by_openai() -> None:
    async with case(OPENAI_REALTIME, NEVER) as c:
        await ask(c, OPENAI_REALTIME)
        await c.begun()
        await transcribed(c, OPENAI_REALTIME)
        await c.run.hang_up()
    assert outcomes(c.used(LLM)) == [Outcome.INTERRUPTED]
    assert_exact(c)


async def test_hanging_up_before_any_output_is_estimated_for_gemini() -> None:
    async with case(GEMINI_LIVE, NEVER) as c:
        await c.run.tell()
        await c.begun()
        await c.run.hang_up()
    (event,) = c.notebook.events
    assert (event.outcome, event.provenance) == (Outcome.INTERRUPTED, Provenance.ESTIMATED)
    assert_conserved([event], c.vendor.bill)


@every_row
@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_a_refused_handshake_costs_nothing_and_stands_in_the_ledger(
    row: RealtimeRow, status: int
) -> None:
    async with case(row, Fault(kind="status", status=status)) as c:
        await c.run.until(lambda run: len(run.errors) >= 1)
    events = c.notebook.events
    assert set(outcomes(events)) == {Outcome.ERROR}
    assert {event.quantities for event in events} == {Quantities()}
    assert {event.failure and event.failure.http_status for event in events} == {status}
    assert c.vendor.bill.lines == []
    if row is GEMINI_LIVE:
        assert is_gone(c)
        assert len(events) == (1 if status in (400, 401) else ATTEMPTS)


@pytest.mark.parametrize("kind", ["status", "drop"])
async def test_a_connection_that_cannot_be_made_is_made_later(kind: Any) -> None:
    async with case(GEMINI_LIVE, Fault(kind=kind, times=ATTEMPTS - 1)) as c:
        await c.run.tell()
        await c.events(ATTEMPTS)
    assert outcomes(c.notebook.events) == [Outcome.ERROR, Outcome.ERROR, Outcome.OK]
    assert_conserved(c.notebook.events, c.vendor.bill)


@every_row
@pytest.mark.parametrize("kind", ["cut", "1001", "1011", "malformed"])
async def test_the_conversation_goes_on_in_another_session(row: RealtimeRow, kind: Any) -> None:
    how: dict[str, Any] = {"kind": "close", "code": int(kind)} if kind.isdigit() else {"kind": kind}
    async with case(row, SLOW, Fault(**how, chunks=row.messages, times=1)) as c:
        await ask(c, row)
        (broken,) = await c.events(1, LLM)
        assert broken.outcome in {Outcome.ERROR, Outcome.INTERRUPTED}
        assert broken.provenance is Provenance.ESTIMATED
        assert broken.quantities["output_audio_tokens"]
        c.vendor.faults.clear()
        await _until_it_works(c, row)
    assert outcomes(c.used(LLM))[-1] is Outcome.OK
    assert_conserved_by_kind(c)


async def _until_it_works(c: Case, row: RealtimeRow) -> None:
    """Ask until there is an answer: what is said while there is no session is lost."""
    for _ in range(RETRIES):
        await ask(c, row)
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY_SECS):
                await c.events(2, LLM)
                return
    raise AssertionError("there is no other session")


async def test_a_session_that_google_ends_is_resumed_and_read_on() -> None:
    ended_soon = replace(GEMINI_LIVE, serve=partial(gemini_live_stand_in, session_secs=0.5))
    async with case(ended_soon) as c:
        service: Any = c.run.service
        await c.run.tell()
        await c.events()
        ended = service._session
        async with asyncio.timeout(PATIENCE_SECS):
            while service._session in (None, ended):
                await asyncio.sleep(0.01)
        await c.run.tell()
        await c.events(2)
    first, second = c.notebook.events
    assert second.quantities["input_audio_tokens"] == first.quantities["output_audio_tokens"]
    assert_exact(c)


async def test_a_session_that_google_ends_again_and_again_is_gone() -> None:
    lost_soon = replace(GEMINI_LIVE, serve=partial(gemini_live_stand_in, session_secs=0.05))
    async with case(lost_soon) as c:
        await c.run.until(lambda run: len(run.errors) >= 1)
    assert is_gone(c)
    assert c.notebook.events == []


async def _nothing_comes(c: Case) -> None:
    """Return when no more output has come in many turns of the loop, each of which lets it."""
    seen, turns = c.run.outputs, 0
    while turns < 40:
        await asyncio.sleep(0.01)
        turns = turns + 1 if c.run.outputs == seen else 0
        seen = c.run.outputs


@every_row
async def test_a_session_that_stalls(row: RealtimeRow) -> None:
    async with case(row, SLOW, Fault(kind="stall", chunks=row.messages)) as c:
        await ask(c, row)
        await c.run.output()
        await _nothing_comes(c)
    (event,) = c.used(LLM)
    assert (event.outcome, event.provenance) == (Outcome.INTERRUPTED, Provenance.ESTIMATED)
    assert event.quantities["output_audio_tokens"]


@every_row
async def test_a_response_that_reports_nothing_is_estimated(row: RealtimeRow) -> None:
    async with case(row, Fault(kind="no_usage")) as c:
        for n in range(2):
            await ask(c, row)
            await c.run.finished(n + 1)
            await c.run.send(BotStoppedSpeakingFrame())
    assert outcomes(c.used(LLM)) == [Outcome.OK] * 2
    assert {event.provenance for event in c.used(LLM)} == {Provenance.ESTIMATED}
    assert_conserved_by_kind(c)


@pytest.mark.parametrize("kind", ["cumulative_usage", "null_usage_details"])
async def test_usage_that_google_tells_in_another_way_is_counted_once(kind: Any) -> None:
    async with case(GEMINI_LIVE, Fault(kind=kind)) as c:
        await ask(c, GEMINI_LIVE)
        await c.events()
    assert outcomes(c.notebook.events) == [Outcome.OK]
    assert_conserved(c.notebook.events, c.vendor.bill)


@pytest.mark.parametrize(
    ("kind", "provenance"),
    [("failed_response", Provenance.REPORTED), ("error_chunk", Provenance.ESTIMATED)],
)
async def test_a_response_that_fails_at_openai(kind: Any, provenance: Provenance) -> None:
    async with case(OPENAI_REALTIME, Fault(kind=kind, chunks=10)) as c:
        await ask(c, OPENAI_REALTIME)
        (event,) = await c.events(1, LLM)
        await c.events(1, STT)
    assert (event.outcome, event.provenance) == (Outcome.ERROR, provenance)
    assert_conserved_by_kind(c)


async def test_what_openai_cannot_transcribe_is_on_record() -> None:
    async with case(OPENAI_REALTIME, Fault(kind="failed_transcription")) as c:
        await ask(c, OPENAI_REALTIME)
        (event,) = await c.events(1, STT)
        await c.events(1, LLM)
    assert event.outcome is Outcome.ERROR
    assert_conserved_by_kind(c)


@every_row
async def test_an_idle_session_costs_nothing(row: RealtimeRow) -> None:
    async with case(row) as c:
        for _ in range(3):
            await hear(c, *[QUIET] * 10)
            await asyncio.sleep(0.1)
    assert c.notebook.events == []
    assert c.vendor.bill.lines == []


@every_row
async def test_a_process_killed_in_mid_output_leaves_what_it_had_begun(
    row: RealtimeRow, tmp_path: Path
) -> None:
    async def work(c: Case) -> None:
        await ask(c, row)
        await c.run.output(20)

    found, _ = await after_a_kill(row, SLOW, tmp_path, work)
    (event,) = (event for event in of(found, LLM) if event.quantities)
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.INTERRUPTED)
    assert event.quantities["output_audio_tokens"]
