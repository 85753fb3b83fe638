"""HTTP to servers that customers name, and so never trusted: only public addresses are reached."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Any

import httpx2

from flow.domain.webhooks import public_url
from flow.kit.tls import trusted
from flow.vendors.webhook_resolver import (
    Address,
    NotPublic,
    Resolve,
    SystemResolver,
    resolve_public,
)

CONNECT_SECS = 4.0
# Of a host with many addresses so many are tried; nothing was sent to those before.
TRIED_ADDRESSES = 3


class PublicTransport(httpx2.AsyncBaseTransport):
    """The network as far as it is public.

    Each request's host is resolved and checked, and the connection goes to the checked address, so
    a name server that answers differently the next time (DNS rebinding) gains nothing. ``Host``,
    TLS server name and certificate are those of the URL's host name. As a transport it knows no
    redirects, cookies or proxies; no connection is used twice, since the pool goes by address and
    one kept open would serve another customer's name.

    Args:
        allow_private: for development: any address, and ``http://``.
        resolve: stands in for the system's resolver.
        inner: stands in for the network.

    Raises:
        NotPublic: from a request whose URL or address is not public; nothing was sent.
    """

    def __init__(
        self,
        *,
        allow_private: bool = False,
        resolve: Resolve | None = None,
        inner: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._allow_private = allow_private
        self._system = None if resolve else SystemResolver()
        self._resolve = resolve or self._system
        self._inner = inner or httpx2.AsyncHTTPTransport(
            trust_env=False,
            verify=trusted(),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request to an address of its host that is public."""
        url = request.url
        problem = public_url.problem_of(str(url), allow_private=self._allow_private)
        if problem is not None:
            raise NotPublic(f"the URL {problem}")
        host = url.raw_host.decode("ascii")
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        assert self._resolve is not None
        try:
            found = await resolve_public(
                host, port, self._resolve, allow_private=self._allow_private
            )
        except OSError as error:
            raise httpx2.ConnectError("the host name has no address") from error
        *others, last = found[:TRIED_ADDRESSES]
        for address in others:
            try:
                return await self._inner.handle_async_request(_to(request, address))
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        return await self._inner.handle_async_request(_to(request, last))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()
        if self._system is not None:
            self._system.close()


def _to(request: httpx2.Request, address: Address) -> httpx2.Request:
    """The request to this address, with ``Host`` and server name of the one it was for."""
    host = f"[{address}]" if isinstance(address, IPv6Address) else str(address)
    extensions: dict[str, Any] = {
        **request.extensions,
        "sni_hostname": request.url.raw_host.decode("ascii").strip("[]"),
    }
    return httpx2.Request(
        request.method,
        request.url.copy_with(host=host),
        headers=[*request.headers.raw, (b"Connection", b"close")],
        stream=request.stream,
        extensions=extensions,
    )
