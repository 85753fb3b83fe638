"""Deepgram: Nova and Flux hear, Aura speaks, all over WebSockets."""

from __future__ import annotations

import re
from typing import cast

from pipecat.processors.frame_processor import FrameProcessor

from flow.bot.vendors.socket_doors import socket_url, with_socket_tap
from flow.bot.vendors.spec import Build, Choice, ServiceSpec, Vendor
from flow.domain.calls.bot_part import BotPart
from flow.metering.wires.deepgram_speak import DeepgramSpeak

_AURA = re.compile(r"(?P<family>aura(?:-2)?)(?:-(?P<name>[a-z]+)-(?P<language>[a-z]{2}))?")
_VOICES = {
    "aura": {"en": "asteria"},
    "aura-2": {
        "en": "thalia",
        "de": "viktoria",
        "es": "celeste",
        "fr": "agathe",
        "it": "livia",
        "ja": "fujin",
        "nl": "rhea",
    },
}
"""By family and language, the voice where none is asked for.

https://developers.deepgram.com/docs/tts-models
"""


def _speech(build: Build) -> FrameProcessor:
    from pipecat.services.deepgram.tts import DeepgramTTSService

    service = with_socket_tap(DeepgramTTSService)(
        build.socket,
        api_key=build.endpoint.api_key,
        base_url=socket_url(build.endpoint.base_url),
        name=build.name,
        settings=DeepgramTTSService.Settings(voice=voice_of(build.choice)),
    )
    return cast(FrameProcessor, service)


def voice_of(choice: Choice) -> str:
    """What Deepgram calls the voice, which is its model: ``aura-2-thalia-en``.

    A join names all of it, as its voice or as its model; or a family as its model (``aura-2``)
    and, if it likes, a name as its voice (``thalia``), which speaks the bot's language then.
    """
    model = _AURA.fullmatch(choice.model)
    assert model is not None, "another service would have been taken"
    voice = str(choice.options.get("voice") or "").lower()
    if _AURA.fullmatch(voice):
        return voice
    if not voice and model["name"]:
        return choice.model
    family = model["family"]
    language = str(choice.options.get("language") or "en").partition("-")[0].lower()
    if not voice and language not in _VOICES[family]:
        language = "en"
    return f"{family}-{voice or _VOICES[family][language]}-{language}"


def _is_aura(choice: Choice) -> bool:
    """Whether it names a model of Aura, and no voice of another family."""
    model = _AURA.fullmatch(choice.model)
    voice = _AURA.fullmatch(str(choice.options.get("voice") or "").lower())
    return model is not None and (voice is None or voice["family"] == model["family"])


VENDOR = Vendor(
    name="deepgram",
    key="DEEPGRAM_API_KEY",
    base_url="https://api.deepgram.com",
    services=(ServiceSpec(BotPart.TTS, _speech, socket_wire=DeepgramSpeak, serves=_is_aura),),
    extra="deepgram",
)
