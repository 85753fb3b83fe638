"""OpenAI's chat completions, as many vendors speak them.

Usage is in the last chunk of a stream that asks for it (``stream_options.include_usage``), or in
the completion: platform.openai.com/docs/api-reference/chat. Some vendors report in every chunk,
cumulatively; the last report that says anything counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from flow.domain.estimate import count_tokens, estimate_chat_tokens
from flow.domain.reported import Counting, accepted, from_openai_usage
from flow.domain.usage import Failure, Quantities
from flow.metering.evidence import (
    Completed,
    Evidence,
    Failed,
    Opening,
    Output,
    Reported,
    Served,
)
from flow.metering.wires.http import HttpAnswer, HttpRequest, parsed, unreadable
from flow.metering.wires.server_sent_events import EventStream

PATH = "/chat/completions"


class OpenAIChat:
    """Reads chat completions.

    Args:
        counting: how the vendor counts cached tokens and reasoning.
    """

    def __init__(self, counting: Counting = Counting.GROSS) -> None:
        self._counting = counting

    def open(self, request: HttpRequest) -> ChatExchange | None:
        """An exchange for every ``POST .../chat/completions``."""
        if request.method != "POST" or not request.path.endswith(PATH):
            return None
        return ChatExchange(request.json, self._counting)


class ChatExchange:
    """One chat completion, streamed or whole."""

    def __init__(self, request: Mapping[str, Any], counting: Counting) -> None:
        self._counting = counting
        self._writes_for_an_hour = _writes_for_an_hour(request)
        self._events: EventStream | None = None
        self._whole = bytearray()
        self.opening = _opening(request)

    def answered(self, answer: HttpAnswer) -> Iterator[Evidence]:
        """Tell a stream from a whole completion."""
        if answer.is_event_stream:
            self._events = EventStream()
        yield from ()

    def body(self, data: bytes) -> Iterator[Evidence]:
        """Read the chunks in it, or keep it until the completion is whole."""
        if self._events is None:
            self._whole += data
            return
        for event in self._events.feed(data):
            yield from self._chunk(event.data)

    def end(self) -> Iterator[Evidence]:
        """Read what is left, or the whole completion."""
        if self._events is not None:
            for event in self._events.end():
                yield from self._chunk(event.data)
            return
        whole = parsed(bytes(self._whole))
        if not isinstance(whole, dict) or not whole.get("choices"):
            yield unreadable("the completion")
        else:
            yield from self._read(whole)
            yield Completed()

    def _chunk(self, data: str) -> Iterator[Evidence]:
        if data.strip() == "[DONE]":
            return
        chunk = parsed(data)
        if not isinstance(chunk, dict):
            yield unreadable("a chunk of the stream")
        else:
            yield from self._read(chunk)

    def _read(self, chunk: Mapping[str, Any]) -> Iterator[Evidence]:
        if chunk.get("error"):
            yield Failed(Failure("APIError", "the vendor failed in mid-answer"))
        model, tier = chunk.get("model"), chunk.get("service_tier")
        if model or tier:
            yield Served(_text(model) or None, _text(tier) or None)
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, Mapping):
                continue
            if text := _generated(choice.get("delta") or choice.get("message")):
                yield Output(text)
            if choice.get("finish_reason"):
                yield Completed()
        usage = chunk.get("usage") or _within(chunk.get("x_groq"), "usage")
        if isinstance(usage, Mapping):
            yield self._report(usage)

    def _report(self, usage: Mapping[str, Any]) -> Reported:
        reported = from_openai_usage(usage)
        quantities, note = accepted(reported, self._counting)
        written = quantities.count("cache_write_tokens")
        if written and self._writes_for_an_hour and not quantities["cache_write_1h_tokens"]:
            # The protocol does not tell the two lifetimes apart; the request had one of them only.
            quantities = quantities.replaced(cache_write_1h_tokens=written)
        return Reported(quantities, note)


def _opening(request: Mapping[str, Any]) -> Opening:
    model = _text(request.get("model"))
    messages, tools = request.get("messages"), request.get("tools")
    prompt = estimate_chat_tokens(
        messages if isinstance(messages, list) else (),
        tools if isinstance(tools, list) else None,
        model=model,
    )
    # A schema is part of the prompt, and billed with it.
    if schema := _within(request.get("response_format"), "json_schema"):
        prompt += count_tokens(json.dumps(schema, separators=(",", ":")), model)
    return Opening(
        estimate=Quantities(input_tokens=prompt),
        model=model or None,
        stream=bool(request.get("stream")),
        content=messages,
    )


def _generated(part: Any) -> str:
    """Everything in a delta or message that was generated, as one text."""
    if not isinstance(part, Mapping):
        return ""
    found = [part.get(name) for name in ("content", "refusal", "reasoning_content", "reasoning")]
    calls = part.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            found += [function.get("name"), function.get("arguments")]
    return "".join(text for text in found if isinstance(text, str))


def _writes_for_an_hour(request: Mapping[str, Any]) -> bool:
    """Whether every cache breakpoint of the request lasts an hour."""
    lifetimes = set(_lifetimes(request))
    return lifetimes == {"1h"}


def _lifetimes(node: Any, deepest: int = 12) -> Iterator[Any]:
    if not deepest:
        return
    if isinstance(node, list):
        for item in node:
            yield from _lifetimes(item, deepest - 1)
    elif isinstance(node, Mapping):
        control = node.get("cache_control")
        if isinstance(control, Mapping):
            yield control.get("ttl")
        for name in ("tools", "system", "messages", "content", "function"):
            yield from _lifetimes(node.get(name), deepest - 1)


def _within(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
