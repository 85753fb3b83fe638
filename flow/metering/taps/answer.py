"""What taps on HTTP have in common: an attempt at a request, and its answer, fed to a reader."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import structlog

from flow.domain.usage.events import Failure
from flow.metering.evidence import Ended, Evidence
from flow.metering.request import MeteredRequest
from flow.metering.wires.reader import (
    Exchange,
    Free,
    HttpAnswer,
    HttpRequest,
    HttpWire,
)

log = structlog.get_logger(__name__)

EVENT_ID_HEADER = "x-flow-event-id"
"""A request that names the id of its event in this header has it; the vendor never sees it."""

DRAIN_SECS = 30.0

_NAMES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    409: "ConflictError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
}


def error_name(status: int) -> str:
    """What the OpenAI SDK calls an answer with this status (``openai._exceptions``)."""
    return _NAMES.get(status, "InternalServerError" if status >= 500 else "APIStatusError")


def opened(wire: HttpWire, request: HttpRequest) -> Exchange | Free | None:
    """What a reader makes of a request; ``None`` also where it fails at it."""
    try:
        return wire.open(request)
    except Exception:
        log.exception("reader_failed", reader=type(wire).__name__)
        return None


class MeteredAttempt:
    """One attempt at a request, from the moment before it is sent."""

    def __init__(self, work: MeteredRequest, exchange: Exchange) -> None:
        self._work = work
        self._exchange = exchange

    def failed(self, name: str) -> None:
        """There is no answer; ``name`` says what kind of error came in its place."""
        self._work.closed(Ended.BROKEN, Failure(name, name))

    def abandoned(self) -> None:
        """Nobody waits for the answer any more."""
        self._work.closed(Ended.ABANDONED)

    def answered(self, answer: HttpAnswer) -> MeteredAnswer | None:
        """The head of the answer has come. ``None``: it is an error, and the account is closed.

        What a redirect leads to is a request of its own.
        """
        status = answer.status
        if not 200 <= status < 300:
            failure = Failure(error_name(status), f"HTTP {status}", status)
            self._work.closed(Ended.REFUSED, failure)
            return None
        self._work.answered()
        return MeteredAnswer(answer, self._exchange, self._work)


class MeteredAnswer:
    """An answer on its way to whoever asked, read part by part as it came, encoded or not."""

    def __init__(self, answer: HttpAnswer, exchange: Exchange, work: MeteredRequest) -> None:
        self._status = answer.status
        self._exchange = exchange
        self._work = work
        self._decode = decoder(answer.headers.get("content-encoding", ""))
        self._take(exchange.answered(answer))

    @property
    def is_whole(self) -> bool:
        """Whether the vendor has said that the work is done, and all that it says of it."""
        return self._work.is_whole

    def part(self, data: bytes) -> None:
        """Some more of the body has come."""
        self._take(self._in_body(data))

    def end(self, *, is_wanted: bool = True) -> None:
        """The body has come to its end; not ``is_wanted``: the client had left before."""
        self._work.ending()
        self._take(self._exchange.end())
        self._work.closed(Ended.DONE if is_wanted else Ended.ABANDONED)

    def broke(self, name: str) -> None:
        """The connection failed in the middle of it, by a kind of error called ``name``."""
        self._work.closed(Ended.BROKEN, Failure(name, "the answer broke off", self._status))

    def left(self) -> None:
        """The client has closed it, and what has not come yet will not be read."""
        self._work.closed(Ended.DONE if self.is_whole else Ended.ABANDONED)

    def _in_body(self, part: bytes) -> Iterator[Evidence]:
        yield from self._exchange.body(self._decode(part))

    def _take(self, evidence: Iterable[Evidence]) -> None:
        try:
            for one in evidence:
                self._work.take(one)
        except Exception:
            # What a reader cannot stand must not break the call; the work is estimated then.
            log.exception("reader_failed", reader=type(self._exchange).__name__)


def decoder(encoding: str) -> Callable[[bytes], bytes]:
    """What undoes a content encoding, part by part."""
    match encoding.strip().lower():
        case "gzip" | "deflate" | "x-gzip":
            return _Inflater().decode
        case "" | "identity":
            return lambda data: data
    # Nobody asked for another one. What cannot be decoded shows nothing, and is estimated.
    return lambda _: b""


class _Inflater:
    """Undoes gzip and deflate, which some servers send without the header that belongs to it, and
    gzip in several members (RFC 1952, section 2.2).

    What cannot be inflated is nothing.
    """

    def __init__(self) -> None:
        self._inflate: Any = zlib.decompressobj(zlib.MAX_WBITS | 32)
        self._is_first = True

    def decode(self, data: bytes) -> bytes:
        """What this part of the body holds."""
        is_first, self._is_first = self._is_first, self._is_first and not data
        found: bytes = b""
        try:
            while self._inflate and data:
                found += self._inflate.decompress(data)
                if not self._inflate.eof:
                    return found
                data = self._inflate.unused_data
                self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
        except zlib.error:
            self._inflate = zlib.decompressobj(-zlib.MAX_WBITS) if is_first else None
            return found + self.decode(data)
        return found
