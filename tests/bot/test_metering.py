"""Voices and ears: each request counted once, as it was sent, however it ended."""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr

from flow.bot.generation import ChatWatch
from flow.bot.metering import Meter, Service
from flow.bot.services import VENDORS, Build, Choice
from flow.domain.usage import Outcome, Owner, Provenance, Quantities
from flow.sandbox.bill import Line
from flow.sandbox.faults import Fault
from flow.sandbox.openai import OpenAISandbox
from flow.sandbox.server import Served
from flow.vendors.openai import OpenAIClients
from tests.bot.conftest import Notebook

TEXT = "This is a sentence of a reasonable length, spoken by a machine that never tires."


class Bench:
    """Metered services of one call, against a stand-in."""

    def __init__(self, sandbox: OpenAISandbox, build: Build, meters: list[Meter]) -> None:
        self.sandbox = sandbox
        self._build = build
        self.meters = meters

    def voice(self) -> Any:
        make = VENDORS["openai"].tts
        assert make is not None
        service = make(Choice("openai", "gpt-4o-mini-tts", {"voice": "alloy"}), self._build)
        service._sample_rate = 24_000
        return service

    def ears(self) -> Any:
        make = VENDORS["openai"].stt
        assert make is not None
        service = make(Choice("openai", "gpt-4o-transcribe", {"language": "en"}), self._build)
        service._sample_rate = 16_000
        return service

    async def billed(self) -> Line:
        async with asyncio.timeout(5):
            (line,) = await self.sandbox.bill.settled()
        return line


@asynccontextmanager
async def bench(owner: Owner, notebook: Notebook, *faults: Fault) -> AsyncIterator[Bench]:
    sandbox = OpenAISandbox()
    sandbox.faults.add(*faults)
    meters: list[Meter] = []

    def meter(service: Service) -> Meter:
        meters.append(Meter(service, owner, notebook))
        return meters[-1]

    async with Served(sandbox) as url:
        clients = OpenAIClients(SecretStr("sk-fake"), f"{url}/v1", timeout_secs=0.5)
        build = Build(owner, meter, ChatWatch, {"openai": clients})
        try:
            yield Bench(sandbox, build, meters)
        finally:
            await clients.close()


def speech(seconds: float) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes(b"\x10\x20" * int(16_000 * seconds))
    return file.getvalue()


async def run(frames: Any, most: int | None = None) -> None:
    """Read what a service yields; after ``most`` frames close it, as an interruption does."""
    seen = 0
    try:
        async for _ in frames:
            seen += 1
            if seen == most:
                break
    finally:
        await frames.aclose()


async def test_a_spoken_sentence_counts_its_characters_and_its_sound(
    owner: Owner, notebook: Notebook
) -> None:
    async with bench(owner, notebook) as b:
        await run(b.voice().run_tts(TEXT, "c"))
        line = await b.billed()
    (event,) = notebook.events
    assert (event.outcome, event.provenance) == (Outcome.OK, Provenance.MEASURED)
    assert event.quantities.characters == line.amounts.characters == len(TEXT)
    assert event.quantities.audio_seconds == line.amounts.audio_seconds > 1


@pytest.mark.parametrize("frames", [1, 2, 5])
async def test_a_sentence_cut_off_counts_all_its_characters_and_about_all_its_sound(
    frames: int, owner: Owner, notebook: Notebook
) -> None:
    async with bench(owner, notebook) as b:
        await run(b.voice().run_tts(TEXT, "c"), frames)
        line = await b.billed()
    (event,) = notebook.events
    assert (event.outcome, event.provenance) == (Outcome.INTERRUPTED, Provenance.ESTIMATED)
    assert event.quantities.characters == line.amounts.characters
    assert event.quantities.audio_seconds == pytest.approx(
        line.amounts.audio_seconds, rel=Decimal("0.35")
    )


async def test_a_voice_cancelled_before_its_first_sound_is_counted(
    owner: Owner, notebook: Notebook
) -> None:
    async with bench(owner, notebook, Fault(kind="delay", delay_secs=0.3)) as b:
        speaking = asyncio.create_task(run(b.voice().run_tts(TEXT, "c")))
        await asyncio.sleep(0.15)
        speaking.cancel()
        with suppress(asyncio.CancelledError):
            await speaking
    (event,) = notebook.events
    assert (event.outcome, event.provenance) == (Outcome.INTERRUPTED, Provenance.ESTIMATED)
    assert event.quantities.characters == len(TEXT)
    assert not notebook.open


async def test_a_segment_heard_counts_the_seconds_that_were_sent(
    owner: Owner, notebook: Notebook
) -> None:
    async with bench(owner, notebook) as b:
        await run(b.ears().run_stt(speech(1.5)))
        line = await b.billed()
    (event,) = notebook.events
    assert (event.outcome, event.provenance) == (Outcome.OK, Provenance.MEASURED)
    assert event.quantities == Quantities(audio_seconds=Decimal("1.5"))
    assert line.amounts.audio_seconds == Decimal("1.5")


SERVICES = ["voice", "ears"]


def request(b: Bench, service: str) -> Any:
    return b.voice().run_tts(TEXT, "c") if service == "voice" else b.ears().run_stt(speech(1.5))


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_a_refused_request_costs_nothing_but_stands_in_the_ledger(
    status: int, service: str, owner: Owner, notebook: Notebook
) -> None:
    fault = Fault(kind="status", status=status, headers={"retry-after-ms": "1"})
    async with bench(owner, notebook, fault) as b:
        with suppress(Exception):
            await run(request(b, service))
    assert notebook.events
    assert {event.outcome for event in notebook.events} == {Outcome.ERROR}
    assert {event.quantities for event in notebook.events} == {Quantities()}
    assert {e.failure.http_status for e in notebook.events if e.failure} == {status}
    assert not notebook.open


@pytest.mark.parametrize("service", SERVICES)
async def test_a_request_that_fails_once_is_served_and_counted_once(
    service: str, owner: Owner, notebook: Notebook
) -> None:
    fault = Fault(kind="status", status=500, times=1, headers={"retry-after-ms": "1"})
    async with bench(owner, notebook, fault) as b:
        await run(request(b, service))
        await b.billed()
    assert [event.outcome for event in notebook.events] == [Outcome.ERROR, Outcome.OK]
    assert not notebook.open


@pytest.mark.parametrize("service", SERVICES)
async def test_a_request_nobody_answered_in_time_is_counted_as_estimated(
    service: str, owner: Owner, notebook: Notebook
) -> None:
    async with bench(owner, notebook, Fault(kind="hang", times=1)) as b:
        await run(request(b, service))
    unanswered, served = notebook.events
    assert (unanswered.outcome, unanswered.provenance) == (Outcome.ERROR, Provenance.ESTIMATED)
    assert unanswered.quantities.characters == served.quantities.characters
    assert unanswered.quantities.audio_seconds > 0


async def test_a_voice_whose_sound_breaks_off_is_counted_as_failed(
    owner: Owner, notebook: Notebook
) -> None:
    async with bench(owner, notebook, Fault(kind="cut", chunks=3, route="*/speech")) as b:
        with suppress(Exception):
            await run(b.voice().run_tts(TEXT, "c"))
        line = await b.billed()
    assert sum(event.quantities.characters for event in notebook.events) == len(TEXT)
    assert {event.outcome for event in notebook.events} == {Outcome.ERROR}
    assert line.amounts.characters == len(TEXT)
    assert not notebook.open


async def test_a_transcription_whose_answer_breaks_off_was_still_served(
    owner: Owner, notebook: Notebook
) -> None:
    async with bench(owner, notebook, Fault(kind="cut", chunks=1, times=1)) as b:
        with suppress(Exception):
            await run(b.ears().run_stt(speech(1.5)))
        lines = await b.sandbox.bill.settled()
    heard = sum(event.quantities.audio_seconds for event in notebook.events)
    assert heard == sum(line.amounts.audio_seconds for line in lines) > 0
    assert not notebook.open


async def test_an_answer_that_makes_no_sense_was_served_for_all_that_is_known(
    owner: Owner, notebook: Notebook
) -> None:
    refused = Fault(kind="status", status=500, times=1, headers={"retry-after-ms": "1"})
    async with bench(owner, notebook, refused, Fault(kind="malformed", skip=1)) as b:
        with suppress(Exception):
            await run(b.ears().run_stt(speech(1.5)))
    first, unread = notebook.events
    assert first.failure is not None
    assert (first.failure.http_status, first.quantities) == (500, Quantities())
    assert (unread.outcome, unread.provenance) == (Outcome.ERROR, Provenance.ESTIMATED)
    assert unread.quantities.audio_seconds == Decimal("1.5")
    assert not notebook.open


async def test_work_still_under_way_when_the_call_ends_is_counted(
    owner: Owner, notebook: Notebook
) -> None:
    async with bench(owner, notebook) as b:
        frames = b.voice().run_tts(TEXT, "c")
        await anext(frames)
        for meter in b.meters:
            meter.close()
        await frames.aclose()
    (event,) = notebook.events
    assert event.outcome is Outcome.INTERRUPTED
    assert event.quantities.characters == len(TEXT)
