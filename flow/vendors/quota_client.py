"""Requests to the operator's own billing service: may this team go on?

The request::

    GET {url}?team_id=T&api_key_id=K&product=P
    Accept: application/json
    Authorization: Bearer TOKEN          (where the operator set one)

The URL is the operator's and may have a query of its own; the three values are percent-encoded.

The answer is status 200 and a body as `flow.vendors.quota_answer` describes it, in UTF-8,
uncompressed, at most 64 KiB, however labelled. Other answers:

- 402 Payment Required means limited, whatever its body says.
- Any other 4xx but 408 and 429 is a refusal: the source will not answer this question.
- Everything else is a failure: 408, 429, 5xx, a redirect (not followed, so that no other host gets
  the token), no whole answer in time, and a malformed answer.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import asdict, dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TypeAlias
from urllib.parse import parse_qsl, quote, urlencode

import httpx
from pydantic import SecretStr

from flow.errors import ConfigurationError
from flow.kit.tls import trusted
from flow.vendors.quota_answer import MalformedAnswer, QuotaState, parse_quota_state

MAX_BODY_BYTES = 64 * 1024

_FAILURES_4XX = (408, 429)
_LIMITED = QuotaState(limited=True, resource=None, used=None, limit=None, resets_at=None)
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Question:
    """May this team go on, with this key, in this product? Names the parameters on the wire."""

    team_id: str
    api_key_id: str
    product: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """The source refused to answer, with this HTTP status."""

    status: int


@dataclass(frozen=True, slots=True)
class Failure:
    """The source gave no answer that can be relied on."""

    reason: str


Answer: TypeAlias = QuotaState | Refusal | Failure


class QuotaClient:
    """Asks once, without retries, within ``time_limit_secs`` from connecting to the body's end.

    Raises:
        ConfigurationError: the URL or the token cannot be used.
    """

    def __init__(self, url: str, token: SecretStr | None, *, time_limit_secs: float) -> None:
        self._prefix = _prefix(url, token)
        self._time_limit_secs = time_limit_secs
        # Decompression would make 64 MiB of 64 KiB before the size is checked.
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        if token is not None:
            headers["authorization"] = f"Bearer {_header_safe(token)}"
        self._http = httpx.AsyncClient(
            verify=trusted(),
            headers=headers,
            follow_redirects=False,
            # A cookie set for one team would go along with the next team's question.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            timeout=time_limit_secs,
            # Idle connections are closed before servers commonly close them: a question that
            # crosses with that is lost, and there is no second try.
            limits=httpx.Limits(max_connections=100, keepalive_expiry=3),
        )

    async def ask(self, question: Question) -> Answer:
        """What the source says now. Never raises, unless it is cancelled."""
        try:
            async with asyncio.timeout(self._time_limit_secs):
                return await self._ask(question)
        except (TimeoutError, httpx.TimeoutException):
            return Failure("timeout")
        except MalformedAnswer as error:
            return Failure(f"malformed answer: {error}")
        except Exception as error:
            # Whatever failed, the team must not go on because of it.
            return Failure(type(error).__name__)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _ask(self, question: Question) -> Answer:
        url = self._prefix + urlencode(asdict(question), quote_via=quote, safe="")
        async with self._http.stream("GET", url) as response:
            status = response.status_code
            if status == 200:
                return parse_quota_state(await _body(response))
        if status == 402:
            return _LIMITED
        if 400 <= status < 500 and status not in _FAILURES_4XX:
            return Refusal(status)
        return Failure(f"http {status}")


async def _body(response: httpx.Response) -> bytes:
    if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise MalformedAnswer("compressed")
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise MalformedAnswer("longer than 64 KiB")
    return bytes(body)


def _prefix(url: str, token: SecretStr | None) -> str:
    """The URL up to where the question's own parameters begin.

    No message quotes the URL: it may hold a secret.
    """
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        raise ConfigurationError("The quota source's URL is not a URL.") from None
    if parts.scheme not in {"http", "https"} or not parts.host:
        raise ConfigurationError(
            "The quota source's URL must be an http:// or https:// URL with a host."
        )
    if "#" in url:
        raise ConfigurationError("The quota source's URL must not have a fragment (#...).")
    if parts.userinfo and token is not None:
        raise ConfigurationError(
            "The quota source has a token and credentials in its URL: remove one of them."
        )
    own = {name for name, _ in parse_qsl(parts.query.decode("ascii"), keep_blank_values=True)}
    if own & set(Question.__slots__):
        raise ConfigurationError(
            "The quota source's URL must not set team_id, api_key_id or product: Flow adds them."
        )
    if "?" not in url:
        return f"{url}?"
    return url if url.endswith(("?", "&")) else f"{url}&"


def _header_safe(token: SecretStr) -> str:
    text = token.get_secret_value()
    if not _TOKEN.fullmatch(text):
        raise ConfigurationError("The quota source's token must be printable ASCII without spaces.")
    return text
