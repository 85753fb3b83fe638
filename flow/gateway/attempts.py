"""The attempts at one request: with one model after the other, until one answers.

An attempt is over, for this, when the first bytes of a good answer are there: until then nothing
has gone to the client, and another one may be made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from math import isfinite
from uuid import UUID

import structlog

from flow.domain.gateway.request import RawHeaders
from flow.gateway.plan import Sending
from flow.gateway.upstream import (
    KeyRefused,
    Upstream,
    UpstreamAnswer,
    UpstreamClient,
    UpstreamFailed,
)
from flow.metering.taps.answer import MeteredAnswer, MeteredAttempt, decoder
from flow.metering.wires.reader import HttpAnswer

log = structlog.get_logger(__name__)

PAUSE_SECS = 0.25
LONGEST_PAUSE_SECS = 2.0
ATTEMPTS = 2
"""With one model."""

# What may pass at the same model, and what another one need not share.
_PASSING = frozenset({408, 409, 500, 502, 503, 504, 529})
_ELSEWHERE = _PASSING | {404, 429}
_BAD_KEY = b'"API_KEY_INVALID"'


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request that is ready to be sent.

    Args:
        metered: its account; ``None`` for one that costs nothing.
        id: that of its event.
    """

    upstream: Upstream
    url: str
    headers: dict[str, str]
    body: bytes
    metered: MeteredAttempt | None = None
    id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """A vendor's answer, on its way to the client.

    Args:
        event_id: that of its event; ``None`` for one that costs nothing.
        first: what has come of its body.
        rest: what the rest comes from; ``None`` for an error, which is all there.
        metered: sees the rest.
    """

    upstream: Upstream
    event_id: UUID | None
    status: int
    headers: RawHeaders
    first: bytes
    rest: UpstreamAnswer | None = None
    metered: MeteredAnswer | None = None

    def header(self, name: bytes) -> bytes | None:
        """The value of the first header of this name, which is in lower case."""
        return next((value for known, value in self.headers if known.lower() == name), None)


Begin = Callable[[Sending], Attempt]
"""Begins the account of an attempt."""


class Attempts:
    """Makes attempts until one is answered."""

    def __init__(self, client: UpstreamClient, query: str) -> None:
        self._client = client
        self._query = query

    async def answer(self, sendings: Iterable[Awaitable[Sending]], begin: Begin) -> Answered:
        """The answer of the first model that has one.

        Where none has, what the one that was asked for has said.

        Args:
            sendings: what to send: to the model that was asked for, then to those to fall back to.

        Raises:
            UpstreamUnavailable: nobody has answered.
        """
        refused: Answered | None = None
        failed: UpstreamFailed | None = None
        for made in sendings:
            sending = await made
            for left in reversed(range(ATTEMPTS)):
                attempt = begin(sending)
                try:
                    found = await self._attempt(attempt)
                except UpstreamFailed as error:
                    failed = failed or error
                    if not error.may_pass or not left:
                        break
                    await asyncio.sleep(PAUSE_SECS)
                    continue
                if found.status not in _ELSEWHERE:
                    return found
                refused = refused or found
                pause = _pause(found)
                if found.status not in _PASSING or not left or pause is None:
                    break
                await asyncio.sleep(pause)
        if refused is None:
            assert failed is not None
            raise failed.meaning()
        return refused

    async def _attempt(self, attempt: Attempt) -> Answered:
        """The head and the first bytes of an answer; an error with all of its body."""
        metered = attempt.metered
        try:
            answer = await self._client.post(
                attempt.url, self._query, attempt.headers, attempt.body
            )
        except UpstreamFailed as error:
            if metered is not None:
                metered.failed(str(error))
            raise
        except BaseException:
            if metered is not None:
                metered.abandoned()
            raise
        reading = None
        if metered is not None:
            reading = metered.answered(HttpAnswer(answer.status, answer.headers))
        try:
            if not 200 <= answer.status < 300:
                return await _refused(attempt, answer)
            return await _begun(attempt, answer, reading)
        except UpstreamFailed as error:
            if reading is not None:
                reading.broke(str(error))
            answer.close()
            raise
        except BaseException:
            if reading is not None:
                reading.left()
            answer.close()
            raise


async def _refused(attempt: Attempt, answer: UpstreamAnswer) -> Answered:
    try:
        body = await answer.beginning()
    finally:
        answer.close()
    found = Answered(attempt.upstream, attempt.id, answer.status, answer.raw_headers, body)
    if answer.status in (401, 403) or _is_about_key(found):
        # It is about the operator's key, and may quote it.
        log.error("upstream_refused_key", provider=attempt.upstream.name, status=answer.status)
        raise KeyRefused("RefusedKey")
    return found


async def _begun(
    attempt: Attempt, answer: UpstreamAnswer, metered: MeteredAnswer | None
) -> Answered:
    first = await answer.part()
    if metered is not None:
        metered.part(first)
    return Answered(
        attempt.upstream,
        attempt.id,
        answer.status,
        answer.raw_headers,
        first,
        answer,
        metered,
    )


def _pause(answer: Answered) -> float | None:
    """How long to wait before asking the same model again; ``None``: not to."""
    if answer.header(b"x-should-retry") == b"false":
        return None
    try:
        secs = float(answer.header(b"retry-after") or PAUSE_SECS)
    except ValueError:
        return PAUSE_SECS
    return secs if isfinite(secs) and 0 <= secs <= LONGEST_PAUSE_SECS else None


def _is_about_key(answer: Answered) -> bool:
    """Whether an error quotes the operator's key, or says that there is something wrong with it,
    as Google's do with the status 400 (``google.rpc.ErrorInfo``)."""
    decode = decoder((answer.header(b"content-encoding") or b"").decode("latin-1"))
    said = decode(answer.first)
    return answer.upstream.api_key.encode() in said or _BAD_KEY in said
