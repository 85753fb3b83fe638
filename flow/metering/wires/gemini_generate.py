"""Gemini's generateContent and streamGenerateContent (ai.google.dev/api/generate-content).

A stream comes as server-sent events with ``alt=sse``, else as a JSON array. Each of its chunks may
report the usage so far; the last report counts. The model is in the path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from flow.domain.usage.events import Quantities
from flow.domain.usage.token_estimates import count_tokens, estimate_chat_tokens
from flow.domain.usage.vendor_reports import Counting, from_gemini_usage
from flow.metering.evidence import Completed, Evidence, Noted, Opening, Output, Served
from flow.metering.wires.gemini_content import field, functions, generated, messages, searched
from flow.metering.wires.json_array import JsonArray
from flow.metering.wires.json_exchange import JsonExchange, objects, report, text, within
from flow.metering.wires.reader import (
    FREE,
    Free,
    HttpAnswer,
    HttpRequest,
    failed_in_answer,
    parsed,
    unreadable,
)

_METHOD = re.compile(r"/([^/:]+):(generateContent|streamGenerateContent|countTokens)$")
_TIER = "x-gemini-service-tier"


class GeminiGenerate:
    """Reads generated content."""

    def open(self, request: HttpRequest) -> GenerateExchange | Free | None:
        """An exchange for every ``POST .../<model>:generateContent`` and
        ``:streamGenerateContent``. Counting tokens costs nothing."""
        asked = _METHOD.search(request.path) if request.method == "POST" else None
        if asked is None:
            return None
        model, method = asked.groups()
        if method == "countTokens":
            return FREE
        return GenerateExchange(model, request.json, stream=method == "streamGenerateContent")

    def model_in(self, path: str) -> str | None:
        """The model of a generation; see `ModelInPath`."""
        asked = _METHOD.search(path)
        return asked[1] if asked and asked[2] != "countTokens" else None

    def path_of(self, path: str, model: str) -> str:
        """The path of the same generation by another model."""
        return _METHOD.sub(lambda asked: f"/{model}:{asked[2]}", path)


class GenerateExchange(JsonExchange):
    """One generation, streamed or whole."""

    def __init__(self, model: str, request: Mapping[str, Any], *, stream: bool) -> None:
        super().__init__(_opening(model, request, stream))
        self._array = JsonArray()
        self._has_chunks = False
        self._is_finished = False
        self._searched: Noted | None = None

    def answered(self, answer: HttpAnswer) -> Iterator[Evidence]:
        """Tell the forms of a stream apart."""
        yield from super().answered(answer)
        if tier := answer.headers.get(_TIER):
            yield Served(service_tier=tier)

    def body(self, data: bytes) -> Iterator[Evidence]:
        """Read the chunks in it."""
        self._begin(data)
        if self._events is not None:
            yield from super().body(data)
            return
        for chunk in self._array.feed(data):
            value = parsed(chunk)
            if isinstance(value, Mapping):
                yield from self._event(value)
            else:
                yield unreadable("a chunk of the stream")

    def _event(self, event: Mapping[str, Any]) -> Iterator[Evidence]:
        self._has_chunks = True
        if event.get("error"):
            yield failed_in_answer(within(event, "error", "status"))
        if model := text(event.get("modelVersion")):
            yield Served(model)
        is_finished = bool(within(event, "promptFeedback", "blockReason"))
        for candidate in objects(event.get("candidates")):
            parts = list(objects(within(candidate, "content", "parts")))
            if parts:
                yield Output("".join(map(generated, parts)))
            is_finished = is_finished or bool(candidate.get("finishReason"))
            self._searched = next(searched(candidate), self._searched)
        self._is_finished = self._is_finished or is_finished
        if isinstance(usage := event.get("usageMetadata"), Mapping):
            # Vertex AI says ON_DEMAND and ON_DEMAND_FLEX.
            if tier := text(usage.get("serviceTier")) or text(usage.get("trafficType")):
                yield Served(service_tier=tier.lower().removeprefix("on_demand_"))
            tokens = from_gemini_usage(usage)
            yield from report(tokens, Counting.GEMINI, is_final=self._is_finished)
        if is_finished:
            if self._searched is not None:
                yield self._searched
            yield Completed()

    def _whole(self, answer: Any) -> Iterator[Evidence]:
        # All of it has been read as it came.
        if not self._has_chunks or not self._array.is_whole:
            yield unreadable("the answer")


def _opening(model: str, request: Mapping[str, Any], stream: bool) -> Opening:
    told = messages(field(request, "systemInstruction"), request.get("contents"))
    prompt = estimate_chat_tokens(told, functions(request.get("tools")), model=model)
    for name in ("responseSchema", "responseJsonSchema", "_responseJsonSchema"):
        if schema := field(request, "generationConfig", name):
            prompt += count_tokens(json.dumps(schema, separators=(",", ":")), model)
    return Opening(
        estimate=Quantities(input_tokens=prompt), model=model, stream=stream, content=told
    )
