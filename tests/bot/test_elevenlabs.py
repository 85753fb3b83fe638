"""ElevenLabs as a vendor: its services as Flow makes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from flow.bot.services import CallServices
from flow.bot.vendors.elevenlabs import USUAL_VOICE, VENDOR
from flow.bot.vendors.spec import Choice
from flow.domain.calls.bot_part import BotPart
from flow.sandbox.elevenlabs.app import ElevenLabsSandbox
from flow.sandbox.server import Served
from flow.vendors.model_endpoint import Endpoint
from tests.contract.service_run import PATIENCE_SECS, ServiceRun, running
from tests.events import an_owner
from tests.notebook import Notebook

FLASH, V4, SCRIBE = "eleven_flash_v2_5", "eleven_v4_turbo", "scribe_v2_realtime"


@dataclass
class World:
    """A service of one call on a stand-in."""

    run: ServiceRun
    sandbox: ElevenLabsSandbox
    notebook: Notebook

    @property
    def dialled(self) -> str:
        """The address of its connection."""
        return str(self.run.service._websocket.request.path)  # type: ignore[attr-defined]

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.dialled).query)


@asynccontextmanager
async def world(part: BotPart, model: str, path: str = "", **options: Any) -> AsyncIterator[World]:
    sandbox, notebook = ElevenLabsSandbox(), Notebook()
    async with Served(sandbox) as url:
        endpoint = Endpoint(SecretStr("a key"), url + path, timeout_secs=2)
        services = CallServices(an_owner(), notebook, {"elevenlabs": endpoint})
        async with running(services, part, Choice("elevenlabs", model, options)) as run:
            yield World(run, sandbox, notebook)
        await endpoint.close()
        async with asyncio.timeout(PATIENCE_SECS):
            await sandbox.bill.settled()


@pytest.mark.parametrize(
    ("voice", "path"),
    [
        (None, f"/v1/text-to-speech/{USUAL_VOICE}/multi-stream-input"),
        ("pNInz6obpgDQGcFmaJgB", "/v1/text-to-speech/pNInz6obpgDQGcFmaJgB/multi-stream-input"),
        ("a?b=c&d", "/v1/text-to-speech/a%3Fb%3Dc%26d/multi-stream-input"),
    ],
)
async def test_a_call_has_the_voice_that_its_join_names(voice: str | None, path: str) -> None:
    async with world(BotPart.TTS, FLASH, voice=voice) as w:
        assert urlsplit(w.dialled).path == path
        assert w.query["model_id"] == [FLASH]
        assert w.query["output_format"] == ["pcm_24000"]
        assert w.query["auto_mode"] == ["true"]


@pytest.mark.parametrize(
    ("model", "language", "expected"),
    [
        (FLASH, "de", ["de"]),
        (FLASH, "en-US", ["en"]),
        (FLASH, None, None),
        ("eleven_multilingual_v2", "de", None),
        (V4, "de", ["de"]),
    ],
)
async def test_a_voice_is_told_the_language_where_its_model_takes_one(
    model: str, language: str | None, expected: list[str] | None
) -> None:
    async with world(BotPart.TTS, model, language=language) as w:
        assert w.query.get("language_code") == expected


@pytest.mark.parametrize("model", ["eleven_v3", "eleven_v3_conversational", "eleven_v4", V4])
async def test_eleven_v3_and_later_are_spoken_as_a_dialogue(model: str) -> None:
    async with world(BotPart.TTS, model, voice="a voice") as w:
        assert urlsplit(w.dialled).path == "/v1/text-to-dialogue/multi-stream-input"
        assert w.query["model_id"] == [model]
        await w.run.ask()
        await w.run.finished()
        assert w.run.errors == []


async def test_a_model_cannot_change_what_else_is_asked_for() -> None:
    async with world(BotPart.TTS, f"{FLASH}&output_format=mp3_44100_192") as w:
        assert w.query["output_format"] == ["pcm_24000"]


@pytest.mark.parametrize(("language", "expected"), [("de", ["deu"]), (None, None)])
async def test_the_ears_listen_where_they_are_told_to(
    language: str | None, expected: list[str] | None
) -> None:
    async with world(BotPart.STT, SCRIBE, language=language) as w:
        assert urlsplit(w.dialled).path == "/v1/speech-to-text/realtime"
        assert w.query["model_id"] == [SCRIBE]
        assert w.query["audio_format"] == ["pcm_16000"]
        assert w.query.get("language_code") == expected


async def test_the_silence_that_keeps_a_connection_open_is_counted_as_it_is_billed() -> None:
    async with world(BotPart.STT, SCRIBE) as w:
        for _ in range(3):
            await w.run.service._send_keepalive(bytes(3_200))  # type: ignore[attr-defined]
    [billed] = w.sandbox.bill.lines
    assert billed.amounts.audio_seconds == Decimal("0.3")
    [event] = w.notebook.events
    assert event.quantities["audio_seconds"] == Decimal("0.3")


async def test_a_context_that_is_only_kept_open_costs_nothing() -> None:
    async with world(BotPart.TTS, FLASH) as w:
        await w.run.service._send_keepalive()  # type: ignore[attr-defined]
    assert w.sandbox.bill.lines == []
    assert w.notebook.begun == []


def test_it_is_found_by_its_key_and_needs_nothing_more() -> None:
    assert (VENDOR.key, VENDOR.base_url_variable) == ("ELEVENLABS_API_KEY", "ELEVENLABS_BASE_URL")
    assert (VENDOR.extra, VENDOR.missing) == (None, None)
