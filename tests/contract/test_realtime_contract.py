"""The contract of speech-to-speech services: whatever happens to a session, what it cost is in the
ledger as the vendor bills it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from pipecat.frames.frames import BotStoppedSpeakingFrame, InputAudioRawFrame

from flow.bot.services import CallServices
from flow.bot.vendors import openai_realtime_door
from flow.domain.usage.events import Outcome, Provenance, Quantities, UsageEvent
from flow.domain.usage.token_estimates import warm_up
from flow.domain.usage.units import Kind
from flow.metering.taps import socket as socket_tap
from flow.sandbox.bill import Amounts, Bill, Line
from flow.sandbox.faults import Fault
from tests.contract.service_run import PATIENCE_SECS, RATE_IN, ServiceRun, running
from tests.contract.spool import Ledger, found_in, spooling
from tests.contract.vendors import REALTIME_ROWS, Row, Running, assert_conserved
from tests.events import an_owner
from tests.notebook import Notebook

OWNER = an_owner(team_id="team_a")
FRAME_SECS = 0.1
RETRIES, RETRY_SECS = 5, 3.0
LOUD = b"\x10\x20" * int(RATE_IN * FRAME_SECS)
QUIET = bytes(len(LOUD))
SLOW = Fault(kind="slow_tokens", delay_secs=0.02)
LLM, STT = Kind.LLM, Kind.STT

every_row = pytest.mark.parametrize("row", REALTIME_ROWS, ids=lambda row: row.name)


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm_up()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_realtime_door, "DIAL_WAITS", (0.01, 0.01, 0.01))
    monkeypatch.setattr(socket_tap, "REPORT_SECS", 0.5)


@dataclass
class Case:
    run: ServiceRun
    vendor: Running
    notebook: Notebook

    async def speak(self, seconds: float = 1.0) -> None:
        """The caller speaks, and says no more."""
        frames = [LOUD] * round(seconds / FRAME_SECS)
        await self.run.send(*(InputAudioRawFrame(sound, RATE_IN, 1) for sound in frames))

    async def ask(self) -> None:
        """The caller speaks, and waits for an answer."""
        await self.speak()
        await self.run.send(*(InputAudioRawFrame(QUIET, RATE_IN, 1) for _ in range(6)))

    async def events(self, kind: Kind, count: int = 1) -> list[UsageEvent]:
        """The events of a kind, once there are ``count``."""
        return await self._until(lambda: of(self.notebook.events, kind), count)

    async def begun(self, count: int = 1) -> None:
        """Wait until the model has begun with so many responses."""
        await self._until(
            lambda: list({event.id: event for event in of(self.notebook.begun, LLM)}.values()),
            count,
        )

    async def _until(self, seen: Callable[[], list[UsageEvent]], count: int) -> list[UsageEvent]:
        async with asyncio.timeout(PATIENCE_SECS):
            while len(seen()) < count:
                await asyncio.sleep(0.005)
        return seen()


@asynccontextmanager
async def case(row: Row, *faults: Fault) -> AsyncIterator[Case]:
    """A call with the service; afterwards it is over, and everything is in the notebook."""
    notebook = Notebook()
    async with row.serve() as vendor:
        vendor.faults.add(*faults)
        services = CallServices(OWNER, notebook, {row.vendor: vendor.endpoint})
        async with running(services, row.part, row.choice) as run:
            yield Case(run, vendor, notebook)
        async with asyncio.timeout(PATIENCE_SECS):
            await vendor.bill.settled()
    assert notebook.open == set()


def of(events: Sequence[UsageEvent], kind: Kind) -> list[UsageEvent]:
    """The events of a kind of work that used something."""
    return [event for event in events if event.kind is kind and event.quantities]


def outcomes(events: Sequence[UsageEvent]) -> list[Outcome]:
    return [event.outcome for event in events]


def billed(lines: Sequence[Line]) -> list[tuple[int, int, int, int]]:
    """Of each response: what was read as sound, from the cache of that, and made of both."""
    amounts: list[Amounts] = [line.amounts for line in lines if line.kind == "llm"]
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
        for q in (event.quantities for event in of(events, LLM))
    ]


def assert_exact(c: Case) -> None:
    """Every token is in the ledger as the vendor has it, and reported."""
    events = c.notebook.events
    assert {event.provenance for event in events} == {Provenance.REPORTED}
    assert_conserved(events, c.vendor.bill)
    assert accounted(events) == billed(c.vendor.bill.lines)


@every_row
async def test_whole_turns_are_counted_as_they_are_billed(row: Row) -> None:
    async with case(row) as c:
        for n in range(3):
            await c.ask()
            await c.events(LLM, n + 1)
            await c.events(STT, n + 1)
            await c.run.send(BotStoppedSpeakingFrame())
    events = c.notebook.events
    assert set(outcomes(events)) == {Outcome.OK}
    assert {event.provider for event in events} == {row.vendor}
    assert {event.requested_model for event in of(events, LLM)} == {row.model}
    assert {event.model for event in events} == {line.model for line in c.vendor.bill.lines}
    assert all(event.time_to_first_token_secs is not None for event in events)
    assert all(event.note is None for event in events)
    assert_exact(c)
    # The conversation is read again and again, from the cache as far as it goes.
    read = [cached for _, cached, *_ in accounted(events)]
    assert read[0] == 0 < read[-1]


@every_row
async def test_a_barge_in_before_any_output(row: Row) -> None:
    async with case(row, Fault(kind="slow_tokens", delay_secs=30)) as c:
        await c.ask()
        await c.begun()
        await c.speak()
        (event,) = await c.events(LLM)
        assert event.outcome is Outcome.INTERRUPTED
        await c.events(STT)
    assert_exact(c)


@every_row
async def test_a_barge_in_in_mid_output(row: Row) -> None:
    async with case(row, SLOW) as c:
        await c.ask()
        await c.run.output(3)
        await c.speak()
        (event,) = await c.events(LLM)
        assert event.outcome is Outcome.INTERRUPTED
        assert event.quantities["output_audio_tokens"]
        await c.run.send(*(InputAudioRawFrame(QUIET, RATE_IN, 1) for _ in range(6)))
        await c.begun(2)
        await c.events(STT, 2)
    assert outcomes(of(c.notebook.events, LLM)) == [Outcome.INTERRUPTED] * 2
    assert_exact(c)


@every_row
@pytest.mark.parametrize("has_begun", [False, True])
async def test_hanging_up_on_a_response_cancels_it_and_keeps_its_account(
    row: Row, has_begun: bool
) -> None:
    slow = SLOW if has_begun else Fault(kind="slow_tokens", delay_secs=30)
    async with case(row, slow) as c:
        await c.ask()
        await (c.run.output(3) if has_begun else c.begun())
        await c.events(STT)
        await c.run.hang_up()
    (event,) = of(c.notebook.events, LLM)
    assert event.outcome is Outcome.INTERRUPTED
    assert_exact(c)


@every_row
@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_a_refused_handshake_costs_nothing_and_stands_in_the_ledger(
    row: Row, status: int
) -> None:
    async with case(row, Fault(kind="status", status=status)) as c:
        await c.run.until(lambda run: len(run.errors) >= 1)
    events = c.notebook.events
    assert set(outcomes(events)) == {Outcome.ERROR}
    assert {event.quantities for event in events} == {Quantities()}
    assert {event.failure and event.failure.http_status for event in events} == {status}
    assert c.vendor.bill.lines == []


BROKEN = {
    "cut": Fault(kind="cut", chunks=20, times=1),
    "1001": Fault(kind="close", code=1001, chunks=20, times=1),
    "1011": Fault(kind="close", code=1011, chunks=20, times=1),
    "malformed": Fault(kind="malformed", chunks=20, times=1),
}


@every_row
@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
async def test_the_conversation_goes_on_in_another_session(row: Row, fault: Fault) -> None:
    async with case(row, SLOW, fault) as c:
        await c.ask()
        (broken,) = await c.events(LLM)
        assert broken.outcome in {Outcome.ERROR, Outcome.INTERRUPTED}
        assert broken.provenance is Provenance.ESTIMATED
        assert broken.quantities["output_audio_tokens"]
        c.vendor.faults.clear()
        await _until_it_works(c)
    assert outcomes(of(c.notebook.events, LLM))[-1] is Outcome.OK
    assert_conserved(of(c.notebook.events, LLM), _only(c, "llm"))
    assert_conserved(of(c.notebook.events, STT), _only(c, "stt"))


async def _until_it_works(c: Case) -> None:
    """Speak until there is an answer: what is said while there is no session is lost."""
    heard = len(of(c.notebook.events, STT))
    for _ in range(RETRIES):
        await c.ask()
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY_SECS):
                await c.events(STT, heard + 1)
                await c.events(LLM, 2)
                return
    raise AssertionError("there is no other session")


@every_row
async def test_a_session_that_stalls(row: Row) -> None:
    async with case(row, SLOW, Fault(kind="stall", chunks=20)) as c:
        await c.ask()
        await c.run.output()
        await asyncio.sleep(0.2)
    (event,) = of(c.notebook.events, LLM)
    assert (event.outcome, event.provenance) == (Outcome.INTERRUPTED, Provenance.ESTIMATED)
    assert event.quantities["output_audio_tokens"]


FAILED = {
    "failed": (Fault(kind="failed_response", chunks=10), Provenance.REPORTED),
    "error": (Fault(kind="error_chunk", chunks=10), Provenance.ESTIMATED),
    "no usage": (Fault(kind="no_usage"), Provenance.ESTIMATED),
}


@every_row
@pytest.mark.parametrize("name", FAILED)
async def test_a_response_that_fails_or_does_not_report(row: Row, name: str) -> None:
    fault, provenance = FAILED[name]
    async with case(row, fault) as c:
        await c.ask()
        (event,) = await c.events(LLM)
        await c.events(STT)
    expected = Outcome.OK if fault.kind == "no_usage" else Outcome.ERROR
    assert (event.outcome, event.provenance) == (expected, provenance)
    assert_conserved(of(c.notebook.events, LLM), _only(c, "llm"))


@every_row
async def test_what_cannot_be_transcribed_is_on_record(row: Row) -> None:
    async with case(row, Fault(kind="failed_transcription")) as c:
        await c.ask()
        (event,) = await c.events(STT)
        await c.events(LLM)
    assert event.outcome is Outcome.ERROR
    assert_conserved(of(c.notebook.events, STT), _only(c, "stt"))


@every_row
async def test_an_idle_session_costs_nothing(row: Row) -> None:
    async with case(row) as c:
        for _ in range(3):
            await c.run.send(*(InputAudioRawFrame(QUIET, RATE_IN, 1) for _ in range(10)))
            await asyncio.sleep(0.1)
    assert c.notebook.events == []
    assert c.vendor.bill.lines == []


@every_row
async def test_a_process_killed_in_mid_output_leaves_what_it_had_begun(
    row: Row, tmp_path: Path
) -> None:
    """What the next process finds is a copy of the spool at that instant."""
    recorder = spooling(Ledger(), tmp_path / "killed")
    async with row.serve() as vendor:
        vendor.faults.add(SLOW)
        services = CallServices(OWNER, recorder, {row.vendor: vendor.endpoint})
        async with running(services, row.part, row.choice) as run:
            await Case(run, vendor, Notebook()).ask()
            await run.output(20)
            shutil.copytree(tmp_path / "killed", tmp_path / "next")
            await run.hang_up()
        await recorder.close()
    found = await found_in(tmp_path / "next")
    (event,) = of(found, LLM)
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.INTERRUPTED)
    assert event.quantities["output_audio_tokens"]


def _only(c: Case, kind: str) -> Bill:
    """The vendor's bill without other kinds of work."""
    bill = Bill()
    bill.lines = [line for line in c.vendor.bill.lines if line.kind == kind]
    return bill
