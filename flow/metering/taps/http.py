"""A tap on HTTP, under any client that is built on httpx2.

It sees every attempt that a client makes, repeated ones too, every chunk as it arrives, and how
each ends; every attempt is a piece of vendor work of its own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from uuid import UUID

import httpx2
import structlog

from flow.metering.meter import Meter
from flow.metering.taps.answer import (
    DRAIN_SECS,
    EVENT_ID_HEADER,
    MeteredAnswer,
    MeteredAttempt,
    opened,
)
from flow.metering.wires.reader import FREE, HttpAnswer, HttpRequest, HttpWire, ModelInPath

log = structlog.get_logger(__name__)

Shape = Callable[[Mapping[str, Any], str], Mapping[str, Any]]
"""Makes the request body that is sent of the one that was asked for, for a provider. The model is
among its fields, also where the protocol names it in the path."""


class MeteredTransport(httpx2.AsyncBaseTransport):
    """Meters every request that goes through it.

    An answer is read by a task of its own, so that all that has arrived is known at the moment
    the client closes it.

    Args:
        inner: where requests go.
        meter: counts them.
        wire: reads them. A ``POST`` that it does not know is passed on, and reported as unmetered.
        shape: may change JSON bodies before they are sent.
        asked_for: the model that was meant, where it is not the one in the request.
        drain: read an answer that the client has left to its end in the background, for at most
            `DRAIN_SECS`, for the vendor's own numbers instead of an estimate. The vendor goes on
            generating, and billing, for as long.
    """

    def __init__(
        self,
        inner: httpx2.AsyncBaseTransport,
        meter: Meter,
        wire: HttpWire,
        *,
        shape: Shape | None = None,
        asked_for: str | None = None,
        drain: bool = False,
    ) -> None:
        self._asked_for = asked_for
        self._inner = inner
        self._meter = meter
        self._wire = wire
        self._model_path = wire if isinstance(wire, ModelInPath) else None
        self._shape = shape
        self._drain = drain
        self._bodies: set[_MeteredBody] = set()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one attempt and meter it."""
        event_id = request.headers.get(EVENT_ID_HEADER)
        request, seen, asked_for = await self._prepared(request)
        exchange = opened(self._wire, seen)
        if exchange is None or exchange is FREE:
            if exchange is None and seen.method == "POST":
                log.error("unmetered_request", path=seen.path)
                self._meter.report_unmetered()
            return await self._inner.handle_async_request(request)
        work = self._meter.open(
            exchange.opening,
            asked_for=self._asked_for or asked_for,
            event_id=_uuid(event_id),
        )
        attempt = MeteredAttempt(work, exchange)
        try:
            answer = await self._inner.handle_async_request(request)
        except Exception as error:
            attempt.failed(type(error).__name__)
            raise
        except BaseException:
            attempt.abandoned()
            raise
        metered = attempt.answered(HttpAnswer(answer.status_code, _lower(answer.headers)))
        if metered is None:
            return answer
        body = _MeteredBody(answer, metered, drain=self._drain)
        self._bodies = {one for one in self._bodies if not one.is_read} | {body}
        return httpx2.Response(
            answer.status_code,
            headers=answer.headers,
            stream=body,
            extensions=answer.extensions,
        )

    async def finish(self) -> None:
        """Wait for answers that are being drained, then count what is still open."""
        await asyncio.gather(*(body.drained() for body in self._bodies))
        self._meter.close()

    async def aclose(self) -> None:
        """Close what is behind it."""
        await self._inner.aclose()

    async def _prepared(
        self, request: httpx2.Request
    ) -> tuple[httpx2.Request, HttpRequest, str | None]:
        """The request to send, as a reader sees it, and the model that was meant in its place."""
        body = await request.aread()
        headers = request.headers.copy()
        headers.pop(EVENT_ID_HEADER, None)
        # What a reader cannot decode must not come.
        headers["accept-encoding"] = "gzip, deflate"
        url = request.url
        seen = HttpRequest(request.method, url.path, _lower(headers), body)
        asked = self._with_model(seen)
        asked_for = asked.get("model")
        shaped = self._shaped(asked)
        if shaped != asked:
            path, fields = self._placed(url.path, shaped)
            url = url if path == url.path else url.copy_with(path=path)
            # In ASCII, which takes halves of characters as well.
            body = json.dumps(fields, separators=(",", ":")).encode()
            headers["content-length"] = str(len(body))
            seen = HttpRequest(request.method, path, _lower(headers), body)
        sent = httpx2.Request(
            request.method,
            url,
            headers=headers,
            content=body,
            extensions=request.extensions,
        )
        return sent, seen, asked_for if isinstance(asked_for, str) else None

    def _with_model(self, request: HttpRequest) -> Mapping[str, Any]:
        """The body with the model among its fields, wherever the protocol names it."""
        if self._model_path and (model := self._model_path.model_in(request.path)):
            return {**request.json, "model": model}
        return request.json

    def _placed(self, path: str, fields: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """Path and body of these fields, with the model where the protocol names it."""
        if self._model_path is None or self._model_path.model_in(path) is None:
            return path, fields
        body = {name: value for name, value in fields.items() if name != "model"}
        return self._model_path.path_of(path, str(fields["model"])), body

    def _shaped(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._shape is None or not isinstance(request.get("model"), str):
            return request
        try:
            return self._shape(request, self._meter.service.provider)
        except Exception:
            # It is for the vendor to refuse a request that makes no sense.
            log.exception("shape_failed")
            return request


class _MeteredBody(httpx2.AsyncByteStream):
    """The body as it comes, read ahead by a task of its own."""

    def __init__(self, answer: httpx2.Response, metered: MeteredAnswer, *, drain: bool) -> None:
        self._answer = answer
        self._metered = metered
        self._drain = drain
        self._is_abandoned = False
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._reader = asyncio.create_task(self._read(), name="metered-answer")
        # An error after the client has left is in the account; nobody is there to raise it to.
        self._reader.add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def is_read(self) -> bool:
        """Whether nothing more will be read."""
        return self._reader.done()

    async def drained(self) -> None:
        """Wait until nothing more will be read, if the client has left."""
        if self._is_abandoned:
            await asyncio.gather(self._reader, return_exceptions=True)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            part = await self._parts.get()
            if part is None:
                await self._reader
                return
            yield part

    async def aclose(self) -> None:
        """The client is done with the answer, at its end or before it."""
        if self._reader.done():
            return
        self._is_abandoned = not self._metered.is_whole
        if self._is_abandoned and self._drain:
            asyncio.get_running_loop().call_later(DRAIN_SECS, self._reader.cancel)
            return
        self._metered.left()
        self._reader.cancel()
        try:
            await asyncio.gather(self._reader, return_exceptions=True)
        finally:
            # A task that is cancelled before its first step never takes one.
            await self._answer.aclose()

    async def _read(self) -> None:
        assert isinstance(self._answer.stream, httpx2.AsyncByteStream)
        try:
            async for part in self._answer.stream:
                self._metered.part(part)
                self._parts.put_nowait(part)
        except asyncio.CancelledError:
            self._metered.left()
            raise
        except Exception as error:
            self._metered.broke(type(error).__name__)
            raise
        else:
            self._metered.end(is_wanted=not self._is_abandoned)
        finally:
            self._parts.put_nowait(None)
            await self._answer.aclose()


def _uuid(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError:
        return None


def _lower(headers: httpx2.Headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
