"""The vendors a bot can be built from.

Adding a vendor is one entry: how its service is made, metered, from a `Choice`. Pipecat imports
a vendor's SDK with its service, so each entry imports only when used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, cast

from pipecat.processors.frame_processor import FrameProcessor

from flow.bot.generation import ChatWatch
from flow.bot.metering import Meter, Service, metered_stt, metered_tts
from flow.domain.usage import Kind, Owner
from flow.vendors.openai import OpenAIClients


@dataclass(frozen=True, slots=True)
class Choice:
    """One service a call asked for. ``options`` are the rest of what the join says of it."""

    provider: str
    model: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Build:
    """What every service of a call is made with."""

    owner: Owner
    meter: Callable[[Service], Meter]
    watch: Callable[[Meter], ChatWatch]
    clients: Mapping[str, OpenAIClients]


Make = Callable[[Choice, Build], FrameProcessor]


def _openai_llm(choice: Choice, build: Build) -> FrameProcessor:
    from pipecat.services.openai.llm import OpenAILLMService

    return _chat(OpenAILLMService, choice, build)


def _compatible_llm(path: str) -> Make:
    """A vendor whose chat speaks OpenAI's protocol, by the path of its Pipecat service."""

    def make(choice: Choice, build: Build) -> FrameProcessor:
        module, _, name = path.partition(":")
        return _chat(getattr(import_module(module), name), choice, build)

    return make


def _chat(service: Any, choice: Choice, build: Build) -> FrameProcessor:
    clients = build.clients[choice.provider]
    meter = build.meter(
        Service(Kind.LLM, choice.provider, choice.model, capture=not clients.gateway_captures)
    )
    client = clients.chat_client(
        build.owner, on_attempt_failed=meter.attempt_failed, on_answered=meter.attempt_answered
    )
    given = {name: value for name, value in choice.options.items() if value is not None}
    if "max_tokens" in given:
        given["max_completion_tokens"] = given.pop("max_tokens")
    settings = service.Settings(model=choice.model, **given)
    made = _given_a_client(service)(
        build.watch(meter).watch(client), api_key=client.api_key, name="llm", settings=settings
    )
    return cast(FrameProcessor, made)


@cache
def _given_a_client(service: Any) -> Any:
    """The same chat service, with a client that is already made."""

    class Given(service):  # type: ignore[misc]
        def __init__(self, client: Any, **options: Any) -> None:
            self._made = client
            super().__init__(**options)

        def create_client(self, *_: Any, **__: Any) -> Any:
            """The one place where clients are made gives this service its client."""
            return self._made

    return Given


def _openai_stt(choice: Choice, build: Build) -> FrameProcessor:
    from pipecat.services.openai.stt import OpenAISTTService
    from pipecat.transcriptions.language import Language

    meter, client = _speech(Kind.STT, choice, build)
    # Pipecat's service has no automatic language: where none is asked for, its own stands.
    language = choice.options.get("language")
    spoken: dict[str, Any] = {"language": Language(language)} if language else {}
    service: Any = metered_stt(OpenAISTTService)(
        meter=meter,
        api_key=client.api_key,
        http_client=client._client,  # or the service makes one, which takes 30 ms
        name="stt",
        settings=OpenAISTTService.Settings(model=choice.model, **spoken),
    )
    service._client = client  # the service has no door for a client that is already made
    return cast(FrameProcessor, service)


def _openai_tts(choice: Choice, build: Build) -> FrameProcessor:
    from pipecat.services.openai.tts import OpenAITTSService

    meter, client = _speech(Kind.TTS, choice, build)
    service: Any = metered_tts(OpenAITTSService)(
        meter=meter,
        api_key=client.api_key,
        http_client=client._client,
        name="tts",
        settings=OpenAITTSService.Settings(
            model=choice.model, voice=choice.options.get("voice") or "alloy"
        ),
    )
    service._client = client  # as above
    return cast(FrameProcessor, service)


def _speech(kind: Kind, choice: Choice, build: Build) -> tuple[Meter, Any]:
    meter = build.meter(Service(kind, choice.provider, choice.model))
    client = build.clients[choice.provider].chat_client(
        build.owner, on_attempt_failed=meter.attempt_failed, on_answered=meter.attempt_answered
    )
    return meter, client


@dataclass(frozen=True, slots=True)
class Vendor:
    """A vendor and what it can do.

    ``key`` is the environment variable of its API key; ``base_url`` where its API is.
    """

    key: str
    base_url: str | None
    llm: Make | None = None
    stt: Make | None = None
    tts: Make | None = None

    @property
    def base_url_variable(self) -> str:
        """The environment variable that puts its API elsewhere."""
        return self.key.replace("_API_KEY", "_BASE_URL")


VENDORS: Mapping[str, Vendor] = {
    "openai": Vendor("OPENAI_API_KEY", None, _openai_llm, _openai_stt, _openai_tts),
    "groq": Vendor(
        "GROQ_API_KEY",
        "https://api.groq.com/openai/v1",
        _compatible_llm("pipecat.services.groq.llm:GroqLLMService"),
    ),
    "deepseek": Vendor(
        "DEEPSEEK_API_KEY",
        "https://api.deepseek.com/v1",
        _compatible_llm("pipecat.services.deepseek.llm:DeepSeekLLMService"),
    ),
    "openrouter": Vendor(
        "OPENROUTER_API_KEY",
        "https://openrouter.ai/api/v1",
        _compatible_llm("pipecat.services.openrouter.llm:OpenRouterLLMService"),
    ),
    "cerebras": Vendor(
        "CEREBRAS_API_KEY",
        "https://api.cerebras.ai/v1",
        _compatible_llm("pipecat.services.cerebras.llm:CerebrasLLMService"),
    ),
    "together": Vendor(
        "TOGETHER_API_KEY",
        "https://api.together.xyz/v1",
        _compatible_llm("pipecat.services.together.llm:TogetherLLMService"),
    ),
}
