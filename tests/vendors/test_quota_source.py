"""Which teams may go on, over real HTTP against a billing service that can be told to fail."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import certifi
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from structlog.testing import capture_logs

from flow.domain.key import ApiKey
from flow.errors import ConfigurationError, QuotaUnavailable, Refused
from flow.sandbox.faults import Fault
from flow.sandbox.quota import TOKEN, Quota, QuotaSandbox
from flow.sandbox.server import Served
from flow.vendors.quota_source import QuotaSource, QuotaState

KEY = ApiKey(UUID(int=1), "key_1", "team_1", "Production")
PRODUCT = "voice_bot"
COUNTER = "flow_quota_checks_total"
GOOD = b'{"limited": false}'
# 2026-11-30T00:00:00Z, when the clock of a test stands at 0.
START = datetime(2026, 11, 30, tzinfo=UTC).timestamp()


@dataclass
class Clock:
    """Seconds, moved by hand, and the time of day that goes with them."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return START + self.seconds


@dataclass
class World:
    """A quota source, the billing service it asks, and the time."""

    billing: QuotaSandbox
    source: QuotaSource
    clock: Clock
    registry: CollectorRegistry
    url: str
    stack: AsyncExitStack

    @property
    def asked(self) -> int:
        return len(self.billing.requests)

    async def check(self, key: ApiKey = KEY, product: str = PRODUCT) -> QuotaState:
        return await self.source.check(key, product)

    async def verdict(self, key: ApiKey = KEY, product: str = PRODUCT) -> str:
        try:
            await self.source.check(key, product)
        except Refused:
            return "limited"
        except QuotaUnavailable:
            return "unavailable"
        return "in"

    def counted(self, outcome: str) -> float:
        return self.registry.get_sample_value(COUNTER, {"outcome": outcome}) or 0

    def fail(self, **fault: Any) -> None:
        """From now on the billing service has this fault and no other."""
        self.billing.faults.clear()
        self.billing.faults.add(Fault(**({"kind": "status", "status": 500} | fault)))

    def recover(self) -> None:
        self.billing.faults.clear()

    async def until_asked(self, times: int) -> None:
        async with asyncio.timeout(20):
            while self.asked < times:
                await asyncio.sleep(0.01)

    def another(self, url: str, **options: Any) -> QuotaSource:
        """A source of its own; closed with the world."""
        options = {"clock": self.clock, "wall_clock": self.clock.wall, **options}
        source = QuotaSource(url, **options)
        self.stack.push_async_callback(source.aclose)
        return source


@pytest.fixture(scope="module", autouse=True)
def _one_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trust one certificate authority, not all: loading them took most of each test's time."""
    end = "-----END CERTIFICATE-----\n"
    first = Path(certifi.where()).read_text("utf-8").partition(end)[0] + end
    file = tmp_path_factory.mktemp("authority") / "one.pem"
    file.write_text(first, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(file))
        yield


@asynccontextmanager
async def running_world(time_limit_secs: float = 0.5) -> AsyncIterator[World]:
    clock, registry, billing = Clock(), CollectorRegistry(), QuotaSandbox()
    async with AsyncExitStack() as stack:
        url = f"{await stack.enter_async_context(Served(billing))}/quota"
        source = QuotaSource(
            url,
            token=SecretStr(TOKEN),
            clock=clock,
            wall_clock=clock.wall,
            registry=registry,
            time_limit_secs=time_limit_secs,
        )
        stack.push_async_callback(source.aclose)
        yield World(billing, source, clock, registry, url, stack)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running_world() as world:
        yield world


@dataclass
class Lab:
    """One world for all examples; each asks for a team, and so has a memory, of its own."""

    run: Callable[[Any], Any]
    world: World
    teams: int = 0

    def new_team(self) -> ApiKey:
        self.teams += 1
        return at(team_id=f"team_{self.teams}")


@pytest.fixture(scope="module")
def lab(_one_authority: None) -> Iterator[Lab]:
    with asyncio.Runner() as runner:
        running = running_world(time_limit_secs=30)
        lab = Lab(runner.run, runner.run(running.__aenter__()))
        # Counted by length, so none may be pushed out.
        lab.world.billing.requests = type(lab.world.billing.requests)()
        yield lab
        runner.run(running.__aexit__(None, None, None))


@dataclass
class Wire:
    """A server that says the same bytes to everybody, and keeps what was said to it."""

    url: str
    heads: list[str]


class Wires:
    """Servers below HTTP, until the test is over."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def saying(self, *parts: bytes, forever: bool = False) -> Wire:
        """Each part is sent on its own, a little apart; ``forever`` begins again with the last."""
        heads: list[str] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                heads.append((await reader.readuntil(b"\r\n\r\n")).decode("latin-1"))
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                while forever:
                    await asyncio.sleep(0.02)
                    writer.write(parts[-1])
                    await writer.drain()
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self._stack.callback(server.close)
        host, port = server.sockets[0].getsockname()[:2]
        return Wire(f"http://{host}:{port}/may-they", heads)


@pytest.fixture
async def wires() -> AsyncIterator[Wires]:
    async with AsyncExitStack() as stack:
        yield Wires(stack)


def http(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"content-length: {size}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def at(**named: Any) -> ApiKey:
    return replace(KEY, **named)


def status(code: int, **more: Any) -> dict[str, Any]:
    return {"kind": "status", "status": code, **more}


def says(body: Any) -> dict[str, Any]:
    return {"kind": "status", "status": 200, "body": body}


FAILURES = {
    **{str(code): status(code) for code in (408, 429, 500, 502, 503, 504, 599)},
    **{str(code): status(code, headers={"location": "/quota"}) for code in (300, 301, 302, 303)},
    **{str(code): status(code, headers={"location": "/quota"}) for code in (304, 307, 308)},
    **{str(code): status(code, body={"limited": False}) for code in (201, 202, 203, 206)},
    "429 with a good body": status(429, body={"limited": False}),
    "500 with a good body": status(500, body={"limited": False}),
    "hangs up": {"kind": "drop"},
    "hangs up after its body": {"kind": "cut", "chunks": 1},
    "cut-off JSON": {"kind": "malformed"},
    "empty": says(""),
    "HTML": says("<!doctype html><title>Welcome</title>"),
    "text": says("ok"),
    "null": says("null"),
    "a list": says([]),
    "a list of an answer": says([{"limited": False}]),
    "a boolean": says("false"),
    "a number": says("0"),
    "nothing in it": says({}),
    "another spelling": says({"Limited": False}),
    "NaN": says('{"limited": NaN}'),
    "NaN where it does not matter": says('{"limited": false, "x": [NaN]}'),
    "single quotes": says("{'limited': false}"),
    "two answers": says('{"limited": false} {"limited": true}'),
    "contradicts itself": says('{"limited": true, "limited": false}'),
    "two uses": says('{"limited": false, "used": 1, "used": 2}'),
    "byte order mark": says("\ufeff" + GOOD.decode()),
    "nested too deep": says('{"limited": false, "x": ' + "[" * 30_000 + "]" * 30_000 + "}"),
    "too long": says({"limited": False, "x": "y" * 65_536}),
    "as good as endless": says({"limited": False, "x": "y" * 5_000_000}),
    "labelled as packed": status(
        200, body=GOOD.decode(), headers={"content-encoding": "gzip"}
    ),
    "labelled as packed in a way of its own": status(
        200, body=GOOD.decode(), headers={"content-encoding": "x-zip"}
    ),
    **{
        f"limited={value}": says(f'{{"limited": {value}}}')
        for value in ('"false"', '"true"', "0", "1", "null", "[]", "{}", '""', '"no"')
    },
    **{
        f"{name}={value}": says(f'{{"limited": false, "{name}": {value}}}')
        for name in ("used", "limit")
        for value in (
            "NaN", "Infinity", "-Infinity", '"NaN"', '"Infinity"', '"sNaN"', "-1", '"-0.01"',
            "true", "false", "[]", "{}", '""', '" 1"', '"1 "', '"1_000"', '"1,000"', '"0x10"',
            '"١٢"', '"1."', '".5"', "1e100", '"1e100"', "1e-100", "1e999999999999999999",
            '"1e1e1"', '"' + "9" * 101 + '"', "9" * 5_000, '"+1"', '"$5"', '"1\\n"',
        )
    },
    **{
        f"resets_at={value}": says(f'{{"limited": false, "resets_at": {value}}}')
        for value in (
            "1796083200", "true", '""', '"soon"', '"2026-12-01"', '"2026-12-01T00:00:00"',
            '"20261201T000000Z"', '"2026-13-01T00:00:00Z"', '"2026-12-01T25:00:00Z"',
            '"2026-12-01T00:00:00+24:00"', '"0001-01-01T00:00:00+23:59"', '"2026-W49-2T00:00:00Z"',
            '"9999-12-31T23:59:59-23:59"', '"2026-12-01T00:00:00Z\\n"', "[]", "{}",
        )
    },
    **{
        f"resource={value}": says(f'{{"limited": false, "resource": {value}}}')
        for value in ('""', "1", "true", "[]", '"a\\u0000b"', '"a\\nb"', '"\\ud800"', '"\\u202e"')
    },
    "resource of 101 characters": says({"limited": False, "resource": "r" * 101}),
}  # fmt: skip

SILENCES = {
    "hangs": {"kind": "hang"},
    "stalls before its body": {"kind": "stall", "chunks": 0},
    "stalls after its body": {"kind": "stall", "chunks": 1},
}
# Enough to show what a failure does.
SOME_FAILURES = {"hangs": SILENCES["hangs"]} | {
    name: FAILURES[name]
    for name in ("408", "429", "500", "302", "hangs up", "cut-off JSON", "HTML", "a list")
}
REFUSALS = [400, 401, 403, 404, 405, 406, 407, 409, 410, 418, 422, 426, 431, 451, 499]

WRONG_ON_THE_WIRE = {
    "nothing": b"",
    "no HTTP": b"220 billing.example ESMTP\r\n\r\n",
    "an endless header": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000,
    "no body": http(b""),
    "less than it promised": http(GOOD, length=500),
    "more than it promised": http(GOOD, length=5),
    "chunks that do not end": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n12\r\n" + GOOD + b"\r\n"
    ),
    "a chunk of a wrong size": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n" + GOOD + b"\r\n0\r\n\r\n"
    ),
    "really packed": http(gzip.compress(GOOD), "content-encoding: gzip"),
    "packed and not saying so": http(gzip.compress(GOOD)),
    "UTF-16": http(GOOD.decode().encode("utf-16")),
    "not UTF-8": http(b'{"limited": false, "x": "\xff"}'),
    "no content": http(b"", status="204 No Content"),
    "a status of four digits": http(GOOD, status="2000 OK"),
    "a status beyond the known": http(GOOD, status="600 Who Knows"),
    "an odd HTTP": GOOD,
}


# --- What goes over the wire


async def test_the_question_names_team_key_and_product_and_carries_the_token(
    world: World, wires: Wires
) -> None:
    wire = await wires.saying(http(GOOD))
    await world.another(wire.url, token=SecretStr("a_token")).check(KEY, PRODUCT)
    (head,) = wire.heads
    request, *headers = head.rstrip().split("\r\n")
    assert request == (
        "GET /may-they?team_id=team_1&api_key_id=00000000-0000-0000-0000-000000000001"
        "&product=voice_bot HTTP/1.1"
    )
    named = {line.split(": ")[0].lower(): line.split(": ")[1] for line in headers}
    assert named["accept"] == "application/json"
    assert named["authorization"] == "Bearer a_token"


async def test_without_a_token_none_is_sent(world: World, wires: Wires) -> None:
    wire = await wires.saying(http(GOOD))
    await world.another(wire.url).check(KEY, PRODUCT)
    assert "authorization" not in wire.heads[0].lower()


@pytest.mark.parametrize(
    ("query", "begins"),
    [
        ("", "?team_id="),
        ("?", "?team_id="),
        ("?tenant=7", "?tenant=7&team_id="),
        ("?tenant=7&", "?tenant=7&team_id="),
        ("?tenant=a%20b&flag&c=d+e", "?tenant=a%20b&flag&c=d+e&team_id="),
    ],
)
async def test_the_urls_own_query_is_kept_as_it_is(
    world: World, wires: Wires, query: str, begins: str
) -> None:
    wire = await wires.saying(http(GOOD))
    await world.another(wire.url + query).check(KEY, PRODUCT)
    assert wire.heads[0].startswith(f"GET /may-they{begins}team_1&api_key_id=")


@pytest.mark.parametrize(
    "team",
    [
        "a b",
        "a+b",
        "a&product=free",
        "a#b",
        "a/../b",
        "50%",
        "%41",
        "ü",
        "a=b?c",
        "💶",
        "a;b",
        "\n",
    ],
)
async def test_no_name_of_a_team_can_change_the_question(world: World, team: str) -> None:
    await world.check(at(team_id=team), product="voice & more")
    (question,) = world.billing.questions
    assert (question.team_id, question.product) == (team, "voice & more")
    assert question.api_key_id == str(KEY.id)


async def test_a_cookie_is_not_carried_from_one_team_to_the_next(
    world: World, wires: Wires
) -> None:
    wire = await wires.saying(http(GOOD, "set-cookie: team=team_1; Path=/"))
    source = world.another(wire.url)
    await source.check(KEY, PRODUCT)
    await source.check(at(team_id="team_2"), PRODUCT)
    assert len(wire.heads) == 2
    assert "cookie" not in "".join(wire.heads).lower()


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_the_token_does_not_follow_a_redirect(world: World, wires: Wires, code: int) -> None:
    elsewhere = await wires.saying(http(GOOD))
    world.fail(status=code, headers={"location": elsewhere.url}, body={"limited": False})
    assert await world.verdict() == "unavailable"
    assert elsewhere.heads == []


@pytest.mark.parametrize(
    "url",
    [
        "", "billing.example/quota", "ftp://billing.example/", "http://", "https:///quota",
        "http://billing.example/#part", "http://billing.example/?#", "http://[::1/",
        "http://billing.example:port/", "http://billing.example/?team_id=1",
        "http://billing.example/?x=1&product=", "http://billing.example/?api%5Fkey_id=1",
        "http://user:pass_word@billing.example/",
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_used_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        QuotaSource(url, token=SecretStr("a_token"))
    assert "quota source" in str(refused.value)
    assert "pass_word" not in str(refused.value)


@pytest.mark.parametrize(
    "token", ["", " ", "a token", "token\r\nx-admin: 1", "schlüssel", "\ud800"]
)
def test_a_token_that_cannot_be_sent_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        QuotaSource("http://billing.example/", token=SecretStr(token))
    assert not token.strip() or token not in str(refused.value)


# --- What an answer means


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ('{"limited": false}', (None, None, None, None)),
        (
            '{"limited": false, "resource": null, "used": null, "limit": null, "resets_at": null}',
            (None, None, None, None),
        ),
        (
            '{"limited": false, "resource": "ai_credits", "used": "120.5", "limit": "1000",'
            ' "resets_at": "2026-12-01T00:00:00Z"}',
            ("ai_credits", "120.5", "1000", "2026-12-01T00:00:00+00:00"),
        ),
        (
            '{"limited": false, "used": 0.1, "limit": 12345678901234567890.123456789}',
            (None, "0.1", "12345678901234567890.123456789", None),
        ),
        ('{"limited": false, "used": 0, "limit": 1e3}', (None, "0", "1E+3", None)),
        ('{"limited": false, "used": -0.0, "limit": "0e500"}', (None, "0", "0", None)),
        (
            '{"limited": false, "resets_at": "2026-12-01t02:00:00.123456789+02:00"}',
            (None, None, None, "2026-12-01T00:00:00.123456+00:00"),
        ),
        (
            '{"limited": false, "plan": "pro", "x": {"limited": true}, "n": 1e999, "r": [9e99]}',
            (None, None, None, None),
        ),
        (' \n{"limited": false}\r\n ', (None, None, None, None)),
    ],
)
async def test_an_answer_is_read_exactly(
    world: World, said: str, state: tuple[str | None, ...]
) -> None:
    world.fail(status=200, body=said)
    got = await world.check()
    shown = (got.resource, got.used, got.limit, got.resets_at and got.resets_at.isoformat())
    assert tuple(part if part is None else str(part) for part in shown) == state
    assert not got.limited


async def test_an_answer_of_exactly_64_kib_is_read(world: World) -> None:
    world.fail(status=200, body=GOOD.decode().ljust(65_536))
    assert await world.verdict() == "in"
    world.fail(status=200, body=GOOD.decode().ljust(65_537))
    assert await world.verdict(at(team_id="team_2")) == "unavailable"


async def test_an_answer_counts_however_it_is_labelled_or_ended(world: World, wires: Wires) -> None:
    world.fail(kind="content_type")
    assert await world.verdict() == "in"
    wire = await wires.saying(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + GOOD)
    assert not (await world.another(wire.url).check(KEY, PRODUCT)).limited


@pytest.mark.parametrize("silence", SILENCES.values(), ids=SILENCES)
async def test_no_whole_answer_in_time_is_not_a_yes(world: World, silence: dict[str, Any]) -> None:
    world.fail(**silence)
    assert await world.verdict() == "unavailable"
    assert (world.asked, world.counted("failed_closed")) == (1, 1)


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_failure_or_a_malformed_answer_is_not_a_yes(lab: Lab, failure: dict[str, Any]) -> None:
    world, before = lab.world, (lab.world.asked, lab.world.counted("failed_closed"))
    world.fail(**failure)
    assert lab.run(world.verdict(lab.new_team())) == "unavailable"
    assert (world.asked, world.counted("failed_closed")) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("said", WRONG_ON_THE_WIRE.values(), ids=WRONG_ON_THE_WIRE)
async def test_what_is_not_even_proper_http_is_not_a_yes(
    world: World, wires: Wires, said: bytes
) -> None:
    wire = await wires.saying(said)
    source = world.another(wire.url, time_limit_secs=0.5)
    with pytest.raises(QuotaUnavailable):
        await source.check(KEY, PRODUCT)
    assert len(wire.heads) == 1


async def test_a_body_that_comes_drop_by_drop_does_not_hold_a_caller(
    world: World, wires: Wires
) -> None:
    wire = await wires.saying(
        b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n", b" ", forever=True
    )
    source = world.another(wire.url, time_limit_secs=0.3)
    async with asyncio.timeout(20):
        with pytest.raises(QuotaUnavailable):
            await source.check(KEY, PRODUCT)


async def test_a_source_that_is_not_there_lets_nobody_in(world: World) -> None:
    with pytest.raises(QuotaUnavailable):
        await world.another("http://127.0.0.1:9/quota").check(KEY, PRODUCT)


@pytest.mark.parametrize("body", [None, "", "pay first", {"limited": False}])
async def test_402_means_limited_whatever_its_body_says(world: World, body: Any) -> None:
    world.fail(status=402, body=body)
    assert await world.verdict() == "limited"
    assert (await world.source.state(KEY, PRODUCT)) == QuotaState(True, None, None, None, None)


# --- A team that is limited


async def test_a_limited_team_is_told_of_what_how_much_until_when_and_whom_to_ask(
    world: World,
) -> None:
    world.billing.set_quota(
        KEY.team_id,
        Quota(
            limited=True,
            resource="ai_credits",
            used="1000.5",
            limit="1000",
            resets_at="2026-12-01T00:00:00Z",
        ),
    )
    with pytest.raises(Refused) as refused:
        await world.check()
    assert refused.value.code == "quota_exceeded"
    for part in ("ai credits", "1000.5", "quota of 1000 ", "2026-12-01T00:00:00Z", "billing can"):
        assert part in str(refused.value)
    assert refused.value.retry_after_secs == 86_400
    assert refused.value.limit == {
        "resource": "ai_credits",
        "scope": "team",
        "product": PRODUCT,
        "used": "1000.5",
        "reserved": None,
        "limit": "1000",
        "limited": True,
        "resets_at": datetime(2026, 12, 1, tzinfo=UTC),
        "source": "external",
    }


@pytest.mark.parametrize(
    ("quota", "sentence"),
    [
        ({}, "this team's quota is used up. Whoever"),
        ({"resource": "minutes"}, "this team's quota of minutes is used up. Whoever"),
        ({"limit": "5"}, "this team's quota of 5 is used up. Whoever"),
        ({"used": "7"}, "this team's quota is used up: 7 used. Whoever"),
        (
            {"resource": "minutes", "limit": "5", "used": "7.0"},
            "this team's quota of 5 minutes is used up: 7 used. Whoever",
        ),
    ],
)
async def test_a_limited_team_is_told_as_much_as_is_known(
    world: World, quota: dict[str, str], sentence: str
) -> None:
    world.billing.set_quota(KEY.team_id, Quota(limited=True, **quota))
    with pytest.raises(Refused, match=sentence):
        await world.check()


@pytest.mark.parametrize(
    ("resets_at", "retry_after_secs"),
    [
        (None, 60),
        ("2026-11-30T00:00:00.001Z", 1),
        ("2026-11-30T00:00:01.5Z", 2),
        ("2026-11-30T00:10:00Z", 600),
        ("2026-12-31T00:00:00Z", 86_400),
        ("2026-11-29T00:00:00Z", 1),
        ("0001-01-01T00:00:00Z", 1),
        ("9999-12-31T23:59:59Z", 86_400),
    ],
)
async def test_a_limited_team_is_told_when_to_come_back(
    world: World, resets_at: str | None, retry_after_secs: int
) -> None:
    world.billing.set_quota(KEY.team_id, Quota(limited=True, resets_at=resets_at))
    with pytest.raises(Refused) as refused:
        await world.check()
    assert refused.value.retry_after_secs == retry_after_secs


async def test_the_state_of_a_limited_team_can_be_shown(world: World) -> None:
    world.billing.set_quota(KEY.team_id, Quota(limited=True, resource="minutes", used="3"))
    state = await world.source.state(KEY, PRODUCT)
    assert state == QuotaState(True, "minutes", Decimal(3), None, None)
    assert await world.verdict() == "limited"
    assert world.asked == 1


# --- Reuse


@pytest.mark.parametrize(
    ("quota", "age", "asked"),
    [
        (Quota(), 0, 1),
        (Quota(), 14.9, 1),
        (Quota(), 15, 2),
        (Quota(resets_at="2026-11-30T00:00:02Z"), 14.9, 1),
        (Quota(limited=True), 4.9, 1),
        (Quota(limited=True), 5, 2),
        (Quota(limited=True, resets_at="2026-11-30T00:00:02Z"), 1.9, 1),
        (Quota(limited=True, resets_at="2026-11-30T00:00:02Z"), 2, 2),
        (Quota(limited=True, resets_at="2026-11-29T00:00:00Z"), 0, 2),
        (Quota(limited=True, resets_at="2026-12-01T00:00:00Z"), 5, 2),
    ],
    ids=str,
)
async def test_an_answer_is_reused_for_seconds(
    world: World, quota: Quota, age: float, asked: int
) -> None:
    world.billing.set_quota(KEY.team_id, quota)
    expected = "limited" if quota.limited else "in"
    assert await world.verdict() == expected
    world.clock.seconds += age
    assert await world.verdict() == expected
    assert world.asked == asked
    assert world.counted("answered") == asked
    assert world.counted("remembered") == 2 - asked


@pytest.mark.parametrize(("limited", "reuse_secs"), [(False, 2), (True, 2), (True, 5)])
async def test_how_long_is_the_operators_to_say(
    world: World, limited: bool, reuse_secs: float
) -> None:
    world.billing.set_quota(KEY.team_id, Quota(limited=limited))
    source = world.another(world.url, token=SecretStr(TOKEN), reuse_secs=min(reuse_secs * 1.0, 30))
    for age, asked in ((0, 1), (reuse_secs - 0.1, 1), (0.1, 2)):
        world.clock.seconds += age
        await source.state(KEY, PRODUCT)
        assert world.asked == asked


@pytest.mark.parametrize(
    ("key", "product"),
    [
        (at(team_id="team_2"), PRODUCT),
        (at(id=UUID(int=2)), PRODUCT),
        (KEY, "another_bot"),
        (at(team_id="team_2", id=UUID(int=2)), "another_bot"),
    ],
    ids=["team", "key", "product", "all"],
)
async def test_another_team_key_or_product_is_another_question(
    world: World, key: ApiKey, product: str
) -> None:
    await world.check()
    world.fail(status=200, body={"limited": True})
    assert await world.verdict(key, product) == "limited"
    assert await world.verdict() == "in"
    world.fail()
    world.clock.seconds += 20
    assert await world.verdict(key, product) == "limited"
    assert await world.verdict() == "in"


async def test_a_team_does_not_go_on_with_another_teams_answer(world: World) -> None:
    await world.check()
    world.fail()
    assert await world.verdict(at(team_id="team_2")) == "unavailable"
    assert await world.verdict(at(id=UUID(int=2))) == "unavailable"
    assert await world.verdict(product="another_bot") == "unavailable"


async def test_one_more_than_fits_forgets_the_one_unused_longest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flow.vendors.quota_memory.MAX_KNOWN", 2)
    for team in ("a", "b", "a", "c", "a"):
        await world.check(at(team_id=team))
    assert world.asked == 3
    await world.check(at(team_id="b"))
    assert world.asked == 4
    world.fail(status=404)
    world.clock.seconds += 15
    for team in ("a", "b", "c"):
        assert await world.verdict(at(team_id=team)) == "unavailable"


# --- Failing open, failing closed


@pytest.mark.parametrize("failure", SOME_FAILURES.values(), ids=SOME_FAILURES)
async def test_in_a_failure_a_team_lately_good_goes_on_and_it_is_logged_and_counted(
    world: World, failure: dict[str, Any]
) -> None:
    world.billing.set_quota(KEY.team_id, Quota(used="5"))
    await world.check()
    world.fail(**failure)
    world.clock.seconds += 59.9
    with capture_logs() as logs:
        assert (await world.check()).used == 5
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("quota_source_failed_open", "warning")
    assert (line["team_id"], line["good_secs_ago"]) == (KEY.team_id, 59.9)
    assert world.counted("failed_open") == 1


@pytest.mark.parametrize("failure", SOME_FAILURES.values(), ids=SOME_FAILURES)
async def test_in_a_failure_a_team_good_long_ago_does_not_and_it_is_logged_and_counted(
    world: World, failure: dict[str, Any]
) -> None:
    await world.check()
    world.fail(**failure)
    world.clock.seconds += 60.1
    with capture_logs() as logs:
        assert await world.verdict() == "unavailable"
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("quota_source_failed_closed", "error")
    assert world.counted("failed_closed") == 1


def half_seconds(until: float) -> Iterator[float]:
    return (step / 2 for step in range(int(until * 2) + 1))


async def test_answering_from_memory_does_not_prolong_the_minute(world: World) -> None:
    await world.check()
    world.fail()
    let_in = []
    for now in half_seconds(100):
        world.clock.seconds = now
        if await world.verdict() == "in":
            let_in.append(now)
    assert let_in == list(half_seconds(60))
    assert world.counted("remembered") + world.counted("failed_open") == len(let_in)


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        pytest.param(False, [0, 0.5, 5.5, 15.5, 35.5, 55.5, 75.5, 95.5], id="stranger"),
        pytest.param(True, [0, 15, 15.5, 20.5, 30.5, 50.5, 70.5, 90.5], id="lately good"),
    ],
)
async def test_a_failing_source_is_asked_again_after_0_5_10_20_20_seconds(
    world: World, known: bool, asked: list[float]
) -> None:
    times = []
    if not known:
        world.fail()
    for now in half_seconds(100):
        world.clock.seconds = now
        before = world.asked
        await world.verdict()
        times += [now] * (world.asked - before)
        world.fail()
    assert times == asked


async def test_between_two_tries_memory_answers_without_waiting(world: World) -> None:
    await world.check()
    world.fail(kind="hang")
    world.clock.seconds += 15
    for _ in range(20):
        assert await world.verdict() == "in"
    assert world.asked == 1 + 2


async def test_after_a_recovery_the_tries_begin_anew(world: World) -> None:
    world.fail()
    for _ in range(2):
        assert await world.verdict() == "unavailable"
    world.clock.seconds += 5
    world.recover()
    assert await world.verdict() == "in"
    world.fail()
    world.clock.seconds += 15
    for _ in range(3):
        assert await world.verdict() == "in"
    assert world.asked == 2 + 1 + 2


async def test_a_limited_team_stays_limited_while_the_source_fails(world: World) -> None:
    world.billing.set_quota(KEY.team_id, Quota(limited=True, used="9"))
    await world.verdict()
    world.fail()
    for now in (5, 20, 59, 61, 3_600):
        world.clock.seconds = now
        assert await world.verdict() == "limited"
    assert world.counted("failed_closed") == 5
    assert (await world.source.state(KEY, PRODUCT)).used == 9


async def test_once_its_limit_should_have_reset_nobody_can_tell(world: World) -> None:
    world.billing.set_quota(KEY.team_id, Quota(limited=True, resets_at="2026-11-30T00:00:30Z"))
    await world.verdict()
    world.fail()
    for now, verdict in ((29.9, "limited"), (30, "unavailable"), (50, "unavailable")):
        world.clock.seconds = now
        assert await world.verdict() == verdict


async def test_a_team_good_and_then_limited_is_not_let_in_by_the_older_answer(
    world: World,
) -> None:
    await world.check()
    world.clock.seconds += 15
    world.billing.set_quota(KEY.team_id, Quota(limited=True))
    assert await world.verdict() == "limited"
    world.clock.seconds += 5
    world.fail()
    assert await world.verdict() == "limited"


async def test_a_source_that_keeps_changing_its_mind_is_believed_each_time(world: World) -> None:
    for turn in range(10):
        limited = turn % 2 == 1
        world.billing.set_quota(KEY.team_id, Quota(limited=limited))
        assert await world.verdict() == ("limited" if limited else "in")
        world.clock.seconds += 15
    assert world.asked == 10


# --- Refusals


@pytest.mark.parametrize("code", REFUSALS)
async def test_a_refusal_lets_nobody_in_and_names_its_status(world: World, code: int) -> None:
    world.fail(status=code, body={"limited": False})
    with capture_logs() as logs, pytest.raises(QuotaUnavailable, match=str(code)):
        await world.check()
    assert [(line["event"], line["status"]) for line in logs] == [("quota_source_refused", code)]
    assert world.counted("refused") == 1


async def test_a_refusal_ends_the_minute_at_once(world: World) -> None:
    await world.check()
    world.clock.seconds += 15
    world.fail(status=404)
    assert await world.verdict() == "unavailable"
    world.fail()
    world.clock.seconds += 1
    assert await world.verdict() == "unavailable"
    assert world.counted("failed_open") == 0


async def test_a_refusal_drops_all_that_is_remembered_of_the_team_and_of_no_other(
    world: World,
) -> None:
    await world.check()
    await world.check(at(id=UUID(int=2)))
    await world.check(at(team_id="team_2"))
    world.fail(status=403)
    assert await world.verdict(product="another_bot") == "unavailable"
    world.fail()
    assert await world.verdict() == "unavailable"
    assert await world.verdict(at(id=UUID(int=2))) == "unavailable"
    assert await world.verdict(at(team_id="team_2")) == "in"


async def test_a_refusal_is_remembered_for_a_second_against_hammering(world: World) -> None:
    world.fail(status=404)
    for _ in range(20):
        assert await world.verdict() == "unavailable"
    assert (world.asked, world.counted("refused")) == (1, 20)
    world.recover()
    world.clock.seconds += 1
    assert await world.verdict() == "in"


async def test_a_token_that_billing_does_not_know_lets_nobody_in(world: World) -> None:
    source = world.another(world.url, token=SecretStr("another_token"))
    with pytest.raises(QuotaUnavailable, match="401"):
        await source.check(KEY, PRODUCT)


# --- Many at once


async def test_a_hundred_callers_at_once_ask_once(world: World) -> None:
    world.fail(kind="delay", delay_secs=0.05)
    assert await asyncio.gather(*(world.verdict() for _ in range(100))) == ["in"] * 100
    assert world.asked == 1


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        ({"status": 500}, "unavailable"),
        ({"status": 404}, "unavailable"),
        ({"status": 402}, "limited"),
    ],
)
async def test_everybody_who_waited_is_told_in_an_error_of_their_own(
    world: World, fault: dict[str, Any], verdict: str
) -> None:
    world.fail(**fault)
    world.billing.faults.add(Fault(kind="delay", delay_secs=0.05))
    results = await asyncio.gather(*(world.check() for _ in range(10)), return_exceptions=True)
    assert {type(result) for result in results} == {
        Refused if verdict == "limited" else QuotaUnavailable
    }
    assert len({id(result) for result in results}) == 10
    assert world.asked == 1


async def test_a_caller_who_leaves_does_not_end_it_for_the_others(world: World) -> None:
    world.fail(kind="delay", delay_secs=0.1)
    first, second = (asyncio.create_task(world.verdict()) for _ in range(2))
    await world.until_asked(1)
    first.cancel()
    assert await second == "in"
    assert first.cancelled()
    assert world.asked == 1


async def test_the_answer_to_a_caller_who_left_is_kept(world: World) -> None:
    world.fail(kind="delay", delay_secs=0.1)
    only = asyncio.create_task(world.check())
    await world.until_asked(1)
    only.cancel()
    assert await world.verdict() == "in"
    assert world.asked == 1


async def test_one_teams_hanging_question_does_not_hold_another_team(world: World) -> None:
    world.source = world.another(world.url, token=SecretStr(TOKEN), time_limit_secs=30)
    world.fail(kind="hang", times=1)
    held = asyncio.create_task(world.check())
    await world.until_asked(1)
    assert await world.verdict(at(team_id="team_2")) == "in"
    assert not held.done()
    held.cancel()


async def test_closing_releases_whoever_waits_and_asks_no_more(world: World) -> None:
    source = world.another(world.url, token=SecretStr(TOKEN), time_limit_secs=30)
    world.fail(kind="hang")
    waiting = asyncio.create_task(source.check(KEY, PRODUCT))
    await world.until_asked(1)
    await source.aclose()
    for question in (waiting, source.check(KEY, "another_bot")):
        async with asyncio.timeout(20):
            with pytest.raises(QuotaUnavailable):
                await question
    assert world.asked == 1


async def test_neither_the_token_nor_the_url_is_logged(world: World) -> None:
    source = world.another(f"{world.url}?secret=hush_hush", token=SecretStr(TOKEN))
    with capture_logs() as logs:
        for fault in ({"status": 404}, {"kind": "drop"}, {"kind": "malformed"}):
            world.fail(**fault)
            world.clock.seconds += 100
            with pytest.raises(QuotaUnavailable) as unavailable:
                await source.check(KEY, PRODUCT)
            assert "hush" not in str(unavailable.value)
    assert len(logs) == 3
    assert "hush" not in str(logs)
    assert TOKEN not in str(logs)


# --- The law


ANSWERS: dict[str, tuple[str, dict[str, Any] | None]] = {
    "good": ("good", None),
    "limited": ("limited", says({"limited": True})),
    "limited until then": (
        "limited",
        says({"limited": True, "resets_at": "2026-11-30T00:01:00Z"}),
    ),
    "402": ("limited", status(402)),
    "401": ("refused", status(401)),
    "404": ("refused", status(404, body={"limited": False})),
    "429": ("failed", status(429)),
    "500": ("failed", status(500, body={"limited": False})),
    "302": ("failed", status(302, headers={"location": "/quota"})),
    "dropped": ("failed", {"kind": "drop"}),
    "garbage": ("failed", {"kind": "malformed"}),
    "a string": ("failed", says({"limited": "false"})),
}
STEP = st.tuples(
    st.sampled_from(sorted(ANSWERS)),
    st.sampled_from([PRODUCT, "another_bot"]),
    st.sampled_from([0.0, 0.5, 1.0, 4.9, 5.0, 10.0, 14.9, 15.0, 20.0, 59.9, 60.0, 60.1, 200.0]),
)


@dataclass
class Asked:
    """One question that reached the source, and of what kind its answer was."""

    at: float
    product: str
    kind: str


def follow(lab: Lab, steps: list[tuple[str, str, float]]) -> Iterator[tuple[str, str, list[Asked]]]:
    """Each step's verdict and product, with all questions asked so far."""
    world, key, asked = lab.world, lab.new_team(), list[Asked]()
    for answer, product, secs in steps:
        world.clock.seconds += secs
        kind, fault = ANSWERS[answer]
        world.recover() if fault is None else world.fail(**fault)
        before = world.asked
        verdict = lab.run(world.verdict(key, product))
        assert world.asked - before in {0, 1}
        if world.asked > before:
            asked.append(Asked(world.clock.seconds, product, kind))
        yield verdict, product, asked


@settings(max_examples=80, deadline=None)
@given(steps=st.lists(STEP, max_size=15))
def test_nobody_is_let_in_but_on_a_good_answer_a_minute_old_at_most(
    lab: Lab, steps: list[tuple[str, str, float]]
) -> None:
    for verdict, product, asked in follow(lab, steps):
        if verdict != "in":
            continue
        # A refusal counts against the whole team, any other answer for its own product.
        told = [
            one
            for one in asked
            if one.kind == "refused" or (one.product == product and one.kind != "failed")
        ]
        assert told, "let in, and nothing good was ever said"
        assert told[-1].kind == "good"
        assert lab.world.clock.seconds - told[-1].at <= 60


@settings(max_examples=50, deadline=None)
@given(steps=st.lists(STEP, max_size=15))
def test_what_the_source_says_now_is_what_holds_now(
    lab: Lab, steps: list[tuple[str, str, float]]
) -> None:
    asked_before = 0
    for verdict, _, asked in follow(lab, steps):
        if len(asked) > asked_before:
            expected = {"good": "in", "limited": "limited", "refused": "unavailable"}
            assert asked[-1].kind == "failed" or verdict == expected[asked[-1].kind]
        asked_before = len(asked)


@settings(max_examples=50, deadline=None)
@given(steps=st.lists(STEP, max_size=15))
def test_a_failing_source_is_never_asked_sooner_than_the_pauses_allow(
    lab: Lab, steps: list[tuple[str, str, float]]
) -> None:
    *_, (_, _, asked) = [("", "", list[Asked]()), *follow(lab, steps)]
    failed: dict[str, list[float]] = {}
    for one in asked:
        times = failed.setdefault(one.product, [])
        if times:
            pause = (0, 5, 10, 20)[min(len(times), 4) - 1]
            assert one.at - times[-1] >= pause
        if one.kind == "refused":
            failed.clear()
        elif one.kind != "failed":
            times.clear()
        else:
            times.append(one.at)


@settings(max_examples=100, deadline=None)
@given(
    said=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
    | st.fixed_dictionaries(
        {"limited": st.booleans()},
        optional={
            name: st.none() | st.integers() | st.floats() | st.text()
            for name in ("resource", "used", "limit", "resets_at")
        },
    )
)
def test_only_an_object_that_says_limited_false_lets_a_new_team_in(lab: Lab, said: Any) -> None:
    lab.world.fail(status=200, body=json.dumps(said))
    verdict = lab.run(lab.world.verdict(lab.new_team()))
    is_no = isinstance(said, dict) and said.get("limited") is False
    assert verdict in {"unavailable", "limited", "in"}
    assert verdict != "in" or is_no
    assert verdict != "limited" or (isinstance(said, dict) and said["limited"] is True)
