"""Sending one webhook: one signed POST to a URL that a customer chose, and so never trusted.

- The host is resolved and checked (`flow.vendors.webhook_resolver`), and the connection goes to
  the checked address. ``Host``, TLS server name and certificate are those of the URL's host name.
- No redirect is followed, no cookie kept, no proxy of the environment used, and no connection
  reused: one customer's request carries nothing of another's.
- The status decides: 2xx is a success, 410 ends the subscription, all else is a failure. The body
  is not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from ipaddress import IPv6Address

import httpx

from flow.domain.webhooks import public_url
from flow.domain.webhooks.webhook import Answer, Claimed, Outcome
from flow.kit.tls import trusted
from flow.vendors.webhook_resolver import (
    Address,
    NotPublic,
    Resolve,
    SystemResolver,
    resolve_public,
)
from flow.vendors.webhook_signing import signature_headers

TIME_LIMIT_SECS = 10.0
CONNECT_SECS = 4.0
# Of a host with many addresses so many are tried; nothing was sent to those before.
TRIED_ADDRESSES = 3
MAX_ERROR = 300
AGENT = "Flow-Webhooks/1"


def _now() -> datetime:
    return datetime.now(UTC)


class WebhookSender:
    """Sends, each attempt within ``time_limit_secs`` from resolving to the answer's status.

    Args:
        allow_private: for development: any address, and ``http://``.
        resolve: stands in for the system's resolver.
        transport: stands in for the network.
        now: the time that signatures carry.
    """

    def __init__(
        self,
        *,
        allow_private: bool = False,
        time_limit_secs: float = TIME_LIMIT_SECS,
        resolve: Resolve | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        now: Callable[[], datetime] = _now,
    ) -> None:
        self._allow_private = allow_private
        self._time_limit_secs = time_limit_secs
        self._system = None if resolve else SystemResolver()
        self._resolve = resolve or self._system
        # A transport alone, without a client: it knows no redirects, cookies, proxies or netrc.
        # Its pool goes by address and port; a connection kept open would serve another name.
        self._transport = transport or httpx.AsyncHTTPTransport(
            trust_env=False,
            verify=trusted(),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )
        self._now = now

    async def send(self, claimed: Claimed) -> Answer:
        """Make one attempt. Never raises, unless it is cancelled."""
        try:
            async with asyncio.timeout(self._time_limit_secs):
                return await self._send(claimed)
        except (TimeoutError, httpx.TimeoutException):
            return Answer(Outcome.FAILED, error="timeout")
        except NotPublic as error:
            return Answer(Outcome.FAILED, error=f"refused: {error}"[:MAX_ERROR])
        except httpx.InvalidURL:
            return Answer(Outcome.FAILED, error="refused: is not a URL")
        except Exception as error:
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            return Answer(Outcome.FAILED, error=said[:MAX_ERROR])

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()
        if self._system is not None:
            self._system.close()

    async def _send(self, claimed: Claimed) -> Answer:
        url = httpx.URL(claimed.url)
        # As it was written, and as it is understood here.
        for written in (claimed.url, str(url)):
            problem = public_url.problem_of(written, allow_private=self._allow_private)
            if problem is not None:
                raise NotPublic(f"the URL {problem}")
        host = url.raw_host.decode("ascii")
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        assert self._resolve is not None
        found = await resolve_public(host, port, self._resolve, allow_private=self._allow_private)
        *others, last = found[:TRIED_ADDRESSES]
        for address in others:
            try:
                return await self._post(claimed, url, address)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await self._post(claimed, url, last)

    async def _post(self, claimed: Claimed, url: httpx.URL, address: Address) -> Answer:
        request = httpx.Request(
            "POST",
            url,
            headers={
                **signature_headers(
                    claimed.event_id, self._now(), claimed.payload, claimed.secrets
                ),
                "content-type": "application/json",
                "user-agent": AGENT,
                "connection": "close",
            },
            content=claimed.payload.encode(),
            extensions={
                "timeout": httpx.Timeout(self._time_limit_secs, connect=CONNECT_SECS).as_dict(),
                "sni_hostname": url.raw_host.decode("ascii").strip("[]"),
            },
        )
        # Its Host header is made already, of the name.
        request.url = url.copy_with(host=_literal(address))
        response = await self._transport.handle_async_request(request)
        try:
            return _answer(response, self._now())
        finally:
            await response.aclose()


def _answer(response: httpx.Response, now: datetime) -> Answer:
    status = response.status_code
    if 200 <= status < 300:
        return Answer(Outcome.DELIVERED, status)
    outcome = Outcome.GONE if status == httpx.codes.GONE else Outcome.FAILED
    retry_after = _retry_after(response.headers.get("retry-after", ""), now)
    return Answer(outcome, status, f"http {status}", retry_after)


def _retry_after(text: str, now: datetime) -> timedelta | None:
    """Seconds or a date, as in RFC 9110, section 10.2.3; ``None`` for anything else."""
    if text.isascii() and text.isdigit():
        return timedelta(seconds=min(int(text[:9]), 10**8))
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now


def _literal(address: Address) -> str:
    return f"[{address}]" if isinstance(address, IPv6Address) else str(address)
