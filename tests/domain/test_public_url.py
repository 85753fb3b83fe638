"""A customer's URL must lead out into the internet, however the host is written."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.webhooks.public_url import is_public, problem_of


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/flow",
        "https://example.com:8443/a?b=c#d",
        "https://93.184.216.34/hook",
        "https://[2606:2800:220:1:248:1893:25c8:1946]/hook",
        "https://xn--bcher-kva.example/",
        "https://1.example.com/",
        "https://example.com:80/",
        "https://example.com:443/",
        "https://example.com:1024/",
        "https://example.com:65535/",
        "https://[::ffff:93.184.216.34]/",
        "https://[64:ff9b::5db8:d822]/",
    ],
)
def test_a_public_url_is_taken(url: str) -> None:
    assert problem_of(url) is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.com/", "https"),
        ("ftp://example.com/", "https"),
        ("https:///nowhere", "host"),
        ("example.com/hook", "https"),
        ("https://user:word@example.com/", "credentials"),
        ("https://user@example.com/", "credentials"),
        ("https://example.com:99999/", "URL"),
        ("https://[::1", "URL"),
        ("https://exam ple.com/", "https"),
        ("https://example.com/\x7f", "https"),
        *[
            (f"https://{host}/", "public")
            for host in (
                "localhost",
                "LOCALHOST.",
                "db.localhost",
                "printer.local",
                "metadata.google.internal",
                "intranet",
                "127.0.0.1",
                "127.1",
                "2130706433",
                "0x7f.0.0.1",
                "0x7f000001",
                "0177.0.0.1",
                "10.0.0.7",
                "172.16.3.4",
                "192.168.1.1",
                "169.254.169.254",
                "100.64.0.1",
                "0.0.0.0",
                "224.0.0.1",
                "255.255.255.255",
                "[::1]",
                "[::]",
                "[fe80::1]",
                "[fc00::1]",
                "[::ffff:127.0.0.1]",
                "[::ffff:10.0.0.1]",
                "[2002:7f00:1::]",
                "[64:ff9b::a00:7]",
                "[64:ff9b:1::1]",
                "[::127.0.0.1]",
                "[2001:0:1::1]",
                "192.0.0.8",
                "192.0.0.9",
                "192.88.99.1",
                "192.88.99.255",
                "192.175.48.1",
                "192.31.196.1",
                "192.52.193.1",
                "198.18.0.1",
                "240.0.0.1",
                "[::ffff:192.88.99.1]",
                "[64:ff9b::c058:6301]",
                "[64:ff9b::7f00:1]",
                "[2002:808:808::1]",
                "[2001:20::1]",
                "[2001:1::1]",
                "[2001:db8::1]",
                "[3fff::1]",
                "[5f00::1]",
                "[100::1]",
                "[2620:4f:8000::1]",
                "[ff0e::1]",
                "[2606:2800:220:1:248:1893:25c8:1946%25eth0]",
            )
        ],
        *[
            (f"https://example.com:{port}/", "port")
            for port in (0, 1, 22, 25, 79, 81, 442, 444, 587, 1023, 1720, 2049, 5060, 6000, 6667)
        ],
        ("https://93.184.216.34:22/", "port"),
    ],
)
def test_any_other_url_is_refused_with_the_reason(url: str, why: str) -> None:
    assert why in (problem_of(url) or "")


@given(st.ip_addresses())
def test_what_python_knows_to_be_special_is_not_public(address: IPv4Address | IPv6Address) -> None:
    """The list is ours so that it is the same in every version of Python, and may be longer."""
    if is_public(address):
        embedded = getattr(address, "ipv4_mapped", None) or address
        assert embedded.is_global or embedded in ip_network("64:ff9b::/96")
        assert not embedded.is_multicast


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8080/hook", "http://localhost/", "https://a/", "http://localhost:22/"],
)
def test_a_private_url_is_taken_where_that_is_allowed(url: str) -> None:
    assert problem_of(url) is not None
    assert problem_of(url, allow_private=True) is None


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/", "http://", "https://u:p@localhost/", "http://["]
)
def test_what_is_no_such_url_is_refused_even_there(url: str) -> None:
    assert problem_of(url, allow_private=True) is not None


PRIVATE = [ip_network(net) for net in ("10.0.0.0/8", "127.0.0.0/8", "192.168.0.0/16")]


@given(st.sampled_from(PRIVATE), st.data())
def test_no_private_address_is_public_in_any_spelling(network: object, data: st.DataObject) -> None:
    assert hasattr(network, "__getitem__")
    size = network.num_addresses  # type: ignore[attr-defined]
    address = IPv4Address(int(network[data.draw(st.integers(0, size - 1))]))
    assert not is_public(address)
    for host in (
        str(address),
        str(int(address)),
        hex(int(address)),
        f"[::ffff:{address}]",
        f"[64:ff9b::{address}]",
    ):
        assert problem_of(f"https://{host}/") is not None
