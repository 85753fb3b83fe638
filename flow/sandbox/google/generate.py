"""``models.generateContent`` and ``models.streamGenerateContent``, and ``models.countTokens``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flow.sandbox.bill import Amounts, Bill, Line
from flow.sandbox.faults import Hits
from flow.sandbox.google.errors import error_body
from flow.sandbox.google.generate_request import GenerateRequest, parsed
from flow.sandbox.google.prompt import read_prompt
from flow.sandbox.google.usage import by_modality, usage_metadata
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.errors import ApiError
from flow.sandbox.openai.replies import Reply, Script, Unfit, decide, until_stop
from flow.sandbox.openai.reply_pieces import Generation, Piece, count, generate, message_of
from flow.sandbox.openai.tokens import PromptCache
from flow.sandbox.server import Stream
from flow.sandbox.stand_in import exchange_of, hits_of

TOKENS_A_CHUNK = 3
_SAME_ID = "sandbox-same-id"
_FINISH_REASONS = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP"}

Chunk = dict[str, Any]


class Generate:
    """Answers requests for content and bills them by Google's rule: the whole prompt, of which a
    part may be cached, and what was generated with what was thought."""

    def __init__(self, bill: Bill, script: Script, pace: Pace) -> None:
        self._bill = bill
        self._script = script
        self._pace = pace
        self._cache = PromptCache()

    async def __call__(self, request: Request, model: str, *, stream: bool) -> Response:
        """Serve one request.

        Raises:
            ApiError: the request is refused.
        """
        asked, hits = await parsed(request), hits_of(request)
        reply = self._reply(asked, hits)
        line = self._line(asked, request, model, stream, hits)
        limit = asked.generation_config.max_output_tokens
        work = _Work(line, None if reply is None else generate(reply, limit), self._pace, hits)
        self._bill.start(line)
        if stream:
            is_sse = request.query_params.get("alt") == "sse"
            return Stream(
                work.events(self._bill) if is_sse else work.array(self._bill),
                "text/event-stream" if is_sse else "application/json; charset=UTF-8",
                on_end=lambda: self._bill.close(line, "disconnected"),
            )
        try:
            answer = await work.whole()
            self._bill.close(line, "complete")
        finally:
            self._bill.close(line, "disconnected")
        return JSONResponse(answer)

    async def count_tokens(self, request: Request) -> Response:
        """How long the prompt is; nobody pays for that."""
        body = json.loads(await request.body() or b"{}")
        asked = GenerateRequest.model_validate(body.get("generateContentRequest") or body)
        prompt = read_prompt(asked)
        total = len(prompt.tokens)
        details = by_modality(total, prompt.audio)
        return JSONResponse({"totalTokens": total, "promptTokensDetails": details})

    def _reply(self, asked: GenerateRequest, hits: Hits) -> Reply | None:
        """What to say; ``None`` where the prompt is blocked."""
        if hits.of("empty_reply"):
            return Reply()
        if hits.of("refusal"):
            return None
        try:
            reply = decide(self._script, asked.as_chat())
        except Unfit as error:
            raise ApiError(400, str(error)) from None
        if reply.refusal is not None:
            return None
        return until_stop(reply, asked.generation_config.stop_sequences)

    def _line(
        self, asked: GenerateRequest, request: Request, model: str, stream: bool, hits: Hits
    ) -> Line:
        exchange, prompt = exchange_of(request), read_prompt(asked)
        cached, _ = self._cache.read_and_write(model, prompt)
        return Line(
            request_id=exchange.request_id,
            kind="llm",
            model=model,
            requested_model=model,
            headers=exchange.headers,
            response_id=_SAME_ID if hits.of("same_id") else uuid4().hex[:22],
            stream=stream,
            amounts=Amounts(
                prompt_tokens=len(prompt.tokens),
                cached_tokens=cached,
                prompt_audio_tokens=prompt.audio,
            ),
        )


class _Work:
    """One request being served: its line counts what has been generated so far.

    Without a ``generation`` the prompt is blocked, which costs what was read.
    """

    def __init__(self, line: Line, generation: Generation | None, pace: Pace, hits: Hits) -> None:
        self._pace = pace.under(hits)
        self._line = line
        self._generation = generation
        self._hits = hits

    async def whole(self) -> Chunk:
        """The answer in one piece."""
        parts: list[Any] = []
        last: Chunk = {}
        async for last in self._chunks():
            for candidate in last.get("candidates") or ():
                parts += candidate["content"].get("parts") or ()
        if "candidates" in last:
            said = "".join(part["text"] for part in parts if "text" in part)
            calls = [part for part in parts if "functionCall" in part]
            parts = [*([{"text": said}] if said else []), *calls]
            last["candidates"][0]["content"] = {"parts": parts, "role": "model"}
        return self._without_candidates(last) if self._hits.of("empty_choices") else last

    async def events(self, bill: Bill) -> AsyncGenerator[bytes]:
        """The answer as server-sent events, with whatever is to go wrong in it."""
        async with aclosing(self._parts(bill)) as parts:
            async for part in parts:
                yield b"data: " + part + b"\r\n\r\n"

    async def array(self, bill: Bill) -> AsyncGenerator[bytes]:
        """The answer as a JSON array, chunk by chunk."""
        opened = b"["
        async with aclosing(self._parts(bill)) as parts:
            async for part in parts:
                yield opened + part + b"\n"
                opened = b",\r\n"
        yield b"]"

    async def _parts(self, bill: Bill) -> AsyncGenerator[bytes]:
        broken = self._hits.of("error_chunk", "malformed_chunk")
        sent = 0
        async with aclosing(self._chunks()) as chunks:
            async for chunk in chunks:
                if broken is not None and sent == broken.chunks:
                    if broken.kind == "error_chunk":
                        bill.close(self._line, "failed")
                        yield _sent(error_body(503, "The model is overloaded."))
                        return
                    yield b'{"candidates": '
                if self._hits.of("empty_choices"):
                    yield _sent(self._without_candidates(chunk))
                if _is_last(chunk):
                    bill.close(self._line, "complete")
                yield _sent(chunk)
                sent += 1

    async def _chunks(self) -> AsyncGenerator[Chunk]:
        await asyncio.sleep(self._pace.first_token_secs)
        if self._generation is None:
            blocked = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}
            yield blocked | self._about()
            return
        for pieces in _batches(self._generation.pieces):
            for piece in pieces:
                await asyncio.sleep(self._pace.token_secs)
                count(self._line.amounts, piece)
            if said := _text(pieces):
                yield self._candidate([{"text": said}]) | self._about()
        called = message_of(self._generation.pieces).get("tool_calls", ())
        parts = [{"functionCall": _call(one["function"])} for one in called]
        reason = _FINISH_REASONS[self._generation.finish_reason]
        yield self._candidate(parts or [{"text": ""}], reason) | self._about()

    def _candidate(self, parts: list[Chunk], finish_reason: str | None = None) -> Chunk:
        candidate: Chunk = {"content": {"parts": parts, "role": "model"}, "index": 0}
        if finish_reason:
            candidate["finishReason"] = finish_reason
        return {"candidates": [candidate]}

    def _about(self) -> Chunk:
        """What every chunk says: usage so far, the model and the answer's id."""
        said: Chunk = {"modelVersion": self._line.model, "responseId": self._line.response_id}
        if self._hits.of("no_usage"):
            return said
        is_bare = bool(self._hits.of("null_usage_details"))
        return {"usageMetadata": usage_metadata(self._line.amounts, details=not is_bare), **said}

    def _without_candidates(self, chunk: Chunk) -> Chunk:
        return {name: value for name, value in chunk.items() if name != "candidates"}


def _batches(pieces: Sequence[Piece]) -> Iterator[Sequence[Piece]]:
    """What goes into a chunk together."""
    for start in range(0, len(pieces), TOKENS_A_CHUNK):
        yield pieces[start : start + TOKENS_A_CHUNK]


def _text(pieces: Sequence[Piece]) -> str:
    return "".join(piece.delta.get("content", "") for piece in pieces)


def _is_last(chunk: Chunk) -> bool:
    candidates = chunk.get("candidates") or ()
    return "promptFeedback" in chunk or any("finishReason" in one for one in candidates)


def _call(function: Chunk) -> Chunk:
    return {"name": function["name"], "args": json.loads(function["arguments"] or "{}")}


def _sent(chunk: Chunk) -> bytes:
    return json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode()
