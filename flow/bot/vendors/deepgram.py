"""Deepgram: Nova and Flux hear, Aura speaks, all over WebSockets."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import urlencode

from pipecat.processors.frame_processor import FrameProcessor
from websockets.exceptions import InvalidStatus

from flow.bot.vendors.metered_sockets import dialled, socket_url, with_socket_tap
from flow.bot.vendors.spec import Build, Choice, ServiceSpec, Vendor, spoken_language
from flow.domain.calls.bot_part import BotPart
from flow.metering.wires.deepgram_listen import DeepgramFlux, DeepgramListen
from flow.metering.wires.deepgram_speak import DeepgramSpeak
from flow.vendors.key_requests import get

_AURA = re.compile(r"(?P<family>aura(?:-2)?)(?:-(?P<name>[a-z]+)-(?P<language>[a-z]{2}))?")
_NAME = re.compile(r"[a-z]+")
_FLUX = re.compile(r"flux(-[a-z0-9]+)*")
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


def _nova(build: Build) -> FrameProcessor:
    from pipecat.services.deepgram.stt import DeepgramSTTService

    service = DeepgramSTTService(
        api_key=build.endpoint.api_key,
        base_url=str(build.endpoint.base_url).rstrip("/"),
        name=build.name,
        settings=DeepgramSTTService.Settings(
            model=build.choice.model, **spoken_language(build.choice)
        ),
    )
    # It dials by Deepgram's SDK, here alone, and each time that it dials.
    service._client.listen.v1.connect = _metered_listen(build)
    return service


def _metered_listen(build: Build) -> Callable[..., Any]:
    """What takes the place of the SDK's ``connect``, which is an async context manager.

    Pipecat leaves it as soon as it has sent ``CloseStream``; the connection is held until the
    vendor has said how much it has taken.
    """
    from deepgram.core import ApiError
    from deepgram.listen.v1.socket_client import AsyncV1SocketClient

    tap, endpoint = build.socket, build.endpoint
    assert tap is not None
    url = socket_url(endpoint.base_url, "/v1/listen")

    @asynccontextmanager
    async def connect(**query: Any) -> AsyncIterator[AsyncV1SocketClient]:
        headers = {"Authorization": f"Token {endpoint.api_key}"}
        try:
            # The SDK would have one of websockets' older connections, with the same verbs.
            connection: Any = await dialled(tap, f"{url}?{urlencode(query, doseq=True)}", headers)
        except InvalidStatus as refused:
            # The SDK's own error: Pipecat does not dial again after one of 400 to 499.
            answer = refused.response
            raise ApiError(
                status_code=answer.status_code, body=answer.headers.get("dg-error")
            ) from None
        try:
            yield AsyncV1SocketClient(websocket=connection)
        finally:
            await connection.close()

    return connect


def _flux(build: Build) -> FrameProcessor:
    from pipecat.services.deepgram.flux.stt import DeepgramFluxSTTService
    from pipecat.transcriptions.language import Language

    language = build.choice.options.get("language")
    hints: dict[str, Any] = {}
    if language and build.choice.model.endswith("-multi"):
        hints["language_hints"] = [Language(language)]
    service = with_socket_tap(DeepgramFluxSTTService)(
        build.socket,
        api_key=build.endpoint.api_key,
        url=socket_url(build.endpoint.base_url, "/v2/listen"),
        name=build.name,
        settings=DeepgramFluxSTTService.Settings(model=build.choice.model, **hints),
    )
    return cast(FrameProcessor, service)


def _is_flux(choice: Choice) -> bool:
    return _FLUX.fullmatch(choice.model) is not None


def _is_no_flux(choice: Choice) -> bool:
    return not choice.model.startswith("flux")


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
    """Whether it names a model of Aura, and a voice that can be one of the same family."""
    model = _AURA.fullmatch(choice.model)
    asked = str(choice.options.get("voice") or "").lower()
    if model is None or not asked:
        return model is not None
    voice = _AURA.fullmatch(asked)
    # Pipecat puts it into a URL as it is.
    return voice["family"] == model["family"] if voice else _NAME.fullmatch(asked) is not None


VENDOR = Vendor(
    name="deepgram",
    key="DEEPGRAM_API_KEY",
    base_url="https://api.deepgram.com",
    services=(
        ServiceSpec(
            BotPart.STT, _flux, socket_wire=DeepgramFlux, serves=_is_flux, tells_turns=True
        ),
        ServiceSpec(BotPart.STT, _nova, socket_wire=DeepgramListen, serves=_is_no_flux),
        ServiceSpec(BotPart.TTS, _speech, socket_wire=DeepgramSpeak, serves=_is_aura),
    ),
    extra="deepgram",
    key_request=get("/v1/projects", scheme="Token "),
)
