"""OpenAI's Responses API, over HTTP and over WebSockets (platform.openai.com, "Responses").

Both carry the same events; usage is in the last one of a response. `ResponseEvents` reads them
however they come, for the taps of both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from flow.domain.usage.events import Failure, Quantities
from flow.domain.usage.token_estimates import count_tokens, estimate_chat_tokens
from flow.domain.usage.vendor_reports import Counting, from_openai_usage
from flow.metering.evidence import (
    Completed,
    Evidence,
    Failed,
    Opening,
    Output,
    Served,
)
from flow.metering.wires.answer import JsonExchange, objects, report, text, within
from flow.metering.wires.reader import FREE, Free, HttpRequest, failed_in_answer, unreadable

PATH = "/responses"
COUNT_PATH = "/responses/input_tokens"

_UNFINISHED = ("queued", "in_progress")
# Sound, and what a tool put out, are no text that the model wrote.
_NO_TEXT = ("response.audio.delta", "response.shell_call_output_content.delta")


class OpenAIResponses:
    """Reads responses over HTTP."""

    def open(self, request: HttpRequest) -> ResponseExchange | Free | None:
        """An exchange for every ``POST .../responses``. Counting tokens costs nothing."""
        if request.method != "POST":
            return None
        if request.path.endswith(COUNT_PATH):
            return FREE
        return ResponseExchange(request.json) if request.path.endswith(PATH) else None


class ResponseExchange(JsonExchange):
    """One response, streamed or whole."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        super().__init__(opening_of(request))
        self._events_read = ResponseEvents()

    def _event(self, event: Mapping[str, Any]) -> Iterator[Evidence]:
        return self._events_read.read(event)

    def _whole(self, answer: Any) -> Iterator[Evidence]:
        if not isinstance(within(answer, "output"), list):
            yield unreadable("the response")
            return
        if generated := "".join(_in_items(answer["output"])):
            yield Output(generated)
        yield from self._events_read.state(answer)


class ResponseEvents:
    """Reads the events of one response, each a JSON object with a ``type``.

    ``id`` is the response's own; ``is_over`` says that its last event has come, after which
    nothing more belongs to it. A response that was cancelled is over without being complete.
    """

    def __init__(self) -> None:
        self.id: str | None = None
        self.is_over = False

    def read(self, event: Mapping[str, Any]) -> Iterator[Evidence]:
        """What an event shows; one that is not known shows nothing."""
        kind = text(event.get("type"))
        if kind == "error":
            yield self._error(event)
        elif kind.endswith(".delta") and kind not in _NO_TEXT:
            if delta := text(event.get("delta")):
                yield Output(delta)
        elif kind == "response.output_item.added":
            if name := text(within(event, "item", "name")):
                yield Output(name)
        elif isinstance(response := event.get("response"), Mapping):
            yield from self.state(response)

    def state(self, response: Mapping[str, Any]) -> Iterator[Evidence]:
        """What a response object shows, at its beginning, in between or at its end."""
        self.id = text(response.get("id")) or self.id
        model, tier = text(response.get("model")), text(response.get("service_tier"))
        if model or tier:
            yield Served(model or None, tier or None)
        status = response.get("status")
        self.is_over = self.is_over or status not in _UNFINISHED
        if isinstance(usage := response.get("usage"), Mapping):
            is_final = status not in _UNFINISHED
            yield from report(from_openai_usage(usage), Counting.GROSS, is_final=is_final)
        if status in ("completed", "incomplete"):
            yield Completed()
        elif status == "failed":
            yield failed_in_answer(within(response, "error", "code"))

    def _error(self, event: Mapping[str, Any]) -> Failed:
        """A request refused over a WebSocket has the status that HTTP would have answered with."""
        self.is_over = True
        status = event.get("status")
        if isinstance(status, int) and 400 <= status < 600:
            return Failed(Failure("APIError", f"HTTP {status}", status))
        return failed_in_answer(event.get("code") or within(event, "error", "code"))


def opening_of(request: Mapping[str, Any]) -> Opening:
    """What a request shows: the body over HTTP, or the ``response.create`` over a WebSocket.

    What the vendor itself remembers (``previous_response_id``) is in no estimate.
    """
    model, tools = text(request.get("model")), request.get("tools")
    told = list(_messages(request))
    prompt = estimate_chat_tokens(told, tools if isinstance(tools, list) else None, model=model)
    # A schema is part of the prompt, and billed with it.
    if schema := within(request, "text", "format", "schema"):
        prompt += count_tokens(json.dumps(schema, separators=(",", ":")), model)
    return Opening(
        estimate=Quantities(input_tokens=prompt),
        model=model or None,
        stream=bool(request.get("stream")) or request.get("type") == "response.create",
        content=told,
    )


def _messages(request: Mapping[str, Any]) -> Iterator[Any]:
    """The input as messages of a chat."""
    if instructions := text(request.get("instructions")):
        yield {"role": "system", "content": instructions}
    given = request.get("input")
    if isinstance(given, str):
        yield {"role": "user", "content": given}
    for item in given if isinstance(given, list) else ():
        match within(item, "type"):
            case "function_call" | "custom_tool_call":
                called = {"name": item.get("name"), "arguments": item.get("arguments")}
                called["arguments"] = called["arguments"] or item.get("input")
                yield {"role": "assistant", "tool_calls": [{"function": called}]}
            case "function_call_output" | "custom_tool_call_output":
                yield {"role": "tool", "content": item.get("output")}
            case "reasoning":
                yield {"role": "assistant", "content": "".join(_in_items([item]))}
            case _:
                yield item


def _in_items(output: list[Any]) -> Iterator[str]:
    """The text of everything in these items that a model has written."""
    for item in objects(output):
        for name in ("name", "arguments", "input", "code"):
            yield text(item.get(name))
        for part in (*objects(item.get("content")), *objects(item.get("summary"))):
            yield text(part.get("text")) or text(part.get("refusal"))
