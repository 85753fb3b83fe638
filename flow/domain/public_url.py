"""URLs that a customer gives Flow to call: only such as lead out into the internet.

This judges what is written. Whoever opens such a URL must judge the addresses that its name
resolves to as well (`is_public`), at that moment.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

_PRIVATE_NAMES = ("localhost", "local", "internal", "localdomain", "home.arpa", "lan")
# A host that ends in a number is an IPv4 address in one of its odd forms (0x7f.1, 2130706433),
# by the URL standard (https://url.spec.whatwg.org/#ends-in-a-number-checker).
_ENDS_IN_NUMBER = re.compile(r"(?:^|\.)(?:\d+|0x[0-9a-f]*)$")


def problem_of(url: str) -> str | None:
    """What is wrong with the URL, or ``None``: it is ``https`` to a public host."""
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").rstrip(".").lower(), parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme != "https" or not host or not url.isprintable() or " " in url:
        return "must be an https:// URL with a host"
    if parts.username is not None or parts.password is not None:
        return "must not hold credentials"
    if not _is_public_host(host):
        return "must lead to a public host"
    return None


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one of the internet's: not private, local, reserved or multicast."""
    inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    if inner is not None and not is_public(inner):
        return False
    return address.is_global and not address.is_multicast


def _is_public_host(host: str) -> bool:
    try:
        return is_public(ip_address(host))
    except ValueError:
        pass
    if _ENDS_IN_NUMBER.search(host) or "." not in host or ":" in host:
        return False
    return not any(host == name or host.endswith(f".{name}") for name in _PRIVATE_NAMES)
