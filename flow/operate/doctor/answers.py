"""Sending one request to somebody, and what the answer says of the clocks on both sides."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx

from flow.kit.tls import trusted

LIMIT_SECS = 5.0


class NoAnswer(Exception):
    """None came, for the reason in the message, which quotes nothing of the request."""


@dataclass(frozen=True, slots=True)
class ClockReading:
    """How far the clock of ``whose`` is ahead of ours, in seconds, give or take ``doubt_secs``."""

    whose: str
    ahead_secs: float
    doubt_secs: float

    @property
    def least_secs(self) -> float:
        """How far apart the two are at least."""
        return max(0.0, abs(self.ahead_secs) - self.doubt_secs)


class Asker:
    """Sends each request once, within five seconds, and follows no redirect.

    ``clocks`` are those of everybody whose answer had a ``Date``.
    """

    def __init__(self, limit_secs: float = LIMIT_SECS) -> None:
        self.clocks: list[ClockReading] = []
        self._limit_secs = limit_secs
        self._http = httpx.AsyncClient(verify=trusted(), timeout=limit_secs, follow_redirects=False)

    async def ask(self, whom: str | None, request: httpx.Request) -> httpx.Response:
        """The answer, read to its end.

        Args:
            whom: Whose clock the answer tells; None for this machine's own.

        Raises:
            NoAnswer: there is none in time.
        """
        sent, began = time.time(), time.monotonic()
        try:
            async with asyncio.timeout(self._limit_secs):
                answer = await self._http.send(request)
        except (TimeoutError, httpx.TimeoutException):
            raise NoAnswer(f"no answer within {self._limit_secs:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise NoAnswer(_reason(error)) from None
        took = time.monotonic() - began
        if whom is not None:
            self._read_clock(whom, answer, sent + took / 2, took / 2)
        return answer

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _read_clock(self, whom: str, answer: httpx.Response, now: float, doubt: float) -> None:
        try:
            theirs = parsedate_to_datetime(answer.headers["date"]).timestamp()
        except (KeyError, ValueError, TypeError):
            return
        # The header has whole seconds, which have begun.
        self.clocks.append(ClockReading(whom, theirs + 0.5 - now, doubt + 0.5))


def _reason(error: Exception) -> str:
    """The kind of the error and its text: of a connection, which is made without the request."""
    said = str(error) if isinstance(error, httpx.ConnectError) else ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
