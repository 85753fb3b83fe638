"""Sending a webhook: signed, bounded in time, and never into the operator's own network."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from flow.domain.webhooks.webhook import Answer, Claimed, Outcome
from flow.kit.tls import trusted
from flow.sandbox.faults import Fault
from flow.sandbox.server import Served
from flow.sandbox.webhooks import WebhookReceiver
from flow.vendors.webhook_resolver import Address
from flow.vendors.webhook_sender import WebhookSender
from flow.vendors.webhook_signing import new_secret

SECRET = new_secret()
PAYLOAD = '{"type": "thread.completed", "timestamp": "2026-11-21T12:00:00Z", "data": {"né": 1}}'
PUBLIC, OTHER, PRIVATE = "93.184.216.34", "2606:4700::1111", "10.0.0.7"


def a_webhook(url: str, *secrets: str) -> Claimed:
    return Claimed(
        event_id=UUID(int=7),
        type="thread.completed",
        api_key_id=UUID(int=2),
        workflow_thread_id=UUID(int=3),
        url=url,
        attempt=1,
        claim=UUID(int=4),
        payload=PAYLOAD,
        secrets=secrets or (SECRET,),
    )


def names(*answers: Sequence[str]) -> Callable[[str, int], Any]:
    """A name server that gives these answers one after the other, and then the last one again."""
    left = list(answers)

    async def resolve(host: str, port: int) -> Sequence[Address]:
        found = left.pop(0) if len(left) > 1 else left[0]
        if not found:
            raise OSError("no such name")
        return [ip_address(address) for address in found]

    return resolve


class Wire(httpx.AsyncBaseTransport):
    """The network: what was to be sent where, and addresses that nobody answers at."""

    def __init__(self, *deaf: str) -> None:
        self.requests: list[httpx.Request] = []
        self._deaf = deaf

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.url.host in self._deaf:
            raise httpx.ConnectError("nobody is there")
        return httpx.Response(204)


@pytest.fixture
async def receiver() -> AsyncIterator[tuple[WebhookReceiver, str]]:
    app = WebhookReceiver(SECRET)
    async with Served(app) as url:
        yield app, f"{url}/hook"


@asynccontextmanager
async def sending(**given: Any) -> AsyncIterator[WebhookSender]:
    sender = WebhookSender(**given)
    yield sender
    await sender.aclose()


async def test_what_is_sent_is_verified_by_the_conventions_own_library(
    receiver: tuple[WebhookReceiver, str],
) -> None:
    app, url = receiver
    async with sending(allow_private=True) as sender:
        assert await sender.send(a_webhook(url)) == Answer(Outcome.DELIVERED, 204)
    (kept,) = app.received
    assert (kept.webhook_id, kept.type, kept.data) == (
        str(UUID(int=7)),
        "thread.completed",
        {"né": 1},
    )


async def test_either_secret_of_a_rotation_verifies_and_no_other(
    receiver: tuple[WebhookReceiver, str],
) -> None:
    app, url = receiver
    async with sending(allow_private=True) as sender:
        fresh = new_secret()
        for trusted in (SECRET, fresh):
            app.trust(trusted)
            assert (await sender.send(a_webhook(url, fresh, SECRET))).status == 204
        app.trust(new_secret())
        assert await sender.send(a_webhook(url, fresh, SECRET)) == Answer(
            Outcome.FAILED, 401, "http 401"
        )
    assert [len(arrival.signatures) for arrival in app.arrivals] == [2, 2, 2]


async def test_an_old_message_sent_again_is_signed_anew(
    receiver: tuple[WebhookReceiver, str],
) -> None:
    _, url = receiver
    old = datetime.now(UTC) - timedelta(days=2)
    async with sending(allow_private=True, now=lambda: old) as sender:
        assert (await sender.send(a_webhook(url))).status == 401
    async with sending(allow_private=True) as sender:
        assert (await sender.send(a_webhook(url))).status == 204


ANSWERS: dict[str, tuple[Fault, Answer]] = {
    "200": (Fault(kind="status", status=200), Answer(Outcome.DELIVERED, 200)),
    "299": (Fault(kind="status", status=299), Answer(Outcome.DELIVERED, 299)),
    "300": (Fault(kind="status", status=300), Answer(Outcome.FAILED, 300, "http 300")),
    "a redirect": (
        Fault(kind="status", status=307, headers={"location": "/elsewhere"}),
        Answer(Outcome.FAILED, 307, "http 307"),
    ),
    "404": (Fault(kind="status", status=404), Answer(Outcome.FAILED, 404, "http 404")),
    "410": (Fault(kind="status", status=410), Answer(Outcome.GONE, 410, "http 410")),
    "500": (Fault(kind="status", status=500), Answer(Outcome.FAILED, 500, "http 500")),
    "503 with a time": (
        Fault(kind="status", status=503, headers={"retry-after": "120"}),
        Answer(Outcome.FAILED, 503, "http 503", timedelta(seconds=120)),
    ),
    "429 with nonsense": (
        Fault(kind="status", status=429, headers={"retry-after": "soon"}),
        Answer(Outcome.FAILED, 429, "http 429"),
    ),
    "nothing": (Fault(kind="hang"), Answer(Outcome.FAILED, None, "timeout")),
    "too late": (Fault(kind="delay", delay_secs=9), Answer(Outcome.FAILED, None, "timeout")),
    "a body without end": (Fault(kind="stall", chunks=1), Answer(Outcome.DELIVERED, 204)),
}


@pytest.mark.parametrize(("fault", "answer"), ANSWERS.values(), ids=ANSWERS)
async def test_an_answer_means(
    receiver: tuple[WebhookReceiver, str], fault: Fault, answer: Answer
) -> None:
    app, url = receiver
    app.faults.add(fault)
    async with sending(allow_private=True, time_limit_secs=0.5) as sender:
        assert await sender.send(a_webhook(url)) == answer
    assert len(app.arrivals) == 1, "nothing is followed, nothing tried twice"


@pytest.mark.parametrize("kind", ["drop", "cut"])
async def test_a_connection_that_breaks_is_a_failure(
    receiver: tuple[WebhookReceiver, str], kind: Any
) -> None:
    app, url = receiver
    app.faults.add(Fault(kind=kind))
    async with sending(allow_private=True) as sender:
        answer = await sender.send(a_webhook(url))
    assert (answer.outcome, answer.status) == (Outcome.FAILED, None)
    assert "RemoteProtocolError" in (answer.error or "")


async def test_a_date_in_retry_after_is_a_time_from_now() -> None:
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)

    class Busy(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(503, headers={"retry-after": "Sat, 21 Nov 2026 12:05:00 GMT"})

    async with sending(resolve=names([PUBLIC]), transport=Busy(), now=lambda: now) as sender:
        answer = await sender.send(a_webhook("https://hooks.example.com/"))
    assert answer.retry_after == timedelta(minutes=5)


async def test_no_proxy_netrc_or_cookie_has_a_part_in_it(
    receiver: tuple[WebhookReceiver, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, url = receiver
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with sending(allow_private=True) as sender:
        assert (await sender.send(a_webhook(url))).status == 204
    assert app.arrivals[0].host == url.split("/")[2]


REFUSED: dict[str, tuple[str, Sequence[str]]] = {
    "a loopback name": ("https://hooks.example.com/", ["127.0.0.1"]),
    "a name with one private address": ("https://hooks.example.com/", [PUBLIC, PRIVATE]),
    "a private name's public address first": ("https://hooks.example.com/", [OTHER, "fd00::1"]),
    "the metadata service": ("https://hooks.example.com/", ["169.254.169.254"]),
    "loopback of IPv6": ("https://hooks.example.com/", ["::1"]),
    "a mapped address": ("https://hooks.example.com/", ["::ffff:10.0.0.7"]),
    "a translated address": ("https://hooks.example.com/", ["64:ff9b::a00:7"]),
    "a link-local address": ("https://hooks.example.com/", ["fe80::1%eth0"]),
    "an address written out": ("https://127.0.0.1/", [PUBLIC]),
    "an address as a number": ("https://2130706433/", [PUBLIC]),
    "an IPv6 address written out": ("https://[::1]/", [PUBLIC]),
    "localhost": ("https://localhost/", [PUBLIC]),
    "no TLS": ("http://hooks.example.com/", [PUBLIC]),
    "no HTTP": ("ftp://hooks.example.com/", [PUBLIC]),
    "credentials": ("https://user:word@hooks.example.com/", [PUBLIC]),
    "no URL": ("https://[::1", [PUBLIC]),
}


@pytest.mark.parametrize(("url", "addresses"), REFUSED.values(), ids=REFUSED)
async def test_what_does_not_lead_out_is_never_connected_to(
    url: str, addresses: Sequence[str]
) -> None:
    wire = Wire()
    async with sending(resolve=names(addresses), transport=wire) as sender:
        answer = await sender.send(a_webhook(url))
    assert wire.requests == []
    assert answer.outcome is Outcome.FAILED
    assert (answer.error or "").startswith("refused: ")


async def test_the_connection_goes_to_the_judged_address_under_the_urls_name() -> None:
    wire = Wire()
    async with sending(resolve=names([PUBLIC], [PRIVATE]), transport=wire) as sender:
        assert (await sender.send(a_webhook("https://hooks.example.com:8443/a?b=c"))).status == 204
        # The name is rebound: the second attempt asks anew, and judges anew.
        assert (await sender.send(a_webhook("https://hooks.example.com:8443/a"))).error == (
            f"refused: {PRIVATE} is not a public address"
        )
    (request,) = wire.requests
    assert str(request.url) == f"https://{PUBLIC}:8443/a?b=c"
    assert request.headers["host"] == "hooks.example.com:8443"
    assert request.extensions["sni_hostname"] == "hooks.example.com"


async def test_a_name_beyond_ascii_is_asked_for_and_named_in_its_encoded_form() -> None:
    wire, asked = Wire(), []

    async def resolve(host: str, port: int) -> Sequence[Address]:
        asked.append((host, port))
        return [ip_address(PUBLIC)]

    async with sending(resolve=resolve, transport=wire) as sender:
        await sender.send(a_webhook("https://bücher.example/"))
    assert asked == [("xn--bcher-kva.example", 443)]
    assert wire.requests[0].headers["host"] == "xn--bcher-kva.example"


async def test_another_judged_address_is_tried_where_one_is_deaf() -> None:
    wire = Wire(OTHER)
    async with sending(resolve=names([OTHER, PUBLIC]), transport=wire) as sender:
        assert (await sender.send(a_webhook("https://hooks.example.com/"))).status == 204
    assert [request.url.host for request in wire.requests] == [OTHER, PUBLIC]


@pytest.mark.parametrize("deaf", [(OTHER, PUBLIC), ()], ids=["deaf", "nameless"])
async def test_a_host_that_is_not_there_is_a_failure(deaf: tuple[str, ...]) -> None:
    async with sending(resolve=names(list(deaf)), transport=Wire(*deaf)) as sender:
        answer = await sender.send(a_webhook("https://hooks.example.com/"))
    assert (answer.outcome, answer.status) == (Outcome.FAILED, None)


async def test_a_name_server_that_hangs_is_bounded_too() -> None:
    async def resolve(host: str, port: int) -> Sequence[Address]:
        await asyncio.sleep(60)
        raise AssertionError

    async with sending(resolve=resolve, transport=Wire(), time_limit_secs=0.05) as sender:
        assert (await sender.send(a_webhook("https://hooks.example.com/"))).error == "timeout"


async def test_names_are_asked_of_the_system() -> None:
    wire = Wire()
    async with sending(allow_private=True, transport=wire) as sender:
        assert (await sender.send(a_webhook("http://localhost:1/"))).status == 204
    assert wire.requests[0].url.host in {"127.0.0.1", "::1"}


async def test_an_address_of_ipv6_can_be_called() -> None:
    app = WebhookReceiver(SECRET)
    async with AsyncExitStack() as stack:
        try:
            served = await stack.enter_async_context(Served(app, host="::1"))
        except OSError:
            pytest.skip("no IPv6 here")
        port = served.rpartition(":")[2]
        sender = await stack.enter_async_context(sending(allow_private=True))
        assert (await sender.send(a_webhook(f"http://[::1]:{port}/"))).status == 204
        found = sending(allow_private=True, resolve=names(["::1"]))
        sender = await stack.enter_async_context(found)
        assert (await sender.send(a_webhook(f"http://six.example:{port}/"))).status == 204
    assert [arrival.host for arrival in app.arrivals] == [f"[::1]:{port}", f"six.example:{port}"]


@asynccontextmanager
async def tls_server(folder: Path, host: str) -> AsyncIterator[tuple[int, list[str | None]]]:
    """An HTTPS server with a certificate for ``host``, and the server names it was asked for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, encoding = folder / "certificate.pem", serialization.Encoding.PEM
    pem.write_bytes(certificate.public_bytes(encoding))
    plain, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(encoding, plain, none))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, folder / "key.pem")
    asked: list[str | None] = []
    context.sni_callback = lambda _socket, server_name, _context: asked.append(server_name)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], asked


@pytest.fixture
def authorities_unread() -> Iterator[None]:
    """They are read when they are first needed, once a process."""
    trusted.cache_clear()
    yield
    trusted.cache_clear()


@pytest.mark.usefixtures("authorities_unread")
async def test_tls_is_with_the_urls_name_though_the_connection_is_to_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tls_server(tmp_path, "hooks.example.com") as (port, asked):
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        async with sending(allow_private=True, resolve=names(["127.0.0.1"])) as sender:
            right = await sender.send(a_webhook(f"https://hooks.example.com:{port}/"))
            other = await sender.send(a_webhook(f"https://other.example.com:{port}/"))
    assert right.status == 204, right
    assert (other.outcome, other.status) == (Outcome.FAILED, None)
    assert "certificate" in (other.error or "")
    assert asked == ["hooks.example.com", "other.example.com"]


async def test_what_is_shown_of_a_webhook_holds_neither_secret_nor_payload() -> None:
    shown = repr(replace(a_webhook("https://hooks.example.com/"), attempt=2))
    assert SECRET not in shown
    assert PAYLOAD not in shown


MAY_HAVE_BEEN_READ = [
    httpx.ReadTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.WriteTimeout,
    httpx.RemoteProtocolError,
]


class Breaking(Wire):
    """Every connection is made, and then breaks."""

    def __init__(self, error: type[httpx.TransportError]) -> None:
        super().__init__()
        self._error = error

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        raise self._error("no")


@pytest.mark.parametrize("error", MAY_HAVE_BEEN_READ)
async def test_what_may_have_been_read_is_not_sent_to_the_next_address(
    error: type[httpx.TransportError],
) -> None:
    wire = Breaking(error)
    async with sending(resolve=names([OTHER, PUBLIC]), transport=wire) as sender:
        answer = await sender.send(a_webhook("https://hooks.example.com/"))
    assert answer.outcome is Outcome.FAILED
    assert [request.url.host for request in wire.requests] == [OTHER]


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ConnectTimeout])
async def test_of_many_addresses_where_nobody_is_a_few_are_tried(
    error: type[httpx.TransportError],
) -> None:
    wire = Breaking(error)
    many = [f"93.184.216.{n}" for n in range(1, 9)]
    async with sending(resolve=names(many), transport=wire) as sender:
        answer = await sender.send(a_webhook("https://hooks.example.com/"))
    assert answer.outcome is Outcome.FAILED
    assert [request.url.host for request in wire.requests] == many[:3]


class Unread(httpx.AsyncByteStream):
    """The body of an answer, which is not to be read."""

    def __init__(self) -> None:
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        raise AssertionError("nobody reads it")
        yield b""

    async def aclose(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("status", [204, 410, 500])
async def test_an_answer_s_body_is_closed_and_not_read(status: int) -> None:
    body = Unread()

    class Answering(Wire):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(status, stream=body)

    async with sending(resolve=names([PUBLIC]), transport=Answering()) as sender:
        assert (await sender.send(a_webhook("https://hooks.example.com/"))).status == status
    assert body.is_closed
