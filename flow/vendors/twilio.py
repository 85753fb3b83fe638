"""Twilio: verifying the signatures of its requests, and hanging up its calls."""

from __future__ import annotations

import hmac
import re
from base64 import b64encode
from collections.abc import Iterable
from urllib.parse import quote

import httpx
import stamina
from pydantic import SecretStr

from flow.errors import Unavailable
from flow.kit.tls import trusted

API_URL = "https://api.twilio.com"
ANSWER_SECS = 5.0
# Pauses of 0.5 and 2 s.
ATTEMPTS = 3
FIRST_PAUSE_SECS = 0.5
PAUSE_FACTOR = 4.0

_TRANSIENT = frozenset({408, 429})


class _Transient(Unavailable):
    """A failure that may be over at the next attempt."""


_CALL_SID = re.compile(r"CA[0-9a-f]{32}")


def is_call_sid(text: str) -> bool:
    """Whether this is the id of a Twilio call. It becomes part of a URL, so no other is used."""
    return _CALL_SID.fullmatch(text) is not None


class Twilio:
    """One Twilio account.

    Args:
        base_url: where its REST API is.
        answer_secs: how long an attempt may take.
        first_pause_secs: between the first two of three attempts.
    """

    def __init__(
        self,
        account_sid: str,
        auth_token: SecretStr,
        base_url: str,
        *,
        answer_secs: float = ANSWER_SECS,
        first_pause_secs: float = FIRST_PAUSE_SECS,
    ) -> None:
        self._first_pause_secs = first_pause_secs
        self._token = auth_token.get_secret_value()
        self._calls = f"{base_url}/2010-04-01/Accounts/{quote(account_sid, safe='')}/Calls"
        self._http = httpx.AsyncClient(
            auth=(account_sid, self._token), verify=trusted(), timeout=answer_secs
        )

    def signed(self, signature: str, url: str, parameters: Iterable[tuple[str, str]]) -> bool:
        """Whether ``signature`` is Twilio's for a POST of form ``parameters`` to ``url``.

        The rule is at https://www.twilio.com/docs/usage/security#validating-requests: HMAC-SHA1
        over the whole URL followed by each parameter's name and value, in the order of names. A
        value that was sent twice under one name counts once, as in Twilio's own libraries.
        """
        signed = url + "".join(name + value for name, value in sorted(set(parameters)))
        expected = b64encode(hmac.digest(self._token.encode(), signed.encode(), "sha1"))
        return hmac.compare_digest(signature.encode(), expected)

    async def hang_up(self, call_sid: str) -> None:
        """End the call; one that is over already, or was never there, is left alone.

        Raises:
            ValueError: that is no id of a call.
            Unavailable: Twilio does not do it, after all attempts or because it refuses.
        """
        if not is_call_sid(call_sid):
            raise ValueError("that is no id of a Twilio call")
        async for attempt in stamina.retry_context(
            on=_Transient,
            attempts=ATTEMPTS,
            timeout=None,
            wait_initial=self._first_pause_secs,
            wait_exp_base=PAUSE_FACTOR,
            wait_jitter=0,
        ):
            with attempt:
                await self._complete(call_sid)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _complete(self, call_sid: str) -> None:
        """One attempt to end the call; raises `_Transient`, or `Unavailable`."""
        try:
            answer = await self._http.post(
                f"{self._calls}/{call_sid}.json", data={"Status": "completed"}
            )
        except httpx.HTTPError as error:
            raise _Transient(f"Twilio did not hang up: {type(error).__name__}") from error
        status = answer.status_code
        if answer.is_success or status == 404:
            return
        problem = f"Twilio did not hang up: {status}"
        raise _Transient(problem) if status >= 500 or status in _TRANSIENT else Unavailable(problem)
