"""Plivo: verifying the signatures of its requests, and hanging up its calls.

https://www.plivo.com/docs/voice/concepts/signature-validation/
"""

from __future__ import annotations

import hmac
import re
from base64 import b64encode
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

import httpx
import stamina
from pydantic import SecretStr

from flow.errors import Unavailable
from flow.kit.tls import trusted

API_URL = "https://api.plivo.com"
ANSWER_SECS = 5.0
ATTEMPTS = 3
FIRST_PAUSE_SECS = 0.5
PAUSE_FACTOR = 4.0

_TRANSIENT = frozenset({408, 429})
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class _Transient(Unavailable):
    """A failure that may be over at the next attempt."""


def is_call_uuid(text: str) -> bool:
    """Whether this is the id of a Plivo call. It becomes part of a URL, so no other is used."""
    return _UUID.fullmatch(text) is not None


class Plivo:
    """One Plivo account.

    Args:
        base_url: where its REST API is.
        first_pause_secs: between the first two of three attempts.
    """

    def __init__(
        self,
        auth_id: str,
        auth_token: SecretStr,
        base_url: str,
        *,
        answer_secs: float = ANSWER_SECS,
        first_pause_secs: float = FIRST_PAUSE_SECS,
    ) -> None:
        self._first_pause_secs = first_pause_secs
        self._token = auth_token.get_secret_value()
        self._calls = f"{base_url}/v1/Account/{quote(auth_id, safe='')}/Call"
        self._http = httpx.AsyncClient(
            auth=(auth_id, self._token), verify=trusted(), timeout=answer_secs
        )

    def signed(
        self, signatures: str, nonce: str, url: str, parameters: Iterable[tuple[str, str]]
    ) -> bool:
        """Whether one of ``signatures`` (by commas) is Plivo's, version 3, for a POST to ``url``.

        HMAC-SHA256, in base64, over the URL with its query sorted, a dot, each parameter's name
        and value in the order of names, a dot and the nonce (``plivo.utils.signature_v3``).
        """
        signed = f"{_signed_url(url, parameters)}.{nonce}"
        expected = b64encode(hmac.digest(self._token.encode(), signed.encode(), "sha256"))
        given = [one.strip().encode() for one in signatures.split(",")]
        return any(hmac.compare_digest(one, expected) for one in given)

    async def hang_up(self, call_uuid: str) -> None:
        """End the call; one that is over already, or was never there, is left alone.

        Raises:
            ValueError: that is no id of a call.
            Unavailable: Plivo does not do it, after all attempts or because it refuses.
        """
        if not is_call_uuid(call_uuid):
            raise ValueError("that is no id of a Plivo call")
        async for attempt in stamina.retry_context(
            on=_Transient,
            attempts=ATTEMPTS,
            timeout=None,
            wait_initial=self._first_pause_secs,
            wait_exp_base=PAUSE_FACTOR,
            wait_jitter=0,
        ):
            with attempt:
                await self._delete(call_uuid)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _delete(self, call_uuid: str) -> None:
        """One attempt; raises `_Transient`, or `Unavailable`."""
        try:
            answer = await self._http.delete(f"{self._calls}/{call_uuid}/")
        except httpx.HTTPError as error:
            raise _Transient(f"Plivo did not hang up: {type(error).__name__}") from error
        status = answer.status_code
        if answer.is_success or status == 404:
            return
        problem = f"Plivo did not hang up: {status}"
        raise _Transient(problem) if status >= 500 or status in _TRANSIENT else Unavailable(problem)


def _signed_url(url: str, parameters: Iterable[tuple[str, str]]) -> str:
    parts = urlsplit(url)
    bare = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    query = "&".join(f"{k}={v}" for k, v in sorted(parse_qsl(parts.query, keep_blank_values=True)))
    posted = "".join(name + value for name, value in sorted(parameters))
    if query or posted:
        bare += f"?{query}"
    if query and posted:
        bare += "."
    return bare + posted
