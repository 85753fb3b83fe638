"""What goes over the wire to a billing service, and which of its answers are answers."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from flow.errors import ConfigurationError, QuotaUnavailable
from flow.vendors.quota_source import QuotaSource, QuotaState
from tests.vendors.quota_world import (
    KEY,
    PRODUCT,
    Lab,
    World,
    at,
    running_lab,
    running_world,
    says,
    status,
)

GOOD = b'{"limited": false}'


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running_world() as world:
        yield world


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab() as lab:
        yield lab


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


# fmt: off
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
}
# fmt: on

SILENCES = {
    "hangs": {"kind": "hang"},
    "stalls before its body": {"kind": "stall", "chunks": 0},
    "stalls after its body": {"kind": "stall", "chunks": 1},
}

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


@settings(max_examples=100)
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
