"""URLs that a customer gives Flow to call: only such as lead out into the internet.

This judges what is written. Whoever opens such a URL must judge the addresses that its name
resolves to as well (`is_public`), at that moment.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

_PRIVATE_NAMES = ("localhost", "local", "internal", "localdomain", "home.arpa", "lan")
# A host that ends in a number is an IPv4 address in one of its odd forms (0x7f.1, 2130706433),
# by the URL standard (https://url.spec.whatwg.org/#ends-in-a-number-checker).
_ENDS_IN_NUMBER = re.compile(r"(?:^|\.)(?:\d+|0x[0-9a-f]*)$")
# All that is handed out of IPv6, and addresses that a translator makes IPv4 of (RFC 6052).
_GLOBAL_V6 = IPv6Network("2000::/3")
_TRANSLATED = IPv6Network("64:ff9b::/96")
# For protocols, not for hosts (RFC 6890); not all of it is "private" to every Python.
_PROTOCOLS = ip_network("192.0.0.0/24")


def problem_of(url: str, *, allow_private: bool = False) -> str | None:
    """What is wrong with the URL, or ``None``: it is ``https`` to a public host.

    ``allow_private``, for development, allows ``http`` too, and any host.
    """
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").rstrip(".").lower(), parts.port
    except ValueError:
        return "is not a URL"
    schemes = ("https", "http") if allow_private else ("https",)
    if parts.scheme not in schemes or not host or not url.isprintable() or " " in url:
        return f"must be an {' or '.join(f'{scheme}://' for scheme in schemes)} URL with a host"
    if parts.username is not None or parts.password is not None:
        return "must not hold credentials"
    if not allow_private and not _is_public_host(host):
        return "must lead to a public host"
    return None


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one of the internet's: not private, local, reserved or multicast."""
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast and address not in _PROTOCOLS
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _TRANSLATED:
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    if address.sixtofour is not None and not is_public(address.sixtofour):
        return False
    return address in _GLOBAL_V6 and address.is_global


def _is_public_host(host: str) -> bool:
    try:
        return is_public(ip_address(host))
    except ValueError:
        pass
    if _ENDS_IN_NUMBER.search(host) or "." not in host or ":" in host:
        return False
    return not any(host == name or host.endswith(f".{name}") for name in _PRIVATE_NAMES)
