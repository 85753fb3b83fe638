"""The way out for webhooks: names are resolved, and hosts can be connected to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit

from flow.domain.webhooks.webhook import Delivery
from flow.operate.doctor.answers import LIMIT_SECS
from flow.operate.doctor.finding import Finding, ok, problem, skipped, warning
from flow.settings import Settings
from flow.vendors.webhook_resolver import NotPublic, SystemResolver, resolve_public

NAME = "webhooks"
HOSTS = 5

Host = tuple[str, int]


async def webhook_findings(
    settings: Settings, deliveries: Sequence[Delivery] | None
) -> list[Finding]:
    """Whether the hosts of the latest webhooks can be connected to, and whether any were given up.

    Nothing is sent to them.
    """
    if deliveries is None:
        return [skipped(NAME, "none are known without the database")]
    hosts = list(dict.fromkeys(map(_host, deliveries)))[:HOSTS]
    if not hosts:
        return [skipped(NAME, "none has been sent yet")]
    resolver = SystemResolver()
    private = settings.may_reach_private
    try:
        found = await asyncio.gather(*(_reached(host, resolver, private) for host in hosts))
    finally:
        resolver.close()
    return [*found, *_given_up(deliveries)]


def _host(delivery: Delivery) -> Host:
    parts = urlsplit(delivery.url)
    return parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)


async def _reached(at: Host, resolver: SystemResolver, private: bool) -> Finding:
    host, port = at
    cure = "See this machine's DNS and firewall, or ask the customer."
    try:
        async with asyncio.timeout(LIMIT_SECS):
            addresses = await resolve_public(host, port, resolver, allow_private=private)
            _, writer = await asyncio.open_connection(str(addresses[0]), port)
            writer.close()
    except NotPublic as error:
        return warning(NAME, f"{host}: {error}; nothing is sent there", "Ask the customer.")
    except TimeoutError:
        return problem(NAME, f"{host}:{port} cannot be connected to in {LIMIT_SECS:g} s", cure)
    except OSError as error:
        return problem(NAME, f"{host}:{port} cannot be connected to: {_reason(error)}", cure)
    return ok(NAME, f"{host}:{port} can be connected to")


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _given_up(deliveries: Sequence[Delivery]) -> list[Finding]:
    dead = sum(delivery.dead_at is not None for delivery in deliveries)
    if not dead:
        return []
    said = f"{dead} of the latest {len(deliveries)} were given up"
    return [warning(NAME, said, "See `flow webhooks list --dead`.")]
