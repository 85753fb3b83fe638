"""Google: Gemini, to bots in Google's own protocols, to the LLM gateway in OpenAI's."""

from __future__ import annotations

from typing import cast

import httpx2
from pipecat.processors.frame_processor import FrameProcessor

from flow.bot.vendors.function_calls import with_checked_arguments
from flow.bot.vendors.gemini_schemas import with_gemini_schemas
from flow.bot.vendors.google_live import live
from flow.bot.vendors.spec import Build, ServiceSpec, Vendor
from flow.domain.calls.bot_part import BotPart
from flow.kit.tls import trusted
from flow.metering.vendor_apis import GOOGLE_APIS
from flow.metering.wires.gemini_generate import GeminiGenerate
from flow.metering.wires.gemini_live import GeminiLive
from flow.vendors.key_requests import get

# As the SDKs of OpenAI and Anthropic do it: two more attempts. Google's makes none by itself.
_ATTEMPTS = 3
_FIRST_DELAY_SECS, _LONGEST_DELAY_SECS = 0.5, 8.0


def _chat(build: Build) -> FrameProcessor:
    from google.genai.types import HttpOptions, HttpRetryOptions
    from pipecat.services.google.llm import GoogleLLMService

    options = build.choice.given
    return cast(
        FrameProcessor,
        with_gemini_schemas(with_checked_arguments(GoogleLLMService))(
            api_key=build.endpoint.api_key,
            http_options=HttpOptions(
                base_url=str(build.endpoint.base_url),
                httpx_async_client=_client(build),
                retry_options=HttpRetryOptions(
                    attempts=_ATTEMPTS,
                    initial_delay=_FIRST_DELAY_SECS,
                    max_delay=_LONGEST_DELAY_SECS,
                ),
                # Each of the SDK's clients would read the authorities anew, used or not.
                client_args={"verify": trusted()},
                async_client_args={"verify": trusted(), "ssl": trusted()},
            ),
            name=build.name,
            settings=GoogleLLMService.Settings(model=build.choice.model, **options),
        ),
    )


def _client(build: Build) -> httpx2.AsyncClient:
    """A client over the metered transport. The SDK asks it for requests without any timeout."""
    timeout = build.endpoint.timeout.as_dict()

    async def set_timeout(request: httpx2.Request) -> None:
        request.extensions["timeout"] = timeout

    return httpx2.AsyncClient(transport=build.transport, event_hooks={"request": [set_timeout]})


VENDOR = Vendor(
    name="google",
    key="GOOGLE_API_KEY",
    base_url="https://generativelanguage.googleapis.com",
    services=(
        ServiceSpec(BotPart.LLM, _chat, GeminiGenerate),
        ServiceSpec(BotPart.REALTIME, live, socket_wire=GeminiLive),
    ),
    extra="google",
    package="google.genai",
    apis=GOOGLE_APIS,
    key_request=get("/v1beta/models?pageSize=1", "x-goog-api-key", ""),
)
