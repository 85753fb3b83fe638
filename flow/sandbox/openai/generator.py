"""What chat completions and responses have in common: replies, and their lines on the bill."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flow.sandbox.bill import Amounts, Bill, Line
from flow.sandbox.faults import Hits
from flow.sandbox.openai.errors import ApiError
from flow.sandbox.openai.models import bills_cache_writes, served_tier
from flow.sandbox.openai.replies import REFUSAL, Reply, Script, Unfit, decide
from flow.sandbox.openai.tokens import PromptCache, read_prompt
from flow.sandbox.server import Stream
from flow.sandbox.stand_in import exchange_of


class Work(Protocol):
    """One request being served: its line counts what has been generated so far."""

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece."""

    def stream(self, bill: Bill) -> AsyncGenerator[bytes]:
        """The answer as server-sent events; closes the line at its end."""


class Generator:
    """Decides replies, and counts prompts with a prompt cache of its own.

    ``tier`` overrides the service tier that serves, as when OpenAI has no room for priority.
    """

    def __init__(self, bill: Bill, script: Script, tier: str | None = None) -> None:
        self.bill = bill
        self._script = script
        self._tier = tier
        self._cache = PromptCache()

    def reply(self, chat: Mapping[str, Any], hits: Hits, *, param: str) -> Reply:
        """The reply to a request in the form of a chat completion's.

        Raises:
            ApiError: no JSON fits the schema, which is in the request's field ``param``.
        """
        if hits.of("empty_reply"):
            return Reply()
        if hits.of("refusal"):
            return Reply(refusal=REFUSAL)
        try:
            return decide(self._script, chat)
        except Unfit as error:
            raise ApiError(400, str(error), param=param) from None

    def line(
        self,
        request: Request,
        asked: Mapping[str, Any],
        model: str,
        response_id: str,
        *,
        messages: list[dict[str, Any]],
        extras: Iterable[Any],
    ) -> Line:
        """The line of a request, with its prompt counted. ``model`` is the one that serves.

        ``asked`` is the request as it was sent, of which the fields that both APIs have are read.
        """
        exchange = exchange_of(request)
        prompt = read_prompt(messages, extras)
        scope = f"{model} {asked.get('prompt_cache_key') or ''}"
        cached, written = self._cache.read_and_write(scope, prompt)
        return Line(
            request_id=exchange.request_id,
            kind="llm",
            model=model,
            requested_model=asked["model"],
            headers=exchange.headers,
            response_id=response_id,
            service_tier=self._tier or served_tier(asked.get("service_tier")),
            stream=bool(asked.get("stream")),
            amounts=Amounts(
                prompt_tokens=len(prompt.tokens),
                cached_tokens=cached,
                cache_write_tokens=written if bills_cache_writes(model) else 0,
                prompt_audio_tokens=prompt.audio,
            ),
        )

    async def answer(self, line: Line, work: Work) -> Response:
        """Do the work of a line, and bill it however that ends."""
        bill = self.bill
        bill.start(line)
        headers = {"x-request-id": line.request_id, "openai-version": "2020-10-01"}
        if line.stream:
            return Stream(
                work.stream(bill),
                "text/event-stream; charset=utf-8",
                on_end=lambda: bill.close(line, "disconnected"),
                headers=headers,
            )
        try:
            answer = await work.whole()
            bill.close(line, "complete")
        finally:
            bill.close(line, "disconnected")
        return JSONResponse(answer, headers=headers)
