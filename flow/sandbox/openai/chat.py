"""``POST /v1/chat/completions``, streamed and not."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from flow.sandbox.bill import Bill, Line
from flow.sandbox.faults import Hits
from flow.sandbox.openai.chat_request import ChatRequest, parsed
from flow.sandbox.openai.errors import error_body
from flow.sandbox.openai.generator import Generator
from flow.sandbox.openai.models import served_model
from flow.sandbox.openai.replies import until_stop
from flow.sandbox.openai.reply_pieces import Generation, count, generate, message_of, usage_of
from flow.sandbox.stand_in import hits_of

FINGERPRINT = "fp_sandbox"
_SAME_ID = "chatcmpl-sandbox-same-id"


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the model is, in seconds: until its first token, and from one to the next."""

    first_token_secs: float = 0.0
    token_secs: float = 0.0

    def under(self, hits: Hits) -> Pace:
        """The pace under these faults: ``slow_tokens`` says how slow tokens are."""
        slow = hits.of("slow_tokens")
        return replace(self, token_secs=slow.delay_secs) if slow else self


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a vendor's chat completions differ from OpenAI's.

    ``served`` gives the model behind the name in a request, or refuses it with an `ApiError`;
    ``preface`` is what a stream's first chunk holds where that one has no choices;
    ``reports_unasked``: usage is in the last chunk of every stream, whether asked for or not;
    ``reports_in_chunks``: usage so far is in every chunk, for those who ask for it, and there is
    none of its own; ``usage`` makes the report of what is billed; ``error`` an error of a stream.
    """

    served: Callable[[str], str] = served_model
    preface: Mapping[str, Any] = field(default_factory=dict)
    reports_unasked: bool = False
    reports_in_chunks: bool = False
    usage: Callable[..., dict[str, Any]] = usage_of
    error: Callable[[int, str], Any] = error_body


OPENAI = Dialect()


class Chat:
    """Answers chat completions and bills them."""

    def __init__(self, generator: Generator, pace: Pace, dialect: Dialect = OPENAI) -> None:
        self._generator = generator
        self._pace = pace
        self._dialect = dialect

    async def __call__(self, request: Request) -> Response:
        """Serve one request.

        Raises:
            ApiError: the request is refused.
        """
        chat = await parsed(request)
        hits = hits_of(request)
        reply = self._generator.reply(chat.to_json(), hits, param="response_format")
        generation = generate(until_stop(reply, chat.stop), chat.most_tokens)
        line = self._line(chat, request, hits)
        work = _Work(chat, line, generation, self._pace, hits, self._dialect)
        return await self._generator.answer(line, work)

    def _line(self, chat: ChatRequest, request: Request, hits: Hits) -> Line:
        schema = (chat.response_format or {}).get("json_schema")
        return self._generator.line(
            request,
            chat.to_json(),
            self._dialect.served(chat.model),
            _SAME_ID if hits.of("same_id") else f"chatcmpl-{uuid4().hex}",
            messages=chat.to_json()["messages"],
            extras=[*(chat.tools or []), *([schema] if schema else [])],
        )


class _Work:
    """One request being served: its line counts what has been generated so far."""

    def __init__(
        self,
        chat: ChatRequest,
        line: Line,
        generation: Generation,
        pace: Pace,
        hits: Hits,
        dialect: Dialect,
    ) -> None:
        self._pace = pace.under(hits)
        self._dialect = dialect
        self._wants_usage = bool(chat.stream_options and chat.stream_options.include_usage)
        self._line = line
        self._generation = generation
        self._hits = hits
        self._created = int(time.time())

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        await asyncio.sleep(self._pace.first_token_secs)
        for piece in self._generation.pieces:
            if self._pace.token_secs:
                await asyncio.sleep(self._pace.token_secs)
            count(self._line.amounts, piece)
        choice = {
            "index": 0,
            "message": message_of(self._generation.pieces),
            "logprobs": None,
            "finish_reason": self._generation.finish_reason,
        }
        answer = self._envelope("chat.completion")
        answer["choices"] = [] if self._hits.of("empty_choices") else [choice]
        return answer if self._hits.of("no_usage") else answer | {"usage": self._usage()}

    async def stream(self, bill: Bill) -> AsyncGenerator[bytes]:
        """The answer as server-sent events, with whatever is to go wrong in it."""
        broken = self._hits.of("error_chunk", "malformed_chunk")
        sent = 0
        async with aclosing(self._events()) as events:
            async for event in events:
                if broken is not None and sent == broken.chunks:
                    if broken.kind == "error_chunk":
                        bill.close(self._line, "failed")
                        yield _event(
                            self._dialect.error(500, "The server had an error while answering.")
                        )
                        return
                    yield b'data: {"id": "\n\n'
                if self._hits.of("empty_choices"):
                    yield _event(self._envelope("chat.completion.chunk") | {"choices": []})
                yield _event(event)
                sent += 1
        bill.close(self._line, "complete")
        yield b"data: [DONE]\n\n"

    async def _events(self) -> AsyncGenerator[dict[str, Any]]:
        if self._dialect.preface:
            yield {**self._dialect.preface}
        await asyncio.sleep(self._pace.first_token_secs)
        yield self._chunk({"role": "assistant", "content": "", "refusal": None})
        for piece in self._generation.pieces:
            await asyncio.sleep(self._pace.token_secs)
            count(self._line.amounts, piece)
            if piece.delta:
                yield self._chunk(piece.delta)
        last = self._chunk({}, self._generation.finish_reason)
        reports_once = not self._hits.of("no_usage", "cumulative_usage")
        if self._dialect.reports_unasked and reports_once:
            last |= {"usage": self._usage()}
        yield last
        if self._wants_usage and reports_once and not self._dialect.reports_in_chunks:
            yield self._envelope("chat.completion.chunk") | {"choices": [], "usage": self._usage()}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunk = self._envelope("chat.completion.chunk") | {"choices": [choice]}
        in_chunks = self._dialect.reports_in_chunks and self._wants_usage
        if self._hits.of("cumulative_usage") or (in_chunks and not self._hits.of("no_usage")):
            return chunk | {"usage": self._usage()}
        return chunk | {"usage": None} if self._wants_usage else chunk

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._line.response_id,
            "object": kind,
            "created": self._created,
            "model": self._line.model,
            "service_tier": self._line.service_tier,
            "system_fingerprint": FINGERPRINT,
        }

    def _usage(self) -> dict[str, Any]:
        return self._dialect.usage(
            self._line.amounts, details=not self._hits.of("null_usage_details")
        )


def _event(data: object) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
