"""DNS resolution for webhooks: a customer's host name must resolve to public addresses only.

A name is resolved once for each attempt, and the connection goes to the addresses found, so a name
server that answers differently the next time (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from flow.domain.webhooks import public_url

Address: TypeAlias = IPv4Address | IPv6Address
Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[Address]]]
"""The addresses of a host name or address, best first. Raises `OSError` if there are none."""

RESOLVERS = 8


class NotPublic(Exception):
    """The URL, or an address that its host resolves to, is not public."""


class SystemResolver:
    """Resolves by the system, in threads of its own: a name that hangs blocks no other work."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="webhook-resolver")

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        """See `Resolve`."""
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _ask, host, port)
        return list(dict.fromkeys(found))

    def close(self) -> None:
        """Release the threads, without waiting for them."""
        self._threads.shutdown(wait=False, cancel_futures=True)


async def resolve_public(
    host: str, port: int, resolve: Resolve, *, allow_private: bool
) -> Sequence[Address]:
    """The addresses of the host, all of which are public.

    Raises:
        NotPublic: one of its addresses is not.
        OSError: it has no address.
    """
    try:
        found: Sequence[Address] = [ip_address(host.strip("[]"))]
    except ValueError:
        found = await resolve(host, port)
    if not found:
        raise OSError("no address")
    for address in found:
        if not allow_private and not public_url.is_public(address):
            raise NotPublic(f"{address} is not a public address")
    return found


def _ask(host: str, port: int) -> list[Address]:
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a part of the name is empty, or too long for one
        raise OSError("the host is no name") from error
    return [ip_address(answer[4][0]) for answer in answers]
