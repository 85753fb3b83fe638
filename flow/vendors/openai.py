"""The one place that makes OpenAI clients, for the bot's services and for the insights.

All clients of a process share one connection pool (an SSL context alone costs some 28 ms), and
each is bound to the call it works for: see `flow.vendors.attempts`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import isfinite

import httpx2
import openai
from posthog import Posthog
from posthog.ai.gateway import is_posthog_ai_gateway_url
from posthog.ai.openai import AsyncOpenAI as CapturingAsyncOpenAI
from pydantic import SecretStr

from flow.domain.usage import Failure, Owner
from flow.errors import ConfigurationError
from flow.tls import trusted
from flow.vendors.attempts import AttributedTransport, OnAnswered, OnAttemptFailed

DIRECT_BASE_URL = "https://api.openai.com/v1"


class OpenAIClients:
    """Makes clients for one endpoint: a base URL and the key for it.

    ``base_url=None`` is OpenAI itself. Any other base URL counts as a gateway, whose requests
    carry the owner's attribution; OpenAI itself is told nothing. The operator's own headers
    (``OPENAI_CUSTOM_HEADERS``, which the SDK reads) are kept.

    ``timeout_secs`` bounds the wait for a connection's next bytes, not the whole answer.

    Raises:
        ConfigurationError: there is no API key.
    """

    def __init__(
        self,
        api_key: SecretStr | None,
        base_url: str | None = None,
        *,
        posthog: Posthog | None = None,
        timeout_secs: float = 30.0,
        pool: httpx2.AsyncClient | None = None,
        is_other_vendor: bool = False,
    ) -> None:
        if api_key is None or not api_key.get_secret_value().strip():
            raise ConfigurationError(f"There is no API key for {base_url or DIRECT_BASE_URL}.")
        self._api_key = api_key
        self._base_url = httpx2.URL(base_url or DIRECT_BASE_URL)
        self._posthog = posthog
        self._timeout_secs = timeout_secs
        self._pool = pool or openai.DefaultAsyncHttpxClient(verify=trusted())
        self._is_other_vendor = is_other_vendor
        self._is_gateway = not is_other_vendor and not _is_openai(self._base_url.host)

    def elsewhere(self, api_key: SecretStr | None, base_url: str) -> OpenAIClients:
        """The same for another vendor that speaks OpenAI's protocol, over the same pool.

        A vendor is no gateway: it is not told whose request it serves, and does not get the
        organization, project and headers that the environment holds for OpenAI.
        """
        return OpenAIClients(
            api_key,
            base_url,
            posthog=self._posthog,
            timeout_secs=self._timeout_secs,
            pool=self._pool,
            is_other_vendor=True,
        )

    @property
    def gateway_captures(self) -> bool:
        """Whether the gateway is PostHog's own, which captures every generation itself.

        Flow must then not capture it again: set ``UsageEvent.capture`` to false.
        """
        return is_posthog_ai_gateway_url(str(self._base_url))

    def chat_client(
        self,
        owner: Owner,
        *,
        max_retries: int = 2,
        on_attempt_failed: OnAttemptFailed | None = None,
        on_answered: OnAnswered | None = None,
    ) -> openai.AsyncOpenAI:
        """A client for ``owner``'s call. Closing it leaves the pool open."""
        return self._make(openai.AsyncOpenAI, owner, max_retries, on_attempt_failed, on_answered)

    def insights_client(self, owner: Owner) -> tuple[openai.AsyncOpenAI, bool]:
        """A client for work that PostHog's wrapper captures, and whether it does.

        It does not when there is no PostHog, or when the gateway captures by itself. The client
        never retries: each attempt is one call, one event at PostHog, one row in the ledger.
        """
        if self._posthog is None or self.gateway_captures:
            return self._make(openai.AsyncOpenAI, owner, 0, None), False

        def capturing(**options: object) -> openai.AsyncOpenAI:
            return CapturingAsyncOpenAI(posthog_client=self._posthog, **options)

        return self._make(capturing, owner, 0, None), True

    async def close(self) -> None:
        """Close the pool, and with it every client that was made here or `elsewhere`."""
        await self._pool.aclose()

    def _make(
        self,
        kind: Callable[..., openai.AsyncOpenAI],
        owner: Owner,
        max_retries: int,
        on_attempt_failed: OnAttemptFailed | None,
        on_answered: OnAnswered | None = None,
    ) -> openai.AsyncOpenAI:
        told = owner if self._is_gateway else None
        transport = AttributedTransport(
            self._pool,
            self._base_url,
            told,
            on_attempt_failed,
            owner.workflow_thread_id,
            on_answered,
        )
        client = kind(
            api_key=self._api_key.get_secret_value(),
            # Given even when it is the default: the SDK would look for it in the environment.
            base_url=self._base_url,
            timeout=httpx2.Timeout(self._timeout_secs, connect=min(5.0, self._timeout_secs)),
            max_retries=max_retries,
            http_client=openai.DefaultAsyncHttpxClient(transport=transport),
        )
        if self._is_other_vendor:
            # The SDK reads these from OPENAI_* variables whatever the base URL.
            client.organization = client.project = client.admin_api_key = None
            client._custom_headers = {}
        return client


def failure_of(error: Exception) -> Failure:
    """What is fit to be kept of an error that an OpenAI client raised.

    The vendor's own message is left out: it may quote the prompt.
    """
    if isinstance(error, openai.APIStatusError):
        code = error.code if _is_code(error.code) else None
        message = f"HTTP {error.status_code}" + (f" {code}" if code else "")
        return Failure(type(error).__name__, message, error.status_code)
    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else None
    name = type(cause or error).__name__
    return Failure(name, name)


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed a little later: what the SDK itself would repeat,
    but for an account that has run out of credit."""
    if isinstance(error, openai.APIStatusError):
        passing = error.status_code in {408, 409, 429} or error.status_code >= 500
        return passing and error.code != "insufficient_quota"
    return isinstance(error, openai.APIConnectionError)


def retry_after_secs(error: Exception) -> float | None:
    """The seconds the vendor asked to be left alone, where it said so in seconds."""
    if not isinstance(error, openai.APIStatusError):
        return None
    try:
        seconds = float(error.response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if isfinite(seconds) and seconds >= 0 else None


def _is_code(code: object) -> bool:
    return isinstance(code, str) and re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", code) is not None


def _is_openai(host: str) -> bool:
    return host == "api.openai.com" or host.endswith(".api.openai.com")
