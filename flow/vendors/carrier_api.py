"""The REST API of one account at a carrier."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import stamina

from flow.errors import Unavailable
from flow.kit.tls import trusted

ANSWER_SECS = 5.0
# Pauses of 0.5 and 2 s.
ATTEMPTS = 3
FIRST_PAUSE_SECS = 0.5
PAUSE_FACTOR = 4.0

TRANSIENT = frozenset({408, 429})
"""The statuses below 500 that may be others at the next attempt."""


def account_request(url: str, account: str, token: str) -> httpx.Request:
    """A request that shows an account, for whoever wants to know whether its token is good."""
    login = base64.b64encode(f"{account}:{token}".encode()).decode()
    return httpx.Request("GET", url, headers={"Authorization": f"Basic {login}"})


class _Transient(Unavailable):
    """A failure that may be over at the next attempt."""


class CarrierApi:
    """Sends an account's requests.

    Args:
        carrier: its name in messages.
        account: the name that the account logs in with, with its token.
        answer_secs: how long each phase of an attempt may take: connecting, sending, reading.
        first_pause_secs: between the first two of three attempts.
    """

    def __init__(
        self, carrier: str, account: str, token: str, *, answer_secs: float, first_pause_secs: float
    ) -> None:
        self._carrier = carrier
        self._first_pause_secs = first_pause_secs
        self._http = httpx.AsyncClient(auth=(account, token), verify=trusted(), timeout=answer_secs)

    async def ask_once(self, method: str, url: str, **sent: Any) -> httpx.Response:
        """The answer, whatever it is; raises as httpx does. ``sent`` is as httpx takes it."""
        return await self._http.request(method, url, **sent)

    async def ask(self, method: str, url: str, **sent: Any) -> httpx.Response:
        """The answer to what may be asked again: one that another attempt would not change.

        Raises:
            Unavailable: there is none after all attempts.
        """
        async for attempt in stamina.retry_context(
            on=_Transient,
            attempts=ATTEMPTS,
            timeout=None,
            wait_initial=self._first_pause_secs,
            wait_exp_base=PAUSE_FACTOR,
            wait_jitter=0,
        ):
            with attempt:
                return await self._attempt(method, url, sent)
        raise AssertionError("the last attempt answers or raises")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _attempt(self, method: str, url: str, sent: dict[str, Any]) -> httpx.Response:
        try:
            answer = await self.ask_once(method, url, **sent)
        except httpx.HTTPError as error:
            raise _Transient(f"{self._carrier} did not answer: {type(error).__name__}") from error
        if answer.status_code >= 500 or answer.status_code in TRANSIENT:
            raise _Transient(f"{self._carrier} did not do it: {answer.status_code}")
        return answer
