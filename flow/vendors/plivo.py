"""Plivo: verifying the signatures of its requests, and hanging up its calls.

https://www.plivo.com/docs/voice/concepts/signature-validation/
"""

from __future__ import annotations

import hmac
import re
from base64 import b64encode
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from pydantic import SecretStr

from flow.errors import Unavailable
from flow.vendors.carrier_api import ANSWER_SECS, FIRST_PAUSE_SECS, CarrierApi

API_URL = "https://api.plivo.com"

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_call_uuid(text: str) -> bool:
    """Whether this is the id of a Plivo call. It becomes part of a URL, so no other is used."""
    return _UUID.fullmatch(text) is not None


class Plivo:
    """One Plivo account.

    Args:
        base_url: where its REST API is.
        answer_secs, first_pause_secs: as for `CarrierApi`.
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
        self._token = auth_token.get_secret_value()
        self._calls = f"{base_url}/v1/Account/{quote(auth_id, safe='')}/Call"
        self._api = CarrierApi(
            "Plivo",
            auth_id,
            self._token,
            answer_secs=answer_secs,
            first_pause_secs=first_pause_secs,
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
        answer = await self._api.ask("DELETE", f"{self._calls}/{call_uuid}/")
        if not answer.is_success and answer.status_code != 404:
            raise Unavailable(f"Plivo did not hang up: {answer.status_code}")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._api.aclose()


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
