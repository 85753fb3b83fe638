"""Cartesia: text to speech (Sonic) and speech to text (Ink) over WebSockets."""

from __future__ import annotations

from typing import cast

from pipecat.processors.frame_processor import FrameProcessor

from flow.bot.vendors.metered_sockets import socket_url, with_socket_tap
from flow.bot.vendors.spec import Build, Choice, ServiceSpec, Vendor, pipecat_class, spoken_language
from flow.domain.calls.bot_part import BotPart
from flow.metering.wires.cartesia_speech import CartesiaSpeech
from flow.metering.wires.cartesia_transcription import CartesiaTranscription
from flow.vendors.key_requests import get

USUAL_VOICE = "f786b574-daa5-4673-aa0c-cbe3e8534c02"
"""Katie, which the vendor recommends for agents
(https://docs.cartesia.ai/build-with-cartesia/tts-models/sonic-3-5)."""


def _speech(build: Build) -> FrameProcessor:
    kind = pipecat_class("cartesia.tts:CartesiaTTSService")
    options = build.choice.options
    made = with_socket_tap(kind)(
        build.socket,
        api_key=build.endpoint.api_key,
        url=socket_url(build.endpoint.base_url, "/tts/websocket"),
        name=build.name,
        settings=kind.Settings(
            model=build.choice.model,
            voice=options.get("voice") or USUAL_VOICE,
            **spoken_language(build.choice),
        ),
    )
    return cast(FrameProcessor, made)


def _transcription(build: Build) -> FrameProcessor:
    kind = pipecat_class("cartesia.stt:CartesiaSTTService")
    address = socket_url(build.endpoint.base_url, "/stt/websocket")
    made = with_socket_tap(kind)(
        build.socket,
        # Pipecat takes a host alone.
        rewrite=lambda url: f"{address}?{url.partition('?')[2]}",
        api_key=build.endpoint.api_key,
        name=build.name,
        settings=kind.Settings(model=build.choice.model, **spoken_language(build.choice)),
    )
    return cast(FrameProcessor, made)


def _turns(build: Build) -> FrameProcessor:
    kind = pipecat_class("cartesia.turns.stt:CartesiaTurnsSTTService")
    made = with_socket_tap(kind)(
        build.socket,
        api_key=build.endpoint.api_key,
        url=socket_url(build.endpoint.base_url, "/stt/turns/websocket"),
        name=build.name,
        settings=kind.Settings(model=build.choice.model),
    )
    return cast(FrameProcessor, made)


def tells_turns(choice: Choice) -> bool:
    """Whether a model of speech to text is one that tells turns, which is for English alone."""
    return choice.model.startswith("ink-2")


VENDOR = Vendor(
    name="cartesia",
    key="CARTESIA_API_KEY",
    base_url="https://api.cartesia.ai",
    services=(
        ServiceSpec(BotPart.TTS, _speech, socket_wire=CartesiaSpeech),
        ServiceSpec(
            BotPart.STT,
            _turns,
            socket_wire=CartesiaTranscription,
            serves=tells_turns,
            tells_turns=True,
        ),
        ServiceSpec(BotPart.STT, _transcription, socket_wire=CartesiaTranscription),
    ),
    key_request=get("/voices?limit=1", "X-API-Key", "", Cartesia_Version="2025-04-16"),
)
