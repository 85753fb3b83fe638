"""Bytes both ways: what is changed, what is not, and what is read of it whatever its pieces."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from tests.gateway.conftest import WIRE_KEY, Caller
from tests.gateway.wire import EVENTS, JSON, LAST, OK, chunk, whole

pytestmark = pytest.mark.asyncio(loop_scope="module")

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
BODY = (
    b'{ "model" : "groq/llama-3.3-70b", "messages":[{"role":"user","content":"h\\u00e9"}],'
    b'"x":1e400}'
)
ANSWER = json.dumps(
    {
        "id": "a",
        "model": "llama-3.3-70b",
        "choices": [{"index": 0, "message": {"content": "Hé 東"}, "finish_reason": "stop"}],
        "usage": USAGE,
        "unknown": [1.0, 1e300],
    }
).encode()


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"model": "llama-3.3-70b", **fields}).encode() + b"\n\n"


def delta(text: str, finish: str | None = None) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}])


TEXT = "Several words — and 東京, and a 🎉 too."
STREAM = b"".join(
    [
        b": a comment\n\n",
        *(delta(word) for word in TEXT.split(" ")),
        delta("", "stop"),
        event(choices=[], usage=USAGE),
        b"data: [DONE]\n\n",
    ]
)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


async def post(caller: Caller, body: bytes = BODY, **headers: str) -> Any:
    path = "/v1/chat/completions?some=query&x=%2F"
    return await caller.http.post(
        path, content=body, headers={"content-type": "application/json", **headers}
    )


def used(row: dict[str, Any]) -> dict[str, int]:
    return {line["unit"]: int(line["quantity"]) for line in row["lines"]}


async def test_a_body_goes_on_as_it_came_but_for_the_model(caller: Caller) -> None:
    caller.world.wire.always = [whole(ANSWER)]
    answer = await post(caller)
    assert answer.content == ANSWER
    (sent,) = caller.world.wire.requests
    assert sent.body == BODY.replace(b"groq/llama-3.3-70b", b"llama-3.3-70b")
    assert sent.line == "POST /openai/v1/chat/completions?some=query&x=%2F HTTP/1.1"
    assert used(await caller.row()) == {"input_tokens": 11, "output_tokens": 7}


async def test_a_stream_is_asked_for_its_usage_and_nothing_else(caller: Caller) -> None:
    caller.world.wire.always = [EVENTS, chunk(STREAM), LAST]
    body = b'{"stream":true,"model":"groq/m","stream_options":{"new":1},"messages":[]}'
    await post(caller, body)
    assert caller.world.wire.requests[0].body == (
        b'{"stream":true,"model":"m","stream_options":{"new":1,"include_usage":true},"messages":[]}'
    )


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 61, 10_000])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_a_stream_comes_back_byte_for_byte_however_it_is_cut(
    caller: Caller, size: int, encoding: str
) -> None:
    body = gzip.compress(STREAM) if encoding == "gzip" else STREAM
    head = EVENTS.replace(b"\r\n\r\n", b"\r\ncontent-encoding: " + encoding.encode() + b"\r\n\r\n")
    caller.world.wire.always = [head, *map(chunk, pieces(body, size)), LAST]
    request = caller.http.build_request(
        "POST", "/v1/chat/completions", content=BODY, headers={"accept-encoding": "gzip, br"}
    )
    answer = await caller.http.send(request, stream=True)
    raw = b"".join([part async for part in answer.aiter_raw()])
    assert raw == body
    assert caller.world.wire.requests[0].headers["accept-encoding"] == "gzip"
    row = await caller.row()
    assert used(row) == {"input_tokens": 11, "output_tokens": 7}
    assert (row["outcome"], row["provenance"]) == ("ok", "reported")


@pytest.mark.parametrize(
    ("accepted", "asked"),
    [
        ("br, zstd", "identity"),
        ("gzip;q=0, *;q=0", "identity"),
        ("deflate, GZIP;q=0.5", "gzip"),
        ("*", "gzip"),
        ("identity", "identity"),
    ],
)
async def test_a_vendor_is_asked_for_what_client_and_reader_can_decode(
    caller: Caller, accepted: str, asked: str
) -> None:
    caller.world.wire.always = [whole(ANSWER)]
    await post(caller, **{"accept-encoding": accepted})
    assert caller.world.wire.requests[0].headers["accept-encoding"] == asked


@pytest.mark.parametrize("encoding", ["br", "nonsense"])
async def test_what_cannot_be_decoded_is_passed_on_and_estimated(
    caller: Caller, encoding: str
) -> None:
    head = JSON + b"content-encoding: " + encoding.encode() + b"\r\n"
    caller.world.wire.always = [whole(b"\x8b\x02\x80abc\x03", head)]
    request = caller.http.build_request("POST", "/v1/chat/completions", content=BODY)
    answer = await caller.http.send(request, stream=True)
    assert b"".join([part async for part in answer.aiter_raw()]) == b"\x8b\x02\x80abc\x03"
    row = await caller.row()
    assert row["provenance"] == "estimated"
    assert row["outcome"] == "error"


async def test_broken_gzip_breaks_nothing(caller: Caller) -> None:
    body = zlib.compress(ANSWER)[:-9] + b"garbage"
    caller.world.wire.always = [whole(body, JSON + b"content-encoding: deflate\r\n")]
    request = caller.http.build_request("POST", "/v1/chat/completions", content=BODY)
    answer = await caller.http.send(request, stream=True)
    assert b"".join([part async for part in answer.aiter_raw()]) == body
    assert (await caller.row())["provenance"] == "estimated"


async def test_what_identifies_either_side_stays_on_it(caller: Caller) -> None:
    head = JSON + b"".join(
        [
            b"set-cookie: a=b\r\nalt-svc: h3\r\nopenai-organization: org-1\r\n",
            b"x-request-id: theirs\r\nx-flow-event-id: forged\r\nx-posthog-budget: ok\r\n",
            b"x-echo: Bearer " + WIRE_KEY.encode() + b"\r\nx-ratelimit-remaining-tokens: 9\r\n",
            b"access-control-allow-origin: *\r\nconnection: keep-alive\r\n",
        ]
    )
    caller.world.wire.always = [whole(ANSWER, head)]
    event_id = "7b1f3c52-1f0a-4a53-9a0e-3a9a4f1d2b11"
    answer = await post(
        caller,
        **{
            "cookie": "session=1",
            "authorization": f"Bearer {caller.secret}",
            "api-key": "another",
            "x-forwarded-for": "10.0.0.1",
            "openai-organization": "org-callers",
            "openai-project": "proj-callers",
            "x-flow-event-id": event_id,
            "x-stainless-lang": "python",
            "openai-beta": "assistants=v2",
            "user-agent": "my-app/1.0",
            "host": "evil.example",
        },
    )
    (sent,) = caller.world.wire.requests
    assert sent.headers["authorization"] == f"Bearer {WIRE_KEY}"
    assert caller.secret not in str(sent)
    assert sorted(sent.headers) == [
        "accept", "accept-encoding", "authorization", "content-length", "content-type", "host",
        "openai-beta", "user-agent", "x-stainless-lang",
    ]  # fmt: skip
    assert sent.headers["host"].startswith("127.0.0.1")
    assert WIRE_KEY not in str(answer.headers)
    row = await caller.row()
    assert answer.headers.get_list("x-flow-event-id") == [row["id"]]
    assert UUID(row["id"]) != UUID(event_id)
    assert answer.headers["x-request-id"] == row["request_id"]
    assert answer.headers["x-upstream-request-id"] == "theirs"
    assert answer.headers["x-ratelimit-remaining-tokens"] == "9"
    for name in ("set-cookie", "alt-svc", "openai-organization", "access-control-allow-origin"):
        assert name not in answer.headers
    assert "x-posthog-budget" not in answer.headers


async def test_a_key_in_an_answer_that_is_an_error_is_not_passed_on(caller: Caller) -> None:
    said = json.dumps({"error": {"message": f"Bad key {WIRE_KEY}"}}).encode()
    for status in (b"401 Unauthorized", b"400 Bad Request"):
        caller.world.wire.always = [whole(said, JSON.replace(b"200 OK", status))]
        answer = await post(caller)
        assert answer.status_code == 502
        assert WIRE_KEY not in answer.text
        assert answer.json()["error"]["code"] == "upstream_unavailable"
    rows = await caller.rows(2)
    assert [row["failure"]["http_status"] for row in rows] == [401, 400]
    assert {row["total_cost_usd"] for row in rows} == {"0"}


async def test_a_large_body_and_a_huge_tool_call(caller: Caller) -> None:
    arguments = json.dumps({"text": "word " * 60_000})
    call = {"index": 0, "id": "c", "function": {"name": "write", "arguments": arguments}}
    stream = event(
        choices=[{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]
    )
    caller.world.wire.always = [EVENTS, *map(chunk, pieces(stream, 9_000)), LAST]
    prompt = "some words of a long prompt " * 20_000
    body = json.dumps(
        {"model": "groq/m", "stream": True, "messages": [{"role": "user", "content": prompt}]}
    ).encode()
    answer = await post(caller, body)
    assert answer.content == stream
    assert json.loads(caller.world.wire.requests[0].body)["messages"][0]["content"] == prompt
    row = await caller.row()
    assert row["provenance"] == "estimated"
    assert used(row)["input_tokens"] == pytest.approx(120_000, rel=0.05)
    assert used(row)["output_tokens"] == pytest.approx(60_000, rel=0.05)


async def test_an_answer_without_a_length_ends_with_its_connection(caller: Caller) -> None:
    caller.world.wire.always = [OK + b"content-type: application/json\r\n\r\n", ANSWER, None]
    assert (await post(caller)).content == ANSWER
    assert (await caller.row())["outcome"] == "ok"
