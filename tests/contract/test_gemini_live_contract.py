"""The contract of Gemini Live: whatever happens to a session, what it cost is in the ledger as
Google bills it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pipecat.frames.frames import InputAudioRawFrame, LLMMessagesAppendFrame
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair

from flow.bot.services import CallServices
from flow.bot.vendors import google_live
from flow.domain.usage.events import Outcome, Provenance, Quantities, UsageEvent
from flow.domain.usage.token_estimates import warm_up
from flow.metering.request import Recording
from flow.metering.taps import socket as socket_tap
from flow.sandbox.bill import Line
from flow.sandbox.faults import Fault
from tests.contract.service_run import PATIENCE_SECS, RATE_IN, ServiceRun, running
from tests.contract.spool import Ledger, found_in, spooling
from tests.contract.vendors import GEMINI_LIVE, Row, Running, assert_conserved, gemini_live_stand_in
from tests.events import an_owner
from tests.notebook import Notebook

OWNER = an_owner(team_id="team_a")
FRAME = InputAudioRawFrame(b"\x10\x20" * (RATE_IN // 10), RATE_IN, 1)
SILENCE = InputAudioRawFrame(bytes(RATE_IN // 5), RATE_IN, 1)
SLOW = Fault(kind="slow_tokens", delay_secs=0.02)
NEVER = Fault(kind="slow_tokens", delay_secs=60)


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm_up()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(google_live, "DIAL_WAITS", (0.01, 0.01))
    monkeypatch.setattr(socket_tap, "REPORT_SECS", 0.5)


@dataclass
class Case:
    run: ServiceRun
    vendor: Running
    notebook: Notebook

    async def ask(self) -> None:
        """The bot is told to speak."""
        told: Any = {"role": "developer", "content": "Tell the caller everything."}
        await self.run.send(LLMMessagesAppendFrame([told], run_llm=True))

    async def speak(self) -> None:
        """The caller speaks, and waits for an answer."""
        await self.run.send(*[FRAME] * 8, *[SILENCE] * 8)

    async def events(self, count: int = 1) -> list[UsageEvent]:
        """All events, once there are ``count``."""
        async with asyncio.timeout(PATIENCE_SECS):
            while len(self.notebook.events) < count:
                await asyncio.sleep(0.005)
        return self.notebook.events

    async def begun(self) -> None:
        """Wait until a generation has been asked for."""
        async with asyncio.timeout(PATIENCE_SECS):
            while not self.notebook.begun:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def live(row: Row, vendor: Running, recorder: Recording) -> AsyncIterator[ServiceRun]:
    services = CallServices(OWNER, recorder, {row.vendor: vendor.endpoint})
    pair = LLMContextAggregatorPair(LLMContext([]))
    around = {"before": [pair.user()], "after": [pair.assistant()]}
    async with running(services, row.part, row.choice, **around) as run:
        yield run


@asynccontextmanager
async def case(*faults: Fault, row: Row = GEMINI_LIVE) -> AsyncIterator[Case]:
    """A call with the service; afterwards it is over, and everything is in the notebook."""
    notebook = Notebook()
    async with row.serve() as vendor:
        vendor.faults.add(*faults)
        async with live(row, vendor, notebook) as run:
            yield Case(run, vendor, notebook)
        async with asyncio.timeout(PATIENCE_SECS):
            await vendor.bill.settled()
    assert notebook.open == set()


def outcomes(events: Sequence[UsageEvent]) -> list[Outcome]:
    return [event.outcome for event in events]


def billed(line: Line) -> tuple[int, int, int, int]:
    a = line.amounts
    heard, spoken = a.prompt_audio_tokens, a.completion_audio_tokens
    return (a.prompt_tokens, heard, a.completion_tokens, spoken)


def accounted(event: UsageEvent) -> tuple[int, int, int, int]:
    count = event.quantities.count
    heard, spoken = count("input_audio_tokens"), count("output_audio_tokens")
    return (count("input_tokens"), heard, count("output_tokens"), spoken)


def is_gone(c: Case) -> bool:
    """Whether the service says that the call cannot go on with it."""
    processor = c.run.errors[-1].processor
    return processor is not None and not processor.is_usable


def assert_exact(c: Case) -> None:
    """Every token, of text and of sound, is in the ledger as it is billed, and reported."""
    assert {event.provenance for event in c.notebook.events} == {Provenance.REPORTED}
    assert [*map(accounted, c.notebook.events)] == [*map(billed, c.vendor.bill.lines)]


async def test_each_turn_is_counted_with_all_of_the_session_as_it_is_billed() -> None:
    async with case() as c:
        for n in range(3):
            await (c.speak() if n == 1 else c.ask())
            await c.events(n + 1)
    events = c.notebook.events
    assert outcomes(events) == [Outcome.OK] * 3
    assert {(e.provider, e.model, e.requested_model) for e in events} == {
        ("google", "gemini-3.8-live", "gemini-3.8-live")
    }
    assert all(event.time_to_first_token_secs is not None for event in events)
    assert all(event.note is None for event in events)
    heard = [event.quantities["input_audio_tokens"] for event in events]
    assert 0 == heard[0] < heard[1] < heard[2]
    assert_exact(c)


@pytest.mark.parametrize("kind", ["cumulative_usage", "null_usage_details"])
async def test_usage_that_is_told_in_another_way_is_counted_once(kind: Any) -> None:
    async with case(Fault(kind=kind)) as c:
        await c.ask()
        await c.events()
    assert outcomes(c.notebook.events) == [Outcome.OK]
    assert_conserved(c.notebook.events, c.vendor.bill)


async def test_a_barge_in_is_accounted_for_by_the_vendor_and_answered() -> None:
    async with case(SLOW) as c:
        await c.ask()
        await c.run.output(3)
        c.vendor.faults.clear()
        await c.speak()
        await c.events(1)
        await c.run.output(8)
    first, second = c.notebook.events
    assert (first.outcome, second.outcome) == (Outcome.INTERRUPTED, Outcome.INTERRUPTED)
    assert first.quantities["output_audio_tokens"]
    assert_exact(c)


async def test_hanging_up_stops_an_answer_and_keeps_its_account() -> None:
    async with case(SLOW) as c:
        await c.ask()
        await c.run.output(3)
        await c.run.hang_up()
    assert outcomes(c.notebook.events) == [Outcome.INTERRUPTED]
    assert_exact(c)


async def test_hanging_up_before_any_output() -> None:
    async with case(NEVER) as c:
        await c.ask()
        await c.begun()
        await c.run.hang_up()
    (event,) = c.notebook.events
    assert (event.outcome, event.provenance) == (Outcome.INTERRUPTED, Provenance.ESTIMATED)
    assert_conserved([event], c.vendor.bill)


async def test_a_session_that_stalls() -> None:
    async with case(SLOW, Fault(kind="stall", chunks=8)) as c:
        await c.ask()
        await c.run.output(3)
        await asyncio.sleep(0.2)
    (event,) = c.notebook.events
    assert (event.outcome, event.provenance) == (Outcome.INTERRUPTED, Provenance.ESTIMATED)
    assert event.quantities["output_audio_tokens"]


async def test_a_turn_that_reports_nothing_is_estimated() -> None:
    async with case(Fault(kind="no_usage")) as c:
        for n in range(2):
            await c.ask()
            await c.run.finished(n + 1)
    assert outcomes(c.notebook.events) == [Outcome.OK] * 2
    assert {event.provenance for event in c.notebook.events} == {Provenance.ESTIMATED}
    assert_conserved(c.notebook.events, c.vendor.bill)


@pytest.mark.parametrize(("status", "attempts"), [(400, 1), (401, 1), (429, 3), (500, 3)])
async def test_a_refused_handshake_costs_nothing_and_stands_in_the_ledger(
    status: int, attempts: int
) -> None:
    async with case(Fault(kind="status", status=status)) as c:
        await c.run.until(lambda run: len(run.errors) >= 1)
    assert is_gone(c)
    events = c.notebook.events
    assert outcomes(events) == [Outcome.ERROR] * attempts
    assert {event.quantities for event in events} == {Quantities()}
    assert {event.failure and event.failure.http_status for event in events} == {status}
    assert c.vendor.bill.lines == []


@pytest.mark.parametrize("kind", ["status", "drop"])
async def test_a_connection_that_cannot_be_made_is_made_later(kind: Any) -> None:
    async with case(Fault(kind=kind, times=2)) as c:
        await c.ask()
        await c.events(3)
    assert outcomes(c.notebook.events) == [Outcome.ERROR, Outcome.ERROR, Outcome.OK]
    assert_conserved(c.notebook.events, c.vendor.bill)


BROKEN = {
    "cut": Fault(kind="cut", chunks=20, times=1),
    "1001": Fault(kind="close", code=1001, chunks=20, times=1),
    "1011": Fault(kind="close", code=1011, chunks=20, times=1),
    "malformed": Fault(kind="malformed", chunks=20, times=1),
}


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
async def test_the_conversation_goes_on_in_another_session(fault: Fault) -> None:
    async with case(SLOW, fault) as c:
        await c.ask()
        (broken,) = await c.events()
        assert broken.outcome in {Outcome.ERROR, Outcome.INTERRUPTED}
        assert broken.provenance is Provenance.ESTIMATED
        assert broken.quantities["output_audio_tokens"]
        c.vendor.faults.clear()
        await asyncio.sleep(0.3)
        await c.ask()
        await c.events(2)
    assert outcomes(c.notebook.events)[1:] == [Outcome.OK]
    assert c.run.errors == []
    assert_conserved(c.notebook.events, c.vendor.bill)


async def test_a_session_that_google_ends_is_resumed_and_read_on() -> None:
    ended_soon = replace(GEMINI_LIVE, serve=partial(gemini_live_stand_in, session_secs=2.0))
    async with case(row=ended_soon) as c:
        await c.ask()
        await c.events()
        await asyncio.sleep(1.6)
        await c.ask()
        await c.events(2)
    first, second = c.notebook.events
    assert second.quantities["input_audio_tokens"] == first.quantities["output_audio_tokens"]
    assert_exact(c)


async def test_a_session_that_is_lost_again_and_again_is_gone() -> None:
    lost_soon = replace(GEMINI_LIVE, serve=partial(gemini_live_stand_in, session_secs=0.05))
    async with case(row=lost_soon) as c:
        await c.run.until(lambda run: len(run.errors) >= 1)
    assert is_gone(c)
    assert c.notebook.events == []


async def test_an_idle_session_costs_nothing() -> None:
    async with case() as c:
        for _ in range(3):
            await c.run.send(*[SILENCE] * 10)
            await asyncio.sleep(0.1)
    assert c.notebook.events == []
    assert c.vendor.bill.lines == []


async def test_a_process_killed_in_mid_output_leaves_what_it_had_begun(tmp_path: Path) -> None:
    """What the next process finds is a copy of the spool at that instant."""
    recorder = spooling(Ledger(), tmp_path / "killed")
    async with GEMINI_LIVE.serve() as vendor:
        vendor.faults.add(SLOW)
        async with live(GEMINI_LIVE, vendor, recorder) as run:
            await Case(run, vendor, Notebook()).ask()
            await run.output(20)
            shutil.copytree(tmp_path / "killed", tmp_path / "next")
            await run.hang_up()
        await recorder.close()
    found = await found_in(tmp_path / "next")
    (event,) = found
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.INTERRUPTED)
    assert event.quantities["output_audio_tokens"]
