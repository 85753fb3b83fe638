"""Anthropic: Claude, in Anthropic's own protocol."""

from __future__ import annotations

from typing import cast

from pipecat.processors.frame_processor import FrameProcessor

from flow.bot.vendors.function_calls import with_checked_arguments
from flow.bot.vendors.spec import Build, ServiceSpec, Vendor
from flow.domain.calls.bot_part import BotPart
from flow.metering.vendor_apis import ANTHROPIC_APIS
from flow.metering.wires.anthropic_messages import AnthropicMessages
from flow.vendors.key_requests import get


def _chat(build: Build) -> FrameProcessor:
    from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
    from pipecat.services.anthropic.llm import AnthropicLLMService

    endpoint = build.endpoint
    options = build.choice.given
    client = AsyncAnthropic(
        api_key=endpoint.api_key,
        base_url=str(endpoint.base_url),
        timeout=endpoint.timeout,
        http_client=DefaultAsyncHttpxClient(transport=build.transport, timeout=endpoint.timeout),
        # The SDK's own spans, and the trace context in requests, are not for the vendor.
        open_telemetry={"traces": False, "propagation": False},
    )
    # Of tools that are called together Pipecat 1.14 runs the last alone (its service keeps one
    # block): so one is called at a time.
    one_by_one = {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}
    return cast(
        FrameProcessor,
        with_checked_arguments(AnthropicLLMService)(
            api_key=endpoint.api_key,
            client=client,
            name=build.name,
            # Each turn reads what the turns before have written, at a tenth of the price.
            settings=AnthropicLLMService.Settings(
                model=build.choice.model,
                enable_prompt_caching=True,
                extra=one_by_one if build.tools else {},
                **options,
            ),
        ),
    )


VENDOR = Vendor(
    name="anthropic",
    key="ANTHROPIC_API_KEY",
    base_url="https://api.anthropic.com",
    services=(ServiceSpec(BotPart.LLM, _chat, AnthropicMessages),),
    extra="anthropic",
    apis=ANTHROPIC_APIS,
    key_request=get("/v1/models?limit=1", "x-api-key", "", anthropic_version="2023-06-01"),
)
