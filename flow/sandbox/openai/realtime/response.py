"""One response of a session, from its creation until it is done."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any
from uuid import uuid4

from flow.sandbox.bill import Amounts, Bill, Line
from flow.sandbox.faults import Hits
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.realtime.conversation import (
    OUTPUT_AUDIO_TOKENS_PER_SEC,
    Conversation,
    Item,
)
from flow.sandbox.openai.realtime.input_audio import BYTES_PER_MS
from flow.sandbox.openai.reply_pieces import Generation, Piece, count

_RATE_LIMITS = [
    {"name": "requests", "limit": 10_000, "remaining": 9_999, "reset_seconds": 0.006},
    {"name": "tokens", "limit": 800_000, "remaining": 799_000, "reset_seconds": 0.075},
]
_SERVER_ERROR = "The server had an error while processing your request."

Send = Callable[..., Awaitable[None]]
"""Sends a server event: its type, and its fields."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a response is to say. ``sound`` is its text spoken, where it is to be heard."""

    generation: Generation
    sound: bytes
    modality: str


class RealtimeResponse:
    """Generates one reply, tells of it, and bills what has been generated when it ends.

    Args:
        line: its line on the bill, with the prompt that was read.
        settings: the fields of the response object that do not change.
    """

    def __init__(
        self,
        line: Line,
        reply: Reply,
        settings: Mapping[str, Any],
        *,
        conversation: Conversation,
        bill: Bill,
        send: Send,
        pace: Pace,
        hits: Hits,
    ) -> None:
        self._pace = pace.under(hits)
        self._line = line
        self._reply = reply
        self._settings = settings
        self._conversation = conversation
        self._bill = bill
        self._send = send
        self._hits = hits
        self._items: list[Item] = []
        self._pieces = 0
        self._spoken = 0
        self._cancelled: str | None = None
        self._task = asyncio.create_task(self._run())

    @property
    def is_over(self) -> bool:
        """Whether it is done."""
        return self._task.done()

    async def cancel(self, reason: str) -> None:
        """End it before its end, because of ``turn_detected`` or ``client_cancelled``."""
        self._cancelled = reason
        # Before its first step it would tell of no end.
        await asyncio.sleep(0)
        await self.drop()

    async def drop(self) -> None:
        """End it without a word: the client is gone."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        # A task that is cancelled before its first step never takes one.
        self._bill.close(self._line, "disconnected")

    async def _run(self) -> None:
        try:
            await self._tell("response.created", response=self._state("in_progress"))
            await self._send("rate_limits.updated", rate_limits=_RATE_LIMITS)
            await asyncio.sleep(self._pace.first_token_secs)
            failure = await self._generate()
        except asyncio.CancelledError:
            if self._cancelled is None:
                raise
            await self._end("cancelled", {"type": "cancelled", "reason": self._cancelled})
        else:
            if failure is not None:
                details = {"type": "failed", "error": {"type": failure, "code": failure}}
                await self._end("failed", details)
            elif self._reply.generation.finish_reason == "length":
                cut = {"type": "incomplete", "reason": "max_output_tokens"}
                await self._end("incomplete", cut)
            else:
                await self._end("completed", None)
        finally:
            self._bill.close(self._line, "disconnected")

    async def _generate(self) -> str | None:
        """Generate piece by piece; what it failed by, if it is to fail."""
        broken = self._hits.of("failed_response", "error_chunk")
        async for piece in self._paced(self._reply.generation.pieces):
            if broken is not None and self._pieces >= broken.chunks:
                if broken.kind == "error_chunk":
                    error = {"type": "server_error", "code": None, "message": _SERVER_ERROR}
                    await self._send("error", error=error)
                return "server_error"
            self._pieces += 1
            count(self._line.amounts, piece)
            if said := piece.delta.get("content") or piece.delta.get("refusal"):
                await self._say(said)
            for part in piece.delta.get("tool_calls", ()):
                await self._call(part)
        return None

    async def _paced(self, pieces: Sequence[Piece]) -> AsyncIterator[Piece]:
        for piece in pieces:
            await asyncio.sleep(self._pace.token_secs)
            yield piece

    async def _say(self, said: str) -> None:
        is_spoken = self._reply.modality == "audio"
        kind, field = ("audio", "transcript") if is_spoken else ("text", "text")
        if not self._items or self._items[-1].value["type"] != "message":
            part = {"type": kind, field: ""}
            await self._begin({"type": "message", "role": "assistant", "content": []})
            await self._tell("response.content_part.added", **self._place(0), part=part)
            self._items[-1].value["content"].append({"type": f"output_{kind}", field: ""})
        item = self._items[-1]
        content = item.value["content"][0]
        # Of what is truncated while it is made the words are forgotten, and it goes on.
        content[field] = content.get(field, "") + said
        if not is_spoken:
            await self._tell("response.output_text.delta", **self._place(0), delta=said)
            return
        item.words += said
        await self._tell("response.output_audio_transcript.delta", **self._place(0), delta=said)
        if sound := self._next_sound(item):
            delta = base64.b64encode(sound).decode()
            await self._tell("response.output_audio.delta", **self._place(0), delta=delta)

    def _next_sound(self, item: Item) -> bytes:
        """As much more of the sound as its words have come; it is billed as it is made."""
        sound, pieces = self._reply.sound, len(self._reply.generation.pieces)
        end = len(sound) if self._pieces == pieces else len(sound) * self._pieces // pieces // 2 * 2
        begin, self._spoken = self._spoken, end
        item.audio_secs = end / BYTES_PER_MS / 1000
        made = ceil(round(item.audio_secs * OUTPUT_AUDIO_TOKENS_PER_SEC, 6))
        amounts = self._line.amounts
        amounts.completion_tokens += made - amounts.completion_audio_tokens
        amounts.completion_audio_tokens = made
        return sound[begin:end]

    async def _call(self, part: Mapping[str, Any]) -> None:
        function = part["function"]
        if "id" in part:
            called = {"name": function["name"], "call_id": part["id"], "arguments": ""}
            await self._finish()
            await self._begin({"type": "function_call", **called})
        elif function["arguments"]:
            value = self._items[-1].value
            value["arguments"] += function["arguments"]
            told = {"call_id": value["call_id"], "delta": function["arguments"]}
            await self._tell("response.function_call_arguments.delta", **self._place(), **told)

    async def _begin(self, value: dict[str, Any]) -> None:
        given = {"id": f"item_{uuid4().hex[:24]}", "object": "realtime.item", **value}
        item = Item(given | {"status": "in_progress"})
        before = self._conversation.add(item)
        self._items.append(item)
        place = {"output_index": len(self._items) - 1, "item": item.value}
        await self._tell("response.output_item.added", **place)
        await self._send("conversation.item.added", previous_item_id=before, item=item.value)

    async def _finish(self, status: str = "completed") -> None:
        """End the item that is in progress, if one is."""
        if not self._items or self._items[-1].value["status"] != "in_progress":
            return
        item = self._items[-1]
        item.value["status"] = status
        for part in item.value.get("content", ()):
            await self._finish_part(part)
        if item.value["type"] == "function_call" and status == "completed":
            told = {name: item.value[name] for name in ("call_id", "name", "arguments")}
            await self._tell("response.function_call_arguments.done", **self._place(), **told)
        await self._send("conversation.item.done", previous_item_id=None, item=item.value)
        place = {"output_index": len(self._items) - 1, "item": item.value}
        await self._tell("response.output_item.done", **place)

    async def _finish_part(self, part: Mapping[str, Any]) -> None:
        place = self._place(0)
        if part["type"] == "output_audio":
            said = part.get("transcript", "")
            await self._tell("response.output_audio.done", **place)
            await self._tell("response.output_audio_transcript.done", **place, transcript=said)
            told = {"type": "audio", "transcript": said}
        else:
            await self._tell("response.output_text.done", **place, text=part["text"])
            told = {"type": "text", "text": part["text"]}
        await self._tell("response.content_part.done", **place, part=told)

    async def _end(self, status: str, details: Mapping[str, Any] | None) -> None:
        await self._finish("completed" if status == "completed" else "incomplete")
        failed = status == "failed"
        self._bill.close(self._line, "failed" if failed else "complete")
        done = {**self._state(status), "status_details": details}
        if failed and self._hits.of("error_chunk"):
            done["usage"] = None
        await self._send("response.done", response=done)

    def _place(self, content_index: int | None = None) -> dict[str, Any]:
        place = {"item_id": self._items[-1].id, "output_index": len(self._items) - 1}
        return place if content_index is None else {**place, "content_index": content_index}

    async def _tell(self, kind: str, **fields: Any) -> None:
        named = {} if "response" in fields else {"response_id": self._line.response_id}
        await self._send(kind, **named, **fields)

    def _state(self, status: str) -> dict[str, Any]:
        """The response object at this moment."""
        is_over = status != "in_progress"
        reports = is_over and not self._hits.of("no_usage")
        return {
            "object": "realtime.response",
            "id": self._line.response_id,
            "status": status,
            "status_details": None,
            "output": [item.value for item in self._items],
            "conversation_id": self._conversation.id,
            **self._settings,
            "usage": usage_of(self._line.amounts, self._hits) if reports else None,
            "metadata": None,
        }


def usage_of(amounts: Amounts, hits: Hits) -> dict[str, Any]:
    """The amounts as a response's ``usage``."""
    a, details = amounts, not hits.of("null_usage_details")
    read = {
        "text_tokens": a.prompt_tokens - a.prompt_audio_tokens,
        "audio_tokens": a.prompt_audio_tokens,
        "image_tokens": 0,
        "cached_tokens": a.cached_tokens,
        "cached_tokens_details": {
            "text_tokens": a.cached_tokens - a.cached_audio_tokens,
            "audio_tokens": a.cached_audio_tokens,
            "image_tokens": 0,
        },
    }
    made = {
        "text_tokens": a.completion_tokens - a.completion_audio_tokens,
        "audio_tokens": a.completion_audio_tokens,
    }
    return {
        "total_tokens": a.prompt_tokens + a.completion_tokens,
        "input_tokens": a.prompt_tokens,
        "output_tokens": a.completion_tokens,
        "input_token_details": read if details else None,
        "output_token_details": made if details else None,
    }
