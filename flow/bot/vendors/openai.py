"""OpenAI: chat, transcription and speech over HTTP; and chat as other vendors speak it."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any, cast

from pipecat.processors.frame_processor import FrameProcessor

from flow.bot.vendors.spec import Build, ServiceSpec, Vendor, pipecat_class
from flow.domain.calls.bot_part import BotPart
from flow.metering.wires.openai_audio import OpenAISpeech, OpenAITranscription
from flow.metering.wires.openai_chat import OpenAIChat
from flow.vendors.openai_client import http_client, openai_client

CHUNK_SECS = 0.08
"""Of a voice's sound, which is passed on as it comes."""


def compatible_chat(service: str) -> ServiceSpec:
    """Chat in OpenAI's protocol, by a Pipecat service built on the one for OpenAI.

    Args:
        service: ``module:name`` below ``pipecat.services``.
    """

    def make(build: Build) -> FrameProcessor:
        options = {name: v for name, v in build.choice.options.items() if v is not None}
        if "max_tokens" in options:
            options["max_completion_tokens"] = options.pop("max_tokens")
        kind = pipecat_class(service)
        client = openai_client(
            build.endpoint, build.transport, is_other_vendor=build.choice.provider != VENDOR.name
        )
        made = _with_client(kind)(
            client,
            api_key=build.endpoint.api_key,
            name=build.name,
            settings=kind.Settings(model=build.choice.model, **options),
        )
        return cast(FrameProcessor, made)

    return ServiceSpec(BotPart.LLM, make, OpenAIChat)


@cache
def _with_client(kind: Any) -> Any:
    """The same chat service with a client that is made already.

    Pipecat's own would be one with a connection pool of its own. `create_client` is where the
    service makes it, for subclasses to override.
    """

    class WithClient(kind):  # type: ignore[misc]
        def __init__(self, client: Any, **options: Any) -> None:
            self._given_client = client
            super().__init__(**options)

        def create_client(self, *_: Any, **__: Any) -> Any:
            """The client given."""
            return self._given_client

    WithClient.__name__ = WithClient.__qualname__ = kind.__name__
    return WithClient


def _transcription(build: Build) -> FrameProcessor:
    from pipecat.services.openai.stt import OpenAISTTService
    from pipecat.transcriptions.language import Language

    # Pipecat's service has no automatic language: where none is asked for, its own stands.
    language = build.choice.options.get("language")
    spoken: dict[str, Any] = {"language": Language(language)} if language else {}
    return OpenAISTTService(
        api_key=build.endpoint.api_key,
        base_url=str(build.endpoint.base_url),
        http_client=http_client(build.endpoint, build.transport),
        name=build.name,
        settings=OpenAISTTService.Settings(model=build.choice.model, **spoken),
    )


def _speech(build: Build) -> FrameProcessor:
    from pipecat.services.openai.tts import OpenAITTSService

    class Prompt(OpenAITTSService):
        @property
        def chunk_size(self) -> int:
            """Pipecat gathers half a second of sound before it passes any on."""
            return int(self.sample_rate * CHUNK_SECS) * 2

    return Prompt(
        api_key=build.endpoint.api_key,
        base_url=str(build.endpoint.base_url),
        http_client=http_client(build.endpoint, build.transport),
        name=build.name,
        settings=OpenAITTSService.Settings(
            model=build.choice.model, voice=build.choice.options.get("voice") or "alloy"
        ),
    )


def _voices() -> Collection[str]:
    from pipecat.services.openai.tts import VALID_VOICES

    return VALID_VOICES.keys()


VENDOR = Vendor(
    name="openai",
    key="OPENAI_API_KEY",
    base_url=None,
    services=(
        compatible_chat("openai.llm:OpenAILLMService"),
        ServiceSpec(BotPart.STT, _transcription, OpenAITranscription),
        ServiceSpec(BotPart.TTS, _speech, OpenAISpeech, voices=_voices),
    ),
)
