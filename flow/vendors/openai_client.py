"""Clients of OpenAI's SDK, and the meaning of its errors. Only this module creates them."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import isfinite

import httpx2
import openai
from pydantic import SecretStr

from flow.domain.usage.events import Failure
from flow.vendors.model_endpoint import Endpoint

DIRECT_BASE_URL = "https://api.openai.com/v1"


def openai_endpoint(
    api_key: SecretStr | None,
    base_url: str | None = None,
    *,
    timeout_secs: float = 30.0,
    pool: httpx2.AsyncClient | None = None,
) -> Endpoint:
    """OpenAI's API, or a gateway in its place.

    ``base_url=None`` is OpenAI itself. Any other base URL counts as a gateway, whose requests
    carry the owner's attribution; requests to OpenAI itself do not.

    Raises:
        ConfigurationError: there is no API key.
    """
    url = base_url or DIRECT_BASE_URL
    return Endpoint(
        api_key,
        url,
        is_gateway=not _is_openai(httpx2.URL(url).host),
        timeout_secs=timeout_secs,
        pool=pool,
    )


def openai_client(
    endpoint: Endpoint,
    transport: httpx2.AsyncBaseTransport,
    *,
    is_other_vendor: bool = False,
    max_retries: int = 2,
    make: Callable[..., openai.AsyncOpenAI] | None = None,
) -> openai.AsyncOpenAI:
    """A client of ``endpoint`` that sends through ``transport``.

    The operator's own headers (``OPENAI_CUSTOM_HEADERS``, which the SDK reads) are kept; another
    vendor does not get them, nor the organization and project that the environment holds for
    OpenAI. ``make`` is the SDK's class, or one that wraps it.
    """
    client = (make or openai.AsyncOpenAI)(
        api_key=endpoint.api_key,
        # Given even when it is the default: the SDK would look for it in the environment.
        base_url=endpoint.base_url,
        timeout=endpoint.timeout,
        max_retries=max_retries,
        http_client=http_client(endpoint, transport),
    )
    if is_other_vendor:
        _forget_openai(client)
    return client


def azure_client(
    endpoint: Endpoint, transport: httpx2.AsyncBaseTransport, api_version: str
) -> openai.AsyncAzureOpenAI:
    """A client of a dated version of the API of an Azure OpenAI resource, which is ``endpoint``."""
    client = openai.AsyncAzureOpenAI(
        api_key=endpoint.api_key,
        azure_endpoint=str(endpoint.base_url),
        api_version=api_version,
        timeout=endpoint.timeout,
        http_client=http_client(endpoint, transport),
    )
    _forget_openai(client)
    return client


def _forget_openai(client: openai.AsyncOpenAI) -> None:
    """Drop what the SDK reads from OPENAI_* variables whatever the base URL."""
    client.organization = client.project = client.admin_api_key = None
    client._custom_headers = {}


def http_client(endpoint: Endpoint, transport: httpx2.AsyncBaseTransport) -> httpx2.AsyncClient:
    """The SDK's HTTP client over ``transport``; a client that is given no timeout uses its."""
    return openai.DefaultAsyncHttpxClient(transport=transport, timeout=endpoint.timeout)


def failure_of(error: Exception) -> Failure:
    """The type, status and code of an error that an OpenAI client raised.

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
    """Whether the same request may succeed a little later: where the SDK itself would retry,
    except for an account that has run out of credit."""
    if isinstance(error, openai.APIStatusError):
        passing = error.status_code in {408, 409, 429} or error.status_code >= 500
        return passing and error.code != "insufficient_quota"
    return isinstance(error, openai.APIConnectionError)


def retry_after_secs(error: Exception) -> float | None:
    """The vendor's ``Retry-After``, where it is in seconds."""
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
