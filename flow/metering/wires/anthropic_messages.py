"""Anthropic's Messages API, streamed and whole (docs.claude.com, "Messages", "Streaming messages").

A stream reports at its start, with the whole input and the first tokens of output, and again in
``message_delta``; all its numbers are cumulative. Some gateways repeat the input there, or tell it
there alone. The input does not include what was read from the cache or written to it.

``usage.iterations`` lists what one request did in several steps. The top-level numbers include
all of it but the compaction of the context (``anthropic/types/beta/beta_usage.py``) and what an
advisor said, a model of its own (docs.claude.com, "Advisor tool").
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from flow.domain.usage.events import Quantities
from flow.domain.usage.token_estimates import count_tokens, estimate_chat_tokens
from flow.domain.usage.vendor_reports import Counting, from_anthropic_usage, together
from flow.metering.evidence import Completed, Evidence, Opening, Output, Reported, Served
from flow.metering.wires.cache_lifetimes import with_lifetimes, writes_for_an_hour
from flow.metering.wires.json_exchange import JsonExchange, objects, report, text, within
from flow.metering.wires.reader import FREE, Free, HttpRequest, failed_in_answer, unreadable

PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"

_BESIDE = ("compaction", "advisor_message")


class AnthropicMessages:
    """Reads messages."""

    def open(self, request: HttpRequest) -> MessageExchange | Free | None:
        """An exchange for every ``POST .../v1/messages``. Counting tokens costs nothing."""
        if request.method != "POST":
            return None
        if request.path.endswith(COUNT_PATH):
            return FREE
        return MessageExchange(request.json) if request.path.endswith(PATH) else None


class MessageExchange(JsonExchange):
    """One message, streamed or whole."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        super().__init__(_opening(request))
        self._usage = _Usage(writes_for_an_hour(request))

    def _event(self, event: Mapping[str, Any]) -> Iterator[Evidence]:
        match event.get("type"):
            case "message_start":
                message = within(event, "message")
                yield from _served(message)
                yield from self._report(within(message, "usage"), is_start=True)
            case "content_block_start":
                yield from _output(_in_block(event.get("content_block")))
            case "content_block_delta":
                yield from _output(_in_delta(event.get("delta")))
            case "message_delta":
                is_over = bool(within(event, "delta", "stop_reason"))
                yield from self._report(event.get("usage"), is_over=is_over)
            case "message_stop":
                yield from self._usage.closing()
                yield Completed()
            case "error":
                yield failed_in_answer(within(event, "error", "type"))

    def _whole(self, answer: Any) -> Iterator[Evidence]:
        if not isinstance(within(answer, "content"), list):
            yield unreadable("the message")
            return
        yield from _served(answer)
        yield from _output("".join(map(_in_block, answer["content"])))
        yield from self._report(answer.get("usage"), is_over=True)
        if answer.get("stop_reason"):
            yield Completed()

    def _report(
        self, usage: Any, *, is_start: bool = False, is_over: bool = False
    ) -> Iterator[Evidence]:
        if not isinstance(usage, Mapping):
            return
        tier = "fast" if usage.get("speed") == "fast" else text(usage.get("service_tier"))
        if tier:
            yield Served(service_tier=tier)
        for step in objects(usage.get("iterations")):
            if step.get("type") == "fallback_message":
                yield from _served(step)
        yield from self._usage.told(usage, is_start=is_start, is_over=is_over)


class _Usage:
    """The usage of one message, as it is told bit by bit."""

    def __init__(self, all_for_an_hour: bool) -> None:
        self._all_for_an_hour = all_for_an_hour
        self._fields: dict[str, Any] = {}
        self._has_output = False
        self._is_final = False

    def told(
        self, usage: Mapping[str, Any], *, is_start: bool, is_over: bool
    ) -> Iterator[Reported]:
        """Another report: the last word on a field counts, unless it is nothing."""
        if not is_start and usage.get("output_tokens") is not None and not self._has_output:
            # What the start says of the output is only what there was by then.
            self._fields.pop("output_tokens", None)
            self._has_output = True
        written, before = (of.get("cache_creation_input_tokens") for of in (usage, self._fields))
        if written and written != before and self._all_for_an_hour:
            # The lifetimes that were told do not include what has been written since.
            self._fields.pop("cache_creation", None)
        self._fields |= {n: v for n, v in usage.items() if v or n not in self._fields}
        self._is_final = self._is_final or (is_over and self._has_output)
        yield from self._reported()

    def closing(self) -> Iterator[Reported]:
        """The message has come to its end, so that what was told is all."""
        if self._has_output and not self._is_final:
            self._is_final = True
            yield from self._reported()

    def _reported(self) -> Iterator[Reported]:
        own = with_lifetimes(
            from_anthropic_usage(self._fields), all_for_an_hour=self._all_for_an_hour
        )
        beside = [
            step for step in objects(self._fields.get("iterations")) if step.get("type") in _BESIDE
        ]
        total = together([own, *map(from_anthropic_usage, beside)])
        for told in report(total, Counting.NET, is_final=self._is_final):
            notes = [told.note, *self._unpriced(beside)]
            yield replace(told, note="; ".join(filter(None, notes)) or None)

    def _unpriced(self, beside: list[Mapping[str, Any]]) -> Iterator[str]:
        """What is billed in a way that the quantities do not show."""
        advisors = {text(s.get("model")) for s in beside if s.get("type") == "advisor_message"}
        if advisors:
            yield f"the tokens include those of an advisor, {', '.join(sorted(advisors))}"
        # Fetching costs nothing but its tokens.
        if searches := within(self._fields, "server_tool_use", "web_search_requests"):
            yield f"web searches ({searches}) are billed beside the tokens"


def _opening(request: Mapping[str, Any]) -> Opening:
    model, system = text(request.get("model")), request.get("system")
    messages, tools = request.get("messages"), request.get("tools")
    told = [{"role": "system", "content": system}] if system else []
    told += messages if isinstance(messages, list) else []
    prompt = estimate_chat_tokens(told, tools if isinstance(tools, list) else None, model=model)
    # A schema is part of the prompt, and billed with it.
    if schema := within(request, "output_config", "format", "schema"):
        prompt += count_tokens(json.dumps(schema, separators=(",", ":")), model)
    return Opening(
        estimate=Quantities(input_tokens=prompt),
        model=model or None,
        stream=bool(request.get("stream")),
        content=told,
    )


def _served(message: Any) -> Iterator[Served]:
    if model := text(within(message, "model")):
        yield Served(model)


def _output(generated: str) -> Iterator[Output]:
    if generated:
        yield Output(generated)


def _in_delta(delta: Any) -> str:
    """What was generated; a signature or a citation was not."""
    names = ("text", "thinking", "partial_json", "content")
    return "".join(text(within(delta, name)) for name in names)


def _in_block(block: Any) -> str:
    """What was generated of a block; the result of a server's tool was not."""
    match within(block, "type"):
        case "text" | "thinking" | "compaction" as kind:
            return text(block.get("content" if kind == "compaction" else kind))
        case "tool_use" | "server_tool_use" | "mcp_tool_use":
            given = block.get("input")
            return text(block.get("name")) + (json.dumps(given) if given else "")
    return ""
