"""Cartesia as a vendor: its services as Flow makes them, and their account against its bill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from pipecat.frames.frames import (
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
)
from pydantic import SecretStr

from flow.bot.join_defaults import Resolver
from flow.bot.services import CallServices
from flow.bot.vendors.cartesia import USUAL_VOICE, VENDOR
from flow.bot.vendors.spec import Choice
from flow.domain.calls.bot_part import BotPart
from flow.domain.calls.join_request import JoinRequest
from flow.domain.products.product import Product, Products
from flow.domain.usage.events import Outcome, Provenance
from flow.metering.wires.cartesia_speech import MAY_HAVE_BEGUN
from flow.sandbox.cartesia.app import CartesiaSandbox
from flow.sandbox.faults import Fault
from flow.sandbox.server import Served
from flow.sandbox.speech.voice_pace import VoicePace
from flow.vendors.model_endpoint import Endpoint
from tests.contract.service_run import PATIENCE_SECS, ServiceRun, running
from tests.events import an_owner
from tests.notebook import Notebook

OWNER = an_owner(team_id="team_a")
VOICE = Choice("cartesia", "sonic-3.6", {"voice": None, "language": "en"})
SENTENCES = (
    "This is the first of three sentences. ",
    "The second one is somewhat longer than the first. ",
    "And here is the third.",
)


@pytest.fixture
async def services() -> AsyncIterator[Callable[[str], CallServices]]:
    endpoints = []

    def at(url: str) -> CallServices:
        endpoints.append(Endpoint(SecretStr("a key"), url, timeout_secs=2))
        return CallServices(OWNER, Notebook(), {"cartesia": endpoints[-1]})

    yield at
    for endpoint in endpoints:
        await endpoint.close()


@pytest.mark.parametrize(
    ("part", "model", "path"),
    [
        (BotPart.TTS, "sonic-3.6", "/eu/tts/websocket"),
        (BotPart.STT, "ink-whisper", "/eu/stt/websocket"),
        (BotPart.STT, "ink-2", "/eu/stt/turns/websocket"),
    ],
)
async def test_a_service_dials_where_the_base_url_says(
    services: Callable[[str], CallServices], part: BotPart, model: str, path: str
) -> None:
    sandbox = CartesiaSandbox()
    async with Served(sandbox) as url:
        service: Any = services(f"{url}/eu").build(part, Choice("cartesia", model, {}))
        service._sample_rate = 16_000  # known once a pipeline starts
        await service._connect_websocket()
        assert [exchange.path for exchange in sandbox.requests] == [path]


@pytest.mark.parametrize(
    ("options", "voice", "language"),
    [
        ({}, USUAL_VOICE, "en"),
        ({"voice": None, "language": None}, USUAL_VOICE, "en"),
        ({"voice": "a voice", "language": "de-DE"}, "a voice", "de-DE"),
    ],
)
async def test_a_voice_speaks_as_the_join_says(
    services: Callable[[str], CallServices], options: dict[str, Any], voice: str, language: str
) -> None:
    choice = Choice("cartesia", "sonic-3.6", options)
    service: Any = services("https://api.cartesia.ai").build(BotPart.TTS, choice)
    settings = service._settings
    assert (settings.model, settings.voice, settings.language) == ("sonic-3.6", voice, language)


@pytest.mark.parametrize(("language", "asked"), [(None, "en"), ("fr", "fr")])
async def test_ears_listen_in_the_language_of_the_join(
    services: Callable[[str], CallServices], language: str | None, asked: str
) -> None:
    choice = Choice("cartesia", "ink-whisper", {"language": language})
    service: Any = services("https://api.cartesia.ai").build(BotPart.STT, choice)
    assert (service._settings.model, service._settings.language) == ("ink-whisper", asked)


@pytest.mark.parametrize(
    ("model", "tells_turns"),
    [("ink-whisper", False), ("ink-whisper-2025-06-04", False), ("ink-2", True)],
)
def test_the_model_says_who_tells_turns(model: str, tells_turns: bool) -> None:
    spec = VENDOR.service(BotPart.STT, Choice("cartesia", model, {}))
    assert spec is not None
    assert spec.tells_turns is tells_turns


def test_it_needs_no_package_of_its_own() -> None:
    assert VENDOR.missing is None


def test_a_join_needs_no_voice() -> None:
    llm, stt = ({"provider": "openai", "model": model} for model in ("gpt-4.1", "whisper-1"))
    speaking = {"provider": "openai", "model": "tts-1", "voice": "alloy"}
    defaults = {"stt": stt, "llm": llm, "tts": speaking, "realtime": speaking}
    products = [Product("voice_bot", billable=True), Product("insights", True, calls=False)]
    resolver = Resolver(Products(products), defaults, ["openai", "cartesia"])
    asked = {"provider": "cartesia", "model": "sonic-3.6"}
    resolved = resolver.resolve(JoinRequest.model_validate({"bot": {"tts": asked}}))
    assert (resolved.bot.tts.provider, resolved.bot.tts.voice) == ("cartesia", None)


@dataclass
class Call:
    sandbox: CartesiaSandbox
    notebook: Notebook
    run: ServiceRun

    async def say(self, *sentences: str) -> None:
        """The model says something."""
        texts = [LLMTextFrame(sentence) for sentence in sentences]
        await self.run.send(LLMFullResponseStartFrame(), *texts, LLMFullResponseEndFrame())

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECS):
            while not condition():
                await asyncio.sleep(0.005)

    @property
    def characters(self) -> list[int]:
        """Of each event, in the order of their ends."""
        return [event.quantities.count("characters") for event in self.notebook.events]


@asynccontextmanager
async def call(pace: VoicePace, *faults: Fault) -> AsyncIterator[Call]:
    """A call with the voice; when the block is left it is over, and the bill made out."""
    sandbox, notebook = CartesiaSandbox(voice_pace=pace), Notebook()
    sandbox.faults.add(*faults)
    async with Served(sandbox) as url:
        endpoint = Endpoint(SecretStr("a key"), url, timeout_secs=2)
        services = CallServices(OWNER, notebook, {"cartesia": endpoint})
        async with running(services, BotPart.TTS, VOICE) as run:
            yield Call(sandbox, notebook, run)
        async with asyncio.timeout(PATIENCE_SECS):
            await sandbox.bill.settled()
        await endpoint.close()
    assert notebook.open == set()


def billed(sandbox: CartesiaSandbox) -> int:
    return sum(line.amounts.characters for line in sandbox.bill.lines)


def lengths(*sentences: str) -> int:
    """What Pipecat sends of each, without the blank behind it."""
    return sum(len(sentence.strip()) for sentence in sentences)


async def test_a_turn_of_several_sentences_is_one_event() -> None:
    async with call(VoicePace(times_real_time=30)) as c:
        await c.say(*SENTENCES)
        await c.until(lambda: len(c.notebook.events) == 1)
    (event,) = c.notebook.events
    assert (event.outcome, event.provenance) == (Outcome.OK, Provenance.MEASURED)
    assert c.characters == [billed(c.sandbox)]
    assert billed(c.sandbox) >= lengths(*SENTENCES)
    seconds = c.sandbox.bill.lines[0].amounts.audio_seconds
    assert event.quantities["audio_seconds"] == pytest.approx(seconds)


async def test_a_barge_in_spares_the_sentences_that_were_not_begun() -> None:
    async with call(VoicePace(times_real_time=5)) as c:
        await c.say(*SENTENCES)
        await c.run.output()
        await c.run.interrupt()
        await c.until(lambda: len(c.notebook.events) == 1)
        await c.say("Yes?")
        await c.until(lambda: len(c.notebook.events) == 2)
    cut, answer = c.notebook.events
    assert (cut.outcome, cut.provenance) == (Outcome.INTERRUPTED, Provenance.MEASURED)
    assert (answer.outcome, answer.provenance) == (Outcome.OK, Provenance.MEASURED)
    assert lengths(*SENTENCES[:1]) <= c.characters[0] < lengths(*SENTENCES[:2])
    assert sum(c.characters) == billed(c.sandbox)


async def test_a_barge_in_before_any_sound_costs_nothing() -> None:
    async with call(VoicePace(first_sound_secs=3600)) as c:
        await c.say(*SENTENCES)
        await c.until(lambda: bool(c.notebook.begun))
        await c.run.interrupt()
        await c.until(lambda: len(c.notebook.events) == 1)
    (event,) = c.notebook.events
    assert (event.outcome, event.provenance) == (Outcome.INTERRUPTED, Provenance.MEASURED)
    assert (c.characters, billed(c.sandbox)) == ([0], 0)


async def test_hanging_up_in_mid_turn_counts_what_had_begun() -> None:
    async with call(VoicePace(times_real_time=2)) as c:
        await c.say(*SENTENCES)
        await c.run.output()
        await c.run.hang_up()
    (event,) = c.notebook.events
    assert (event.outcome, event.provenance) == (Outcome.INTERRUPTED, Provenance.ESTIMATED)
    assert event.note == MAY_HAVE_BEGUN
    assert c.characters == [billed(c.sandbox)]


async def test_a_sentence_at_which_the_vendor_fails_is_free() -> None:
    failing = Fault(kind="error_chunk", chunks=1)
    async with call(VoicePace(), failing) as c:
        await c.say(SENTENCES[0])
        await c.until(lambda: len(c.notebook.events) == 1)
    (event,) = c.notebook.events
    assert (event.outcome, c.characters, billed(c.sandbox)) == (Outcome.ERROR, [0], 0)
    assert event.failure is not None
    assert event.failure.http_status == 500
