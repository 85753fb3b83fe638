"""``POST /v1/messages``, streamed and not, and ``/v1/messages/count_tokens``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flow.sandbox.anthropic_prompt import Prompt, PromptCache, WrongOrder, read_prompt
from flow.sandbox.anthropic_request import MessageRequest, parsed
from flow.sandbox.bill import Amounts, Bill, Line
from flow.sandbox.faults import Hits
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.errors import ApiError
from flow.sandbox.openai.replies import REFUSAL, Reply, Script, Unfit, decide, until_stop
from flow.sandbox.openai.reply_pieces import Generation, count, generate, message_of
from flow.sandbox.server import Stream
from flow.sandbox.stand_in import exchange_of, hits_of

_SAME_ID = "msg_sandbox_same_id"
# What an alias stands for (docs.claude.com, "Models overview").
_DATED = {
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
    "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
    "claude-opus-4-5": "claude-opus-4-5-20251101",
}
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_SEED_TOKENS = 1

Event = dict[str, Any]


class Messages:
    """Answers messages and bills them by Anthropic's rule: uncached input, cache reads, cache
    writes by lifetime, and output."""

    def __init__(self, bill: Bill, script: Script, pace: Pace) -> None:
        self._bill = bill
        self._script = script
        self._pace = pace
        self._cache = PromptCache()

    async def __call__(self, request: Request) -> Response:
        """Serve one request.

        Raises:
            ApiError: the request is refused.
        """
        asked, hits = await parsed(request), hits_of(request)
        reply = self._reply(asked, hits)
        generation = generate(reply, asked.max_tokens)
        line = self._line(asked, request, hits)
        work = _Work(line, generation, reply, self._pace, hits)
        self._bill.start(line)
        headers = {"request-id": line.request_id}
        if asked.stream:
            return Stream(
                work.stream(self._bill),
                "text/event-stream; charset=utf-8",
                on_end=lambda: self._bill.close(line, "disconnected"),
                headers=headers,
            )
        try:
            answer = await work.whole()
            self._bill.close(line, "complete")
        finally:
            self._bill.close(line, "disconnected")
        return JSONResponse(answer, headers=headers)

    async def count_tokens(self, request: Request) -> Response:
        """How long the prompt is; nobody pays for that."""
        body = {"max_tokens": 1, **json.loads(await request.body() or b"{}")}
        return JSONResponse({"input_tokens": len(_prompt(body).tokens)})

    def _reply(self, asked: MessageRequest, hits: Hits) -> Reply:
        if hits.of("empty_reply"):
            return Reply()
        if hits.of("refusal"):
            return Reply(refusal=REFUSAL)
        try:
            reply = until_stop(decide(self._script, asked.as_chat()), asked.stop_sequences)
        except Unfit as error:
            raise ApiError(400, str(error)) from None
        if (asked.tool_choice or {}).get("disable_parallel_tool_use"):
            return replace(reply, tool_calls=reply.tool_calls[:1])
        return reply

    def _line(self, asked: MessageRequest, request: Request, hits: Hits) -> Line:
        exchange = exchange_of(request)
        model = _DATED.get(asked.model, asked.model)
        prompt = _prompt(asked.to_json())
        cache = self._cache.use(model, prompt)
        return Line(
            request_id=exchange.request_id,
            kind="llm",
            model=model,
            requested_model=asked.model,
            headers=exchange.headers,
            response_id=_SAME_ID if hits.of("same_id") else f"msg_{uuid4().hex}",
            service_tier="standard",
            stream=bool(asked.stream),
            amounts=Amounts(
                prompt_tokens=len(prompt.tokens),
                cached_tokens=cache.read,
                cache_write_tokens=cache.written,
                cache_write_1h_tokens=cache.written_for_an_hour,
            ),
        )


class _Work:
    """One request being served: its line counts what has been generated so far."""

    def __init__(
        self, line: Line, generation: Generation, reply: Reply, pace: Pace, hits: Hits
    ) -> None:
        self._pace = pace.under(hits)
        self._line = line
        self._generation = generation
        refused = reply.refusal is not None
        self._stop_reason = "refusal" if refused else _STOP_REASONS[generation.finish_reason]
        self._hits = hits

    async def whole(self) -> Event:
        """The message in one piece."""
        await asyncio.sleep(self._pace.first_token_secs)
        for piece in self._generation.pieces:
            if self._pace.token_secs:
                await asyncio.sleep(self._pace.token_secs)
            count(self._line.amounts, piece)
        said = message_of(self._generation.pieces)
        text = said["content"] or said["refusal"]
        blocks: list[Event] = [{"type": "text", "text": text, "citations": None}] if text else []
        calls = [call["function"] for call in said.get("tool_calls", ())]
        blocks += [_call(call, json.loads(call["arguments"])) for call in calls]
        message = self._message() | {"content": blocks, "stop_reason": self._stop_reason}
        return message | self._usage(self._line.amounts.completion_tokens)

    async def stream(self, bill: Bill) -> AsyncGenerator[bytes]:
        """The message as server-sent events, with whatever is to go wrong in it."""
        broken = self._hits.of("error_chunk", "malformed_chunk")
        sent = 0
        async with aclosing(self._events()) as events:
            async for event in events:
                if broken is not None and sent == broken.chunks:
                    if broken.kind == "error_chunk":
                        bill.close(self._line, "failed")
                        error = {"type": "overloaded_error", "message": "Overloaded"}
                        yield _sent({"type": "error", "error": error})
                        return
                    yield b'event: content_block_delta\ndata: {"type": "\n\n'
                if self._hits.of("empty_choices"):
                    yield _sent({"type": "ping"})
                if event["type"] == "message_stop":
                    bill.close(self._line, "complete")
                yield _sent(event)
                sent += 1

    async def _events(self) -> AsyncGenerator[Event]:
        await asyncio.sleep(self._pace.first_token_secs)
        start = self._message() | {"content": [], "stop_reason": None} | self._usage(_SEED_TOKENS)
        yield {"type": "message_start", "message": start}
        blocks = _Blocks()
        for piece in self._generation.pieces:
            await asyncio.sleep(self._pace.token_secs)
            count(self._line.amounts, piece)
            for event in blocks.events(piece.delta):
                yield event
        for event in blocks.stop():
            yield event
        delta = {"stop_reason": self._stop_reason, "stop_sequence": None}
        yield {"type": "message_delta", "delta": delta} | self._last_usage()
        yield {"type": "message_stop"}

    def _message(self) -> Event:
        return {
            "id": self._line.response_id,
            "type": "message",
            "role": "assistant",
            "model": self._line.model,
            "stop_sequence": None,
        }

    def _last_usage(self) -> Event:
        usage = self._usage(self._line.amounts.completion_tokens)
        if usage and not self._hits.of("cumulative_usage"):
            kept = ("output_tokens", "output_tokens_details")
            usage["usage"] = {name: usage["usage"][name] for name in kept}
        return usage

    def _usage(self, output_tokens: int) -> Event:
        if self._hits.of("no_usage"):
            return {}
        amounts = self._line.amounts
        written, hour = amounts.cache_write_tokens, amounts.cache_write_1h_tokens
        lifetimes = {
            "ephemeral_5m_input_tokens": written - hour,
            "ephemeral_1h_input_tokens": hour,
        }
        thinking = {"thinking_tokens": amounts.reasoning_tokens}
        is_bare = bool(self._hits.of("null_usage_details"))
        usage = {
            "input_tokens": amounts.prompt_tokens - amounts.cached_tokens - written,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": amounts.cached_tokens,
            "cache_creation": None if is_bare else lifetimes,
            "output_tokens": output_tokens,
            "output_tokens_details": None if is_bare else thinking,
            "service_tier": self._line.service_tier,
        }
        return {"usage": usage}


class _Blocks:
    """The blocks of a message, from the steps in which its reply is generated."""

    def __init__(self) -> None:
        self._index = -1
        self._open: object = None

    def events(self, delta: Event) -> Iterator[Event]:
        """What a step adds."""
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                yield from self._start(call["index"], _call(call["function"], {}))
            if arguments := call["function"].get("arguments"):
                yield self._delta({"type": "input_json_delta", "partial_json": arguments})
        if text := delta.get("content") or delta.get("refusal"):
            if self._open != "text":
                yield from self._start("text", {"type": "text", "text": ""})
            yield self._delta({"type": "text_delta", "text": text})

    def stop(self) -> Iterator[Event]:
        """End the block that is open."""
        if self._open is not None:
            yield {"type": "content_block_stop", "index": self._index}
        self._open = None

    def _start(self, name: object, block: Event) -> Iterator[Event]:
        yield from self.stop()
        self._index += 1
        self._open = name
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _delta(self, delta: Event) -> Event:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


def _call(function: Event, given: Any) -> Event:
    name = function["name"]
    return {"type": "tool_use", "id": f"toolu_{uuid4().hex[:24]}", "name": name, "input": given}


def _prompt(request: dict[str, Any]) -> Prompt:
    try:
        return read_prompt(request)
    except WrongOrder as error:
        raise ApiError(400, str(error)) from None


def _sent(event: Event) -> bytes:
    data = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    return f"event: {event['type']}\ndata: {data}\n\n".encode()
