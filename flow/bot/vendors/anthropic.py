"""Anthropic: Claude, in Anthropic's own protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cache
from typing import Any, cast

from pipecat.processors.frame_processor import FrameProcessor

from flow.bot.vendors.function_calls import as_json, with_checked_arguments
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
        _with_whole_calls(AnthropicLLMService)(
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


@cache
def _with_whole_calls(kind: Any) -> Any:
    class WithWholeCalls(with_checked_arguments(kind)):  # type: ignore[misc]
        async def _create_message_stream(self, api_call: Any, params: Any) -> Any:
            """As Pipecat's, which fails where it cannot read what a function is called with."""
            return _whole_calls(await super()._create_message_stream(api_call, params))

    WithWholeCalls.__name__ = WithWholeCalls.__qualname__ = kind.__name__
    return WithWholeCalls


async def _whole_calls(events: Any) -> AsyncIterator[Any]:
    """The events of a message, with what each function is called with in one piece, as JSON."""
    held, last = "", None
    async for event in events:
        if event.type == "content_block_delta" and event.delta.type == "input_json_delta":
            held, last = held + event.delta.partial_json, event
            continue
        if last is not None:
            delta = last.delta.model_copy(update={"partial_json": as_json(held)})
            yield last.model_copy(update={"delta": delta})
            held, last = "", None
        yield event


VENDOR = Vendor(
    name="anthropic",
    key="ANTHROPIC_API_KEY",
    base_url="https://api.anthropic.com",
    services=(ServiceSpec(BotPart.LLM, _chat, AnthropicMessages),),
    extra="anthropic",
    apis=ANTHROPIC_APIS,
    key_request=get("/v1/models?limit=1", "x-api-key", "", anthropic_version="2023-06-01"),
)
