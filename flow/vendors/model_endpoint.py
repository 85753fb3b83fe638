"""The HTTP API of a vendor of models: base URL, API key, and the pool that its clients share.

A pool is made once a process (an SSL context alone costs some 28 ms). Each client has a transport
of its own, bound to the owner of its work.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import httpx2
import openai
from posthog.ai.gateway import is_posthog_ai_gateway_url
from pydantic import SecretStr

from flow.domain.usage.events import CostControl, Owner
from flow.domain.usage.owner_labels import with_attribution
from flow.errors import ConfigurationError
from flow.kit.tls import trusted


class Endpoint:
    """A vendor's API, and the connections to it.

    Args:
        base_url: as the vendor's SDK takes it.
        is_gateway: whether requests carry their owner's attribution; a vendor gets none.
        timeout_secs: bounds the wait for a connection's next bytes, not the whole answer.
        pool: connections; a new one by default.

    Raises:
        ConfigurationError: there is no API key.
    """

    def __init__(
        self,
        api_key: SecretStr | None,
        base_url: str,
        *,
        is_gateway: bool = False,
        timeout_secs: float = 30.0,
        pool: httpx2.AsyncClient | None = None,
    ) -> None:
        if api_key is None or not api_key.get_secret_value().strip():
            raise ConfigurationError(f"There is no API key for {base_url}.")
        self._api_key = api_key
        self._timeout_secs = timeout_secs
        self.base_url = httpx2.URL(base_url)
        self.is_gateway = is_gateway
        self.timeout = httpx2.Timeout(timeout_secs, connect=min(5.0, timeout_secs))
        self._pool = pool or openai.DefaultAsyncHttpxClient(verify=trusted())

    @property
    def api_key(self) -> str:
        """The key, in plain text."""
        return self._api_key.get_secret_value()

    def elsewhere(self, api_key: SecretStr | None, base_url: str) -> Endpoint:
        """Another vendor's API, over the same pool. A vendor is no gateway."""
        return Endpoint(api_key, base_url, timeout_secs=self._timeout_secs, pool=self._pool)

    @property
    def gateway_captures(self) -> bool:
        """Whether the gateway is PostHog's own, which captures every generation itself.

        Flow must then not capture it again: set ``UsageEvent.capture`` to false.
        """
        return is_posthog_ai_gateway_url(str(self.base_url))

    def transport(
        self, owner: Owner, control: Callable[[], CostControl] = CostControl
    ) -> httpx2.AsyncBaseTransport:
        """A transport to the API for ``owner``'s work; closing it leaves the pool open."""
        attributed = owner if self.is_gateway else None
        return AttributedTransport(self._pool, self.base_url, attributed, control)

    async def close(self) -> None:
        """Close the pool, and with it every client that uses it."""
        await self._pool.aclose()


class AttributedTransport(httpx2.AsyncBaseTransport):
    """One owner's transport over the shared connection pool.

    Every request to ``origin`` carries ``owner``'s attribution and no other; a request to
    anywhere else (a redirect) carries none, nor does any when ``owner`` is ``None``.
    """

    def __init__(
        self,
        pool: httpx2.AsyncClient,
        origin: httpx2.URL,
        owner: Owner | None,
        control: Callable[[], CostControl],
    ) -> None:
        self._pool = pool
        self._origin = _origin(origin)
        self._owner = owner
        self._control = control

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one attempt."""
        owner = self._owner if _origin(request.url) == self._origin else None
        request.headers = httpx2.Headers(with_attribution(request.headers, owner, self._control()))
        if self._pool.is_closed:
            raise httpx2.ConnectError("The connection pool is closed.", request=request)
        # Redirects, netrc and cookies are up to the client that uses this transport.
        answer = await self._pool.send(request, stream=True, auth=None, follow_redirects=False)
        return httpx2.Response(
            answer.status_code,
            headers=answer.headers,
            stream=_Body(answer),
            extensions=answer.extensions,
        )

    async def aclose(self) -> None:
        """Do nothing: the pool belongs to the process, not to one client."""


class _Body(httpx2.AsyncByteStream):
    """The body as it came, still encoded; closing it gives the connection back."""

    def __init__(self, answer: httpx2.Response) -> None:
        assert isinstance(answer.stream, httpx2.AsyncByteStream)
        self._answer = answer
        self._parts = answer.stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._parts:
            yield part

    async def aclose(self) -> None:
        await self._answer.aclose()


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host, port
