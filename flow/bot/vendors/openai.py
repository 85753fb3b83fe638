"""OpenAI: chat, responses, transcription, speech and speech-to-speech; chat for other vendors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any, cast

from pipecat.processors.frame_processor import FrameProcessor

from flow.bot.vendors.function_calls import WholeCalls, as_json, with_checked_arguments
from flow.bot.vendors.openai_realtime import realtime, voices
from flow.bot.vendors.spec import Build, Choice, ServiceSpec, Vendor, pipecat_class, spoken_language
from flow.domain.calls.bot_part import BotPart
from flow.metering.vendor_apis import OPENAI_APIS
from flow.metering.wires.openai_audio import OpenAISpeech, OpenAITranscription
from flow.metering.wires.openai_chat import OpenAIChat
from flow.metering.wires.openai_realtime import OpenAIRealtime
from flow.metering.wires.openai_responses import OpenAIResponses
from flow.vendors.openai_client import http_client, openai_client

CHUNK_SECS = 0.08
"""Of a voice's sound, which is passed on as it comes."""


def compatible_chat(
    service: str,
    *,
    longest_reply: str = "max_completion_tokens",
    client: Callable[[Build], Any] | None = None,
    extra: Callable[[Build], Mapping[str, Any]] = lambda _: {},
) -> ServiceSpec:
    """Chat in OpenAI's protocol, by a Pipecat service built on the one for OpenAI.

    Args:
        service: ``module:name`` below ``pipecat.services``.
        longest_reply: the service's setting for it.
        client: makes the SDK's client of the vendor's API; by default one of its base URL.
        extra: what else the service is made with.
    """

    def make(build: Build) -> FrameProcessor:
        options = _settings(build.choice, longest_reply)
        kind = pipecat_class(service)
        made = _chat(kind)(
            (client or _client)(build),
            api_key=build.endpoint.api_key,
            name=build.name,
            settings=kind.Settings(model=build.choice.model, **options),
            **extra(build),
        )
        return cast(FrameProcessor, made)

    return ServiceSpec(BotPart.LLM, make, OpenAIChat)


def _client(build: Build) -> Any:
    is_other_vendor = build.choice.provider != VENDOR.name
    return openai_client(build.endpoint, build.transport, is_other_vendor=is_other_vendor)


def _settings(choice: Choice, longest_reply: str) -> dict[str, Any]:
    """What a choice says of a language model, as settings of Pipecat's service."""
    options = choice.given
    if "max_tokens" in options:
        options[longest_reply] = options.pop("max_tokens")
    return options


def _responses(build: Build) -> FrameProcessor:
    """OpenAI's Responses API over HTTP.

    Over a WebSocket, Pipecat's service drops the usage of a response that it cancels, and leaves
    the last one at the end of a call undrained.
    """
    kind = pipecat_class("openai.responses.llm:OpenAIResponsesHttpLLMService")
    made = _responses_class(kind)(
        _client(build),
        api_key=build.endpoint.api_key,
        name=build.name,
        settings=kind.Settings(
            model=build.choice.model, **_settings(build.choice, "max_completion_tokens")
        ),
    )
    return cast(FrameProcessor, made)


@cache
def _with_client(kind: Any) -> Any:
    """The same service with a client that is made already.

    Pipecat's own would be one with a connection pool of its own. The services for chat make it in
    `create_client`, for subclasses to override, the one for responses in `_create_client`.
    """

    class WithClient(with_checked_arguments(kind)):  # type: ignore[misc]
        def __init__(self, client: Any, **options: Any) -> None:
            self._given_client = client
            super().__init__(**options)

        def create_client(self, *_: Any, **__: Any) -> Any:
            """The client given."""
            return self._given_client

        _create_client = create_client

    WithClient.__name__ = WithClient.__qualname__ = kind.__name__
    return WithClient


@cache
def _chat(kind: Any) -> Any:
    class Chat(_with_client(kind)):  # type: ignore[misc]
        async def get_chat_completions(self, context: Any) -> WholeCalls:
            """As Pipecat's, for it to read."""
            return WholeCalls(await super().get_chat_completions(context))

    Chat.__name__ = Chat.__qualname__ = kind.__name__
    return Chat


@cache
def _responses_class(kind: Any) -> Any:
    class Responses(_with_client(kind)):  # type: ignore[misc]
        def _process_function_calls(self, context: Any, calls: Mapping[str, Any]) -> Any:
            """As Pipecat's, which takes what it cannot read for a call without arguments."""
            read = {
                at: {**call, "arguments": as_json(call["arguments"])} for at, call in calls.items()
            }
            return super()._process_function_calls(context, read)

    Responses.__name__ = Responses.__qualname__ = kind.__name__
    return Responses


def _transcription(build: Build) -> FrameProcessor:
    from pipecat.services.openai.stt import OpenAISTTService

    return OpenAISTTService(
        api_key=build.endpoint.api_key,
        base_url=str(build.endpoint.base_url),
        http_client=http_client(build.endpoint, build.transport),
        name=build.name,
        settings=OpenAISTTService.Settings(
            model=build.choice.model, **spoken_language(build.choice)
        ),
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
        ServiceSpec(BotPart.LLM, _responses, OpenAIResponses, api="responses"),
        ServiceSpec(BotPart.STT, _transcription, OpenAITranscription),
        ServiceSpec(BotPart.TTS, _speech, OpenAISpeech, voices=_voices),
        ServiceSpec(
            BotPart.REALTIME,
            realtime,
            socket_wire=OpenAIRealtime,
            tells_turns=True,
            voices=voices,
        ),
    ),
    apis=OPENAI_APIS,
)
