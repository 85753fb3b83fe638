"""Deepgram: Nova and Flux hear, Aura speaks, all over WebSockets."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from typing import Any, cast

from pipecat.processors.frame_processor import FrameProcessor

from flow.bot.vendors.socket_doors import socket_url, with_socket_tap
from flow.bot.vendors.spec import Build, Choice, ServiceSpec, Vendor
from flow.domain.calls.bot_part import BotPart
from flow.metering.taps.socket import MeteredSocket, SocketTap
from flow.metering.wires.deepgram_listen import DeepgramFlux, DeepgramListen
from flow.metering.wires.deepgram_speak import DeepgramSpeak

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


CLOSE_SECS = 2.0
"""How long a close waits for the vendor's, as long as Pipecat's own connections do."""


def _nova(build: Build) -> FrameProcessor:
    from pipecat.services.deepgram.stt import DeepgramSTTService
    from pipecat.transcriptions.language import Language

    # Pipecat's service has no automatic language: where none is asked for, its own stands.
    language = build.choice.options.get("language")
    spoken: dict[str, Any] = {"language": Language(language)} if language else {}
    service = _with_listen_tap(DeepgramSTTService)(
        build.socket,
        api_key=build.endpoint.api_key,
        base_url=str(build.endpoint.base_url).rstrip("/"),
        name=build.name,
        settings=DeepgramSTTService.Settings(model=build.choice.model, **spoken),
    )
    return cast(FrameProcessor, service)


@cache
def _with_listen_tap(kind: Any) -> Any:
    """The service whose connections are metered. It makes them by Deepgram's SDK, which dials by
    ``listen.v1.connect`` each time, and keeps each in ``_websocket``."""

    class WithListenTap(kind):  # type: ignore[misc]
        def __init__(self, tap: SocketTap, **options: Any) -> None:
            super().__init__(**options)
            listen = self._client.listen.v1
            listen.connect = _metered(listen.connect, tap)

    WithListenTap.__name__ = WithListenTap.__qualname__ = kind.__name__
    return WithListenTap


def _metered(connect: Callable[..., Any], tap: SocketTap) -> Callable[..., Any]:
    """The same ``connect``, which is an async context manager, with the tap on the connection.

    Pipecat leaves it as soon as it has sent ``CloseStream``; it is held until the vendor has said
    how much it has taken.
    """

    @asynccontextmanager
    async def metered(**options: Any) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(connect(**options))
            except Exception as error:
                tap.refused(error)
                raise
            socket = connection._websocket
            socket.close_timeout = CLOSE_SECS
            connection._websocket = MeteredSocket(socket, tap.opened(socket.path))
            stack.push_async_callback(connection._websocket.close)
            yield connection

    return metered


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
)
