"""Twilio: telling its requests from anybody else's, and hanging up one of its calls."""

from __future__ import annotations

import asyncio
import hmac
import re
from base64 import b64encode
from collections.abc import Iterable
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from flow.errors import Unavailable
from flow.kit.tls import trusted

API_URL = "https://api.twilio.com"
ANSWER_SECS = 5.0
PAUSES_SECS = (0.5, 2.0)

_PASSING = frozenset({408, 429})
_CALL_SID = re.compile(r"CA[0-9a-f]{32}")


def is_call_sid(text: str) -> bool:
    """Whether this is the id of a Twilio call. It becomes part of a URL, so no other is used."""
    return _CALL_SID.fullmatch(text) is not None


class Twilio:
    """One Twilio account.

    Args:
        base_url: where its REST API is.
        answer_secs: how long an attempt may take.
        pauses_secs: between attempts, of which there is one more.
    """

    def __init__(
        self,
        account_sid: str,
        auth_token: SecretStr,
        base_url: str,
        *,
        answer_secs: float = ANSWER_SECS,
        pauses_secs: tuple[float, ...] = PAUSES_SECS,
    ) -> None:
        self._pauses_secs = pauses_secs
        self._token = auth_token.get_secret_value()
        self._calls = f"{base_url}/2010-04-01/Accounts/{quote(account_sid, safe='')}/Calls"
        self._http = httpx.AsyncClient(
            auth=(account_sid, self._token), verify=trusted(), timeout=answer_secs
        )

    def signed(self, signature: str, url: str, parameters: Iterable[tuple[str, str]]) -> bool:
        """Whether Twilio made ``signature`` for a POST of form ``parameters`` to ``url``.

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
        for pause_secs in (*self._pauses_secs, None):
            problem = await self._try_to_hang_up(call_sid)
            if problem is None:
                return
            if pause_secs is None or not _passes(problem):
                raise Unavailable(f"Twilio did not hang up: {problem}")
            await asyncio.sleep(pause_secs)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _try_to_hang_up(self, call_sid: str) -> int | str | None:
        """``None`` when it is done, or the status or kind of error that says why it is not."""
        try:
            answer = await self._http.post(
                f"{self._calls}/{call_sid}.json", data={"Status": "completed"}
            )
        except httpx.HTTPError as error:
            return type(error).__name__
        return None if answer.is_success or answer.status_code == 404 else answer.status_code


def _passes(problem: int | str) -> bool:
    """Whether a problem may be gone at the next attempt."""
    return isinstance(problem, str) or problem >= 500 or problem in _PASSING
