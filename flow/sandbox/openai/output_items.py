"""The output of a response, item by item, as the events of a stream tell it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from flow.sandbox.openai.reply_pieces import Piece

Event = dict[str, Any]

# By the field of a chat's delta: the type of the content part, and its field for the text.
_PARTS = {"content": ("output_text", "text"), "refusal": ("refusal", "refusal")}
_IDS = {"message": "msg", "function_call": "fc", "reasoning": "rs"}


class OutputItems:
    """Puts the pieces of a reply together to items, and tells each change as an event.

    ``items`` are those so far, the last of which may still be in progress.
    """

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None

    def add(self, piece: Piece) -> Iterator[Event]:
        """The events of one more piece."""
        if piece.reasoning_tokens and not self._is_open("reasoning"):
            yield from self._begin("reasoning", summary=[])
        for name in _PARTS:
            if said := piece.delta.get(name):
                yield from self._say(name, said)
        for part in piece.delta.get("tool_calls", ()):
            yield from self._call(part)

    def close(self, status: str = "completed") -> Iterator[Event]:
        """The events that end the item in progress, if there is one."""
        item, self._open = self._open, None
        if item is None:
            return
        if item["type"] == "function_call":
            done = item["arguments"]
            yield self._event("function_call_arguments.done", item, arguments=done)
        for index, part in enumerate(item.get("content", ())):
            where = {"content_index": index}
            kind, field = part["type"], part["type"].removeprefix("output_")
            more: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
            yield self._event(f"{kind}.done", item, **where, **{field: part[field]}, **more)
            yield self._event("content_part.done", item, **where, part=part)
        if "status" in item:
            item["status"] = status
        yield {**self._place("output_item.done"), "item": item}

    def _say(self, name: str, said: str) -> Iterator[Event]:
        kind, field = _PARTS[name]
        if not self._is_open("message"):
            yield from self._begin("message", status="in_progress", role="assistant", content=[])
        item = self._open
        assert item is not None
        if not item["content"]:
            part: dict[str, Any] = {"type": kind, field: ""}
            if kind == "output_text":
                part |= {"annotations": [], "logprobs": []}
            item["content"].append(part)
            yield self._event("content_part.added", item, content_index=0, part=part)
        item["content"][0][field] += said
        more: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
        yield self._event(f"{kind}.delta", item, content_index=0, delta=said, **more)

    def _call(self, part: dict[str, Any]) -> Iterator[Event]:
        function = part["function"]
        if "id" in part:
            called = {"call_id": part["id"], "name": function["name"], "arguments": ""}
            yield from self._begin("function_call", status="in_progress", **called)
        elif function["arguments"]:
            item = self._open
            assert item is not None
            item["arguments"] += function["arguments"]
            told = {"delta": function["arguments"]}
            yield self._event("function_call_arguments.delta", item, **told)

    def _begin(self, kind: str, **fields: Any) -> Iterator[Event]:
        yield from self.close()
        self._open = {"id": f"{_IDS[kind]}_{uuid4().hex}", "type": kind, **fields}
        self.items.append(self._open)
        yield {**self._place("output_item.added"), "item": self._open}

    def _is_open(self, kind: str) -> bool:
        return self._open is not None and self._open["type"] == kind

    def _event(self, kind: str, item: dict[str, Any], **fields: Any) -> Event:
        return {**self._place(kind), "item_id": item["id"], **fields}

    def _place(self, kind: str) -> Event:
        return {"type": f"response.{kind}", "output_index": len(self.items) - 1}
