"""``POST /v1/responses``, streamed and not (platform.openai.com/docs/api-reference/responses)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from flow.sandbox.bill import Bill, Line
from flow.sandbox.faults import Hits
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.generator import Generator
from flow.sandbox.openai.models import served_model
from flow.sandbox.openai.output_items import Event, OutputItems
from flow.sandbox.openai.reply_pieces import Generation, count, generate
from flow.sandbox.openai.responses_request import ResponsesRequest, parsed
from flow.sandbox.stand_in import hits_of

_SAME_ID = "resp_sandbox_same_id"


class Responses:
    """Answers requests to the Responses API and bills them."""

    def __init__(self, generator: Generator, pace: Pace) -> None:
        self._generator = generator
        self._pace = pace

    async def __call__(self, request: Request) -> Response:
        """Serve one request.

        Raises:
            ApiError: the request is refused.
        """
        asked = await parsed(request)
        hits = hits_of(request)
        reply = self._generator.reply(asked.as_chat(), hits, param="text.format")
        line = self._line(asked, request, hits)
        work = _Work(asked, line, generate(reply, asked.max_output_tokens), self._pace, hits)
        return await self._generator.answer(line, work)

    def _line(self, asked: ResponsesRequest, request: Request, hits: Hits) -> Line:
        schema = [asked.wanted["schema"]] if "schema" in asked.wanted else []
        return self._generator.line(
            request,
            asked.to_json(),
            served_model(asked.model),
            _SAME_ID if hits.of("same_id") else f"resp_{uuid4().hex}",
            messages=asked.as_chat()["messages"],
            extras=[*(asked.tools or []), *schema],
        )


class _Work:
    """One request being served: its line counts what has been generated so far."""

    def __init__(
        self, asked: ResponsesRequest, line: Line, generation: Generation, pace: Pace, hits: Hits
    ) -> None:
        self._pace = pace.under(hits)
        self._asked = asked
        self._line = line
        self._generation = generation
        self._hits = hits
        self._output = OutputItems()
        self._created = int(time.time())

    async def whole(self) -> dict[str, Any]:
        """The response in one piece."""
        async with aclosing(self._generated()) as events:
            async for _ in events:
                pass
        return self._state(self._end)

    async def stream(self, bill: Bill) -> AsyncGenerator[bytes]:
        """The response as server-sent events, with whatever is to go wrong in it."""
        broken = self._hits.of("error_chunk", "malformed_chunk", "failed_response")
        sent = 0
        async with aclosing(self._events(bill)) as events:
            async for event in events:
                if broken is not None and sent == broken.chunks:
                    if broken.kind != "malformed_chunk":
                        bill.close(self._line, "failed")
                        yield _event(self._failure(broken.kind), sent)
                        return
                    yield b'event: response.output_text.delta\ndata: {"type": "\n\n'
                yield _event(event, sent)
                sent += 1

    async def _events(self, bill: Bill) -> AsyncGenerator[Event]:
        yield {"type": "response.created", "response": self._state("in_progress")}
        yield {"type": "response.in_progress", "response": self._state("in_progress")}
        async with aclosing(self._generated()) as events:
            async for event in events:
                yield event
        bill.close(self._line, "complete")
        yield {"type": f"response.{self._end}", "response": self._state(self._end)}

    async def _generated(self) -> AsyncGenerator[Event]:
        await asyncio.sleep(self._pace.first_token_secs)
        for piece in self._generation.pieces:
            await asyncio.sleep(self._pace.token_secs)
            count(self._line.amounts, piece)
            for event in self._output.add(piece):
                yield event
        for event in self._output.close(self._end):
            yield event

    @property
    def _end(self) -> str:
        return "incomplete" if self._generation.finish_reason == "length" else "completed"

    def _failure(self, kind: str) -> Event:
        """An error in mid-stream, or a response that failed and reports what it has used."""
        error = {"code": "server_error", "message": "The server had an error while answering."}
        if kind == "error_chunk":
            return {"type": "error", **error, "param": None}
        response = {**self._state("failed"), "error": error}
        return {"type": "response.failed", "response": response}

    def _state(self, status: str) -> dict[str, Any]:
        """The response object at this moment."""
        asked, is_over = self._asked, status != "in_progress"
        reports = is_over and not self._hits.of("no_usage")
        return {
            "id": self._line.response_id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"}
            if status == "incomplete"
            else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "model": self._line.model,
            "output": self._output.items if is_over else [],
            "parallel_tool_calls": True,
            "service_tier": self._line.service_tier if is_over else asked.service_tier or "auto",
            "temperature": asked.temperature,
            "text": {"format": asked.wanted},
            "tool_choice": asked.tool_choice or "auto",
            "tools": [{"strict": True, **tool} for tool in asked.tools or []],
            "top_p": asked.top_p,
            "usage": self._usage() if reports else None,
            "metadata": {},
        }

    def _usage(self) -> dict[str, Any]:
        amounts, details = self._line.amounts, not self._hits.of("null_usage_details")
        read = {
            "cached_tokens": amounts.cached_tokens,
            "cache_write_tokens": amounts.cache_write_tokens,
        }
        thought = {"reasoning_tokens": amounts.reasoning_tokens}
        return {
            "input_tokens": amounts.prompt_tokens,
            "input_tokens_details": read if details else None,
            "output_tokens": amounts.completion_tokens,
            "output_tokens_details": thought if details else None,
            "total_tokens": amounts.prompt_tokens + amounts.completion_tokens,
        }


def _event(event: Event, number: int) -> bytes:
    data = json.dumps(
        {**event, "sequence_number": number}, ensure_ascii=False, separators=(",", ":")
    )
    return f"event: {event['type']}\ndata: {data}\n\n".encode()
