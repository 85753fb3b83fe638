"""ElevenLabs: text to speech and real-time speech to text, over WebSockets."""

from __future__ import annotations

from functools import cache
from typing import Any, cast
from urllib.parse import quote

import httpx2
from pipecat.processors.frame_processor import FrameProcessor

from flow.bot.vendors.metered_sockets import Rewrite, socket_url, with_socket_tap
from flow.bot.vendors.spec import Build, Choice, ServiceSpec, Vendor, pipecat_class, spoken_language
from flow.domain.calls.bot_part import BotPart
from flow.metering.wires.elevenlabs_realtime import ElevenLabsRealtime
from flow.metering.wires.elevenlabs_speech import ElevenLabsSpeech
from flow.vendors.key_requests import get

USUAL_VOICE = "JBFqnCBsd6RMkjVDRZzb"
"""The voice of ElevenLabs' quickstart, which every account has."""
DIALOGUE_MODELS = ("eleven_v3", "eleven_v4")
"""Models that are served by Text to Dialogue alone, by how they begin
(https://elevenlabs.io/docs/api-reference/text-to-dialogue/multi-context)."""


def _is_dialogue(choice: Choice) -> bool:
    return choice.model.startswith(DIALOGUE_MODELS)


def _is_speech(choice: Choice) -> bool:
    return not _is_dialogue(choice)


def _speech(build: Build) -> FrameProcessor:
    return _voice(build, "elevenlabs.tts:ElevenLabsTTSService", _in_address(_voice_id(build)))


def _dialogue(build: Build) -> FrameProcessor:
    return _voice(build, "elevenlabs.dialogue.tts:ElevenLabsDialogueTTSService", _voice_id(build))


def _voice_id(build: Build) -> str:
    return str(build.choice.options.get("voice") or USUAL_VOICE)


def _voice(build: Build, service: str, voice: str) -> FrameProcessor:
    from pipecat.services.elevenlabs.tts_base import ELEVENLABS_MODEL_LANGUAGES

    kind, choice = pipecat_class(service), build.choice
    # The others take no language, and tell by themselves which one it is.
    takes_language = choice.model in ELEVENLABS_MODEL_LANGUAGES
    made = _interruptible(kind)(
        build.socket,
        api_key=build.endpoint.api_key,
        url=socket_url(build.endpoint.base_url),
        name=build.name,
        settings=kind.Settings(
            model=_in_address(choice.model),
            voice=voice,
            **(spoken_language(choice) if takes_language else {}),
        ),
    )
    return cast(FrameProcessor, made)


@cache
def _interruptible(kind: Any) -> Any:
    """A voice that tells its tap when the caller interrupts it."""

    class Interruptible(with_socket_tap(kind)):  # type: ignore[misc]
        async def on_audio_context_interrupted(self, context_id: str) -> None:
            self._tap.abandoned(context_id)
            await super().on_audio_context_interrupted(context_id)

    Interruptible.__name__ = Interruptible.__qualname__ = kind.__name__
    return Interruptible


def _transcription(build: Build) -> FrameProcessor:
    kind = pipecat_class("elevenlabs.stt:ElevenLabsRealtimeSTTService")
    made = with_socket_tap(kind)(
        build.socket,
        rewrite=_dialled_at(build.endpoint.base_url),
        api_key=build.endpoint.api_key,
        base_url=socket_url(build.endpoint.base_url).partition("://")[2],
        name=build.name,
        settings=kind.Settings(
            model=_in_address(build.choice.model), **spoken_language(build.choice)
        ),
    )
    return cast(FrameProcessor, made)


def _in_address(name: str) -> str:
    """Pipecat puts names into the address as they are."""
    return quote(name, safe="")


def _dialled_at(base_url: httpx2.URL) -> Rewrite:
    """Pipecat knows encrypted connections only."""
    scheme = socket_url(base_url).partition("://")[0]
    return lambda url: f"{scheme}{url.removeprefix('wss')}"


VENDOR = Vendor(
    name="elevenlabs",
    key="ELEVENLABS_API_KEY",
    base_url="https://api.elevenlabs.io",
    services=(
        ServiceSpec(BotPart.TTS, _speech, socket_wire=ElevenLabsSpeech, serves=_is_speech),
        ServiceSpec(BotPart.TTS, _dialogue, socket_wire=ElevenLabsSpeech, serves=_is_dialogue),
        ServiceSpec(BotPart.STT, _transcription, socket_wire=ElevenLabsRealtime),
    ),
    key_request=get("/v1/models", "xi-api-key", ""),
)
