"""Watching chat completions of OpenAI's wire protocol, so that each is counted exactly once.

OpenAI reports usage in a stream's last chunk, which never comes when the caller barges in or
hangs up, nor when the stream breaks; the vendor bills the prompt and what it had generated all
the same. A watched stream is read by a task of its own, so that everything that arrived is
known at the moment it is closed, and what was not reported is estimated.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol
from uuid import UUID

import structlog

from flow.bot.metering import Meter, Work
from flow.domain.estimate import count_tokens, estimate_chat_tokens
from flow.domain.reported import accepted, from_openai_usage
from flow.domain.usage import Failure, Outcome, Provenance, Quantities

log = structlog.get_logger(__name__)

DRAIN_SECS = 30.0
RENEWED_CHARACTERS = 32


class ChatStream(Protocol):
    """What is used of the SDK's ``AsyncStream``."""

    def __aiter__(self) -> AsyncIterator[Any]: ...
    async def close(self) -> None:
        """Close the connection."""


class ChatWatch:
    """Watches every chat completion of one client.

    Args:
        meter: counts the generations.
        shape: makes the request that is sent of the one that was asked for (`Spending.request`).
        drain: read an abandoned stream to its end in the background, for at most
            `DRAIN_SECS`, for the vendor's own numbers instead of an estimate. The vendor goes
            on generating, and billing, for as long.
        keep_content: called with an event's id, its messages and its output, for analytics.
    """

    def __init__(
        self,
        meter: Meter,
        *,
        shape: Callable[[Mapping[str, Any], str], dict[str, Any]] | None = None,
        drain: bool = False,
        keep_content: Callable[[UUID, list[Any], str], None] | None = None,
    ) -> None:
        self._meter = meter
        self._shape = shape
        self._drain = drain
        self._keep_content = keep_content
        self._streams: set[WatchedStream] = set()

    def watch(self, client: Any) -> Any:
        """Make ``client.chat.completions.create`` a watched one; returns the client."""
        create = client.chat.completions.create

        async def watched_create(**request: Any) -> Any:
            return await self._create(create, request)

        client.chat.completions.create = watched_create
        return client

    async def close(self) -> None:
        """Wait for streams that are being drained, then count what is still open."""
        if self._streams:
            await asyncio.gather(*(stream.finished() for stream in self._streams))
        self._meter.close()

    async def _create(self, create: Callable[..., Awaitable[Any]], request: dict[str, Any]) -> Any:
        asked_for = request.get("model")
        if self._shape is not None:
            request = self._shape(request, self._meter.service.provider)
        generation = Generation(
            self._meter, request, self._keep_content, asked_for=asked_for and str(asked_for)
        )
        try:
            reply = await create(**request)
        except Exception as error:
            if generation.work.is_unread:
                failure = Failure(type(error).__name__, "the answer cannot be read")
                generation.finish(Outcome.ERROR, failure)
            else:
                # Each failed attempt was recorded on its own, with its status.
                generation.work.discard()
            raise
        except BaseException:
            generation.finish(Outcome.INTERRUPTED)
            raise
        if not request.get("stream"):
            generation.see(reply)
            generation.finish(Outcome.OK)
            return reply
        stream = WatchedStream(reply, generation, drain=self._drain)
        self._streams = {one for one in self._streams if not one.done} | {stream}
        return stream


class Generation:
    """What is known of one chat completion so far.

    ``asked_for`` is the model that the call asked for, where save mode sends another.
    """

    def __init__(
        self,
        meter: Meter,
        request: Mapping[str, Any],
        keep_content: Callable[[UUID, list[Any], str], None] | None,
        *,
        asked_for: str | None = None,
    ) -> None:
        self._request = request
        self._provider = meter.service.provider
        self._keep_content = keep_content
        self._text: list[str] = []
        self._unrenewed = ""
        self._usage: Any = None
        self._known: dict[str, Any] = {}
        self.is_complete = False
        model = str(request.get("model") or meter.service.model)
        self._model = model
        prompt = estimate_chat_tokens(
            list(request.get("messages") or ()), _given(request.get("tools")), model=model
        )
        self.work: Work = meter.begin(
            Quantities(input_tokens=prompt),
            model=model,
            asked_for=asked_for,
            stream=bool(request.get("stream")),
        )

    def see(self, chunk: Any) -> None:
        """Take in a chunk of a stream, or a whole completion."""
        if getattr(chunk, "model", None):
            self._known["model"] = chunk.model
        if getattr(chunk, "service_tier", None):
            self._known["service_tier"] = chunk.service_tier
        if getattr(chunk, "usage", None):
            self._usage = chunk.usage
        for choice in getattr(chunk, "choices", None) or ():
            self.is_complete = self.is_complete or bool(getattr(choice, "finish_reason", None))
            part = getattr(choice, "delta", None) or getattr(choice, "message", None)
            if text := _text_of(part):
                self.work.first_output()
                self._text.append(text)
                self._renew(text)

    def _renew(self, text: str) -> None:
        """Keep the opening estimate about as long as the text, a few words at a time."""
        self._unrenewed += text
        if len(self._unrenewed) >= RENEWED_CHARACTERS:
            so_far = self.work.estimate
            more = count_tokens(self._unrenewed, self._model)
            self.work.renew(replace(so_far, output_tokens=so_far.output_tokens + more))
            self._unrenewed = ""

    def finish(self, outcome: Outcome, failure: Failure | None = None) -> None:
        """Count the generation with what the vendor reported, or as well as can be told."""
        if self.work.done:
            return
        quantities, provenance, note = self._quantities()
        if self._keep_content is not None:
            self._keep_content(
                self.work.id, list(self._request.get("messages") or ()), "".join(self._text)
            )
        self.work.finish(quantities, provenance, outcome, failure=failure, note=note, **self._known)

    def _quantities(self) -> tuple[Quantities, Provenance, str | None]:
        received = "".join(self._text)
        if self._usage is None:
            output = count_tokens(received, self._model)
            estimate = replace(self.work.estimate, output_tokens=output)
            return estimate, Provenance.ESTIMATED, "the vendor reported no usage"
        quantities, note = accepted(from_openai_usage(self._usage), self._provider)
        if note is not None:
            log.warning(
                "contradictory_usage",
                workflow_thread_id=str(self.work.thread_id),
                provider=self._provider,
                error=note,
            )
        if not self.is_complete:
            # Some vendors report as they go: what came after the last report is estimated.
            output = count_tokens(received, self._model)
            if output > quantities.output_tokens:
                quantities = replace(quantities, output_tokens=output)
                return quantities, Provenance.ESTIMATED, "usage was reported only in part"
        return quantities, Provenance.REPORTED, note


class WatchedStream:
    """An ``AsyncStream`` read ahead by a task of its own."""

    def __init__(self, stream: ChatStream, generation: Generation, *, drain: bool) -> None:
        self._stream = stream
        self._generation = generation
        self._drain = drain
        self._chunks: asyncio.Queue[Any] = asyncio.Queue()
        self._abandoned = False
        self._reader = asyncio.create_task(self._read(), name="chat-stream")
        # An error after the consumer has left is in the account; nobody is there to raise it to.
        self._reader.add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def done(self) -> bool:
        """Whether nothing more will be read."""
        return self._reader.done()

    async def finished(self) -> None:
        """Wait until nothing more will be read."""
        await asyncio.gather(self._reader, return_exceptions=True)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._iterate()

    async def close(self) -> None:
        """The consumer is done with the stream, at its end or before it."""
        if self._reader.done():
            return
        self._abandoned = True
        if self._drain:
            asyncio.get_running_loop().call_later(DRAIN_SECS, self._reader.cancel)
        else:
            self._reader.cancel()
            await self.finished()

    async def _iterate(self) -> AsyncIterator[Any]:
        while True:
            chunk = await self._chunks.get()
            if chunk is None:
                self._reader.result()
                return
            yield chunk

    async def _read(self) -> None:
        generation = self._generation
        try:
            async for chunk in self._stream:
                generation.see(chunk)
                self._chunks.put_nowait(chunk)
        except asyncio.CancelledError:
            generation.finish(Outcome.INTERRUPTED)
            raise
        except Exception as error:
            generation.finish(
                Outcome.ERROR, Failure(type(error).__name__, "the stream broke", _status(error))
            )
            raise
        else:
            if self._abandoned:
                generation.finish(Outcome.INTERRUPTED)
            elif generation.is_complete:
                generation.finish(Outcome.OK)
            else:
                broken = Failure("IncompleteStream", "the stream ended without a finish reason")
                generation.finish(Outcome.ERROR, broken)
        finally:
            self._chunks.put_nowait(None)
            await self._stream.close()


def _text_of(part: Any) -> str:
    """Everything in a delta or message that was generated, as one text."""
    if part is None:
        return ""
    found = [getattr(part, "content", None), getattr(part, "refusal", None)]
    found += [getattr(part, name, None) for name in ("reasoning_content", "reasoning")]
    for call in getattr(part, "tool_calls", None) or ():
        function = getattr(call, "function", None)
        found += [getattr(function, "name", None), getattr(function, "arguments", None)]
    return "".join(text for text in found if isinstance(text, str))


def _status(error: Exception) -> int | None:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def _given(tools: Any) -> list[Any] | None:
    return list(tools) if isinstance(tools, (list, tuple)) else None
