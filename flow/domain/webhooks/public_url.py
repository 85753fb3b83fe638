"""URLs that a customer gives Flow to call: only such as lead out into the internet.

This judges what is written. Whoever opens such a URL must judge the addresses that its name
resolves to as well (`is_public`), at that moment.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

_PRIVATE_NAMES = ("localhost", "local", "internal", "localdomain", "home.arpa", "lan")
# A host that ends in a number is an IPv4 address in one of its odd forms (0x7f.1, 2130706433),
# by the URL standard (https://url.spec.whatwg.org/#ends-in-a-number-checker).
_ENDS_IN_NUMBER = re.compile(r"(?:^|\.)(?:\d+|0x[0-9a-f]*)$")
# https://www.iana.org/assignments/iana-ipv4-special-registry, all of it, and multicast. Nobody's
# host is there, even where an address is "globally reachable" (anycast of a protocol, AS112).
_SPECIAL_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
# All that is handed out of IPv6, and what of it is in
# https://www.iana.org/assignments/iana-ipv6-special-registry.
_GLOBAL_V6 = IPv6Network("2000::/3")
_SPECIAL_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
# Addresses that a translator makes IPv4 of (RFC 6052): what they stand for counts.
_TRANSLATED = IPv6Network("64:ff9b::/96")

# Ports of the web, and any that need no privilege but for those of other protocols that an HTTP
# request could be mistaken in (https://fetch.spec.whatwg.org/#port-blocking).
_WEB_PORTS = frozenset({80, 443})
_FIRST_FREE_PORT = 1024
_BAD_PORTS = frozenset(
    {
        1719,
        1720,
        1723,
        2049,
        3659,
        4045,
        4190,
        5060,
        5061,
        6000,
        6566,
        *range(6665, 6670),
        6679,
        6697,
        10080,
    }
)


def problem_of(url: str, *, allow_private: bool = False) -> str | None:
    """What is wrong with the URL, or ``None``: it is ``https`` to a public host's port for it.

    ``allow_private``, for development, allows ``http`` too, and any host and port.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip(".").lower(), parts.port
    except ValueError:
        return "is not a URL"
    schemes = ("https", "http") if allow_private else ("https",)
    if parts.scheme not in schemes or not host or not url.isprintable() or " " in url:
        return f"must be an {' or '.join(f'{scheme}://' for scheme in schemes)} URL with a host"
    if parts.username is not None or parts.password is not None:
        return "must not hold credentials"
    if not allow_private and not _is_public_host(host):
        return "must lead to a public host"
    if not allow_private and port is not None and not _is_web_port(port):
        return f"must not lead to port {port}: 443, 80 or one from 1024 that no other protocol has"
    return None


def private_hint(url: str) -> str | None:
    """What an operator may do about a URL that is refused because it is private."""
    if problem_of(url, allow_private=True) is not None:
        return None
    return (
        "On a machine of your own FLOW_WEBHOOKS_ALLOW_PRIVATE=true with FLOW_DEBUG=true allows it."
    )


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address may be a host's of the internet: of the global unicast ones, and none of
    the special-purpose ones. What holds an IPv4 address is judged by that."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_V4)
    if address.scope_id is not None:
        return False
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _TRANSLATED:
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _GLOBAL_V6 and not any(address in network for network in _SPECIAL_V6)


def _is_web_port(port: int) -> bool:
    return port in _WEB_PORTS or (port >= _FIRST_FREE_PORT and port not in _BAD_PORTS)


def _is_public_host(host: str) -> bool:
    try:
        return is_public(ip_address(host))
    except ValueError:
        pass
    if _ENDS_IN_NUMBER.search(host) or "." not in host or ":" in host:
        return False
    return not any(host == name or host.endswith(f".{name}") for name in _PRIVATE_NAMES)
