"""OpenAI's chat completions, as many vendors speak them.

Usage is in the last chunk of a stream that asks for it (``stream_options.include_usage``), or in
the completion: platform.openai.com/docs/api-reference/chat. Some vendors report in every chunk,
cumulatively; the last report that says anything counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from flow.domain.usage.events import Quantities
from flow.domain.usage.token_estimates import count_tokens, estimate_chat_tokens
from flow.domain.usage.vendor_reports import Counting, from_openai_usage
from flow.metering.evidence import (
    Completed,
    Evidence,
    Opening,
    Output,
    Served,
)
from flow.metering.wires.cache_lifetimes import with_lifetimes, writes_for_an_hour
from flow.metering.wires.json_exchange import JsonExchange, objects, report, text, within
from flow.metering.wires.reader import HttpRequest, failed_in_answer, unreadable

PATH = "/chat/completions"

_CALLS = ("function", "custom")


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


class ChatExchange(JsonExchange):
    """One chat completion, streamed or whole."""

    def __init__(self, request: Mapping[str, Any], counting: Counting) -> None:
        super().__init__(_opening(request))
        self._counting = counting
        self._writes_for_an_hour = writes_for_an_hour(request)
        self._begun: set[str] = set()
        self._finished: set[str] = set()

    def _event(self, event: Mapping[str, Any]) -> Iterator[Evidence]:
        return self._read(event)

    def _whole(self, answer: Any) -> Iterator[Evidence]:
        if not within(answer, "choices"):
            yield unreadable("the completion")
        else:
            yield from self._read(answer)
            yield Completed()

    def _read(self, chunk: Mapping[str, Any]) -> Iterator[Evidence]:
        if chunk.get("error"):
            yield failed_in_answer()
        model, tier = chunk.get("model"), chunk.get("service_tier")
        if model or tier:
            yield Served(text(model) or None, text(tier) or None)
        for choice in objects(chunk.get("choices")):
            if generated := _generated(choice.get("delta") or choice.get("message")):
                yield Output(generated)
            which = str(choice.get("index"))
            self._begun.add(which)
            if choice.get("finish_reason"):
                self._finished.add(which)
                if self._is_finished:
                    yield Completed()
        usage = chunk.get("usage") or within(chunk, "x_groq", "usage")
        if isinstance(usage, Mapping):
            # The chunk that is there for the usage has no choices, and is the last one.
            is_final = self._is_finished or not chunk.get("choices")
            tokens = with_lifetimes(
                from_openai_usage(usage), all_for_an_hour=self._writes_for_an_hour
            )
            yield from report(tokens, self._counting, is_final=is_final)

    @property
    def _is_finished(self) -> bool:
        """Whether no choice that has begun goes on."""
        return bool(self._finished) and self._begun == self._finished


def _opening(request: Mapping[str, Any]) -> Opening:
    model = text(request.get("model"))
    messages, tools = request.get("messages"), request.get("tools")
    prompt = estimate_chat_tokens(
        messages if isinstance(messages, list) else (),
        tools if isinstance(tools, list) else None,
        model=model,
    )
    # A schema is part of the prompt, and billed with it.
    if schema := within(request, "response_format", "json_schema"):
        prompt += count_tokens(json.dumps(schema, separators=(",", ":")), model)
    return Opening(
        estimate=Quantities(input_tokens=prompt),
        model=model or None,
        stream=bool(request.get("stream")),
        content=messages,
    )


def _generated(part: Any) -> str:
    """Everything in a delta or message that was generated, as one text."""
    found = [
        within(part, name) for name in ("content", "refusal", "reasoning_content", "reasoning")
    ]
    found.append(within(part, "audio", "transcript"))
    calls = [within(part, "function_call")]  # as it was called before there were tools
    calls += [call.get(kind) for call in objects(within(part, "tool_calls")) for kind in _CALLS]
    found += [within(call, name) for call in calls for name in ("name", "arguments", "input")]
    return "".join(map(text, found))
