"""Vendors that fail: another attempt, another model, and a row of the ledger for each."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from flow.sandbox.faults import Fault
from tests.gateway.conftest import Caller
from tests.gateway.test_bytes import ANSWER, JSON, delta, event, post
from tests.gateway.wire import EVENTS, LAST, chunk, whole

pytestmark = pytest.mark.asyncio(loop_scope="module")
SETTINGS = {"gateway_silence_secs": 1.0}

HELLO: Any = [{"role": "user", "content": "Hello!"}]
PARTS = 70  # More than the buffers of all connections on the way take.


def error(status: str, said: str = "Later.", head: bytes = b"") -> bytes:
    return whole(
        json.dumps({"error": {"message": said}}).encode(),
        JSON.replace(b"200 OK", status.encode()) + head,
    )


def told(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Outcome, status and kind of error of each."""
    return [
        (
            row["outcome"],
            (row["failure"] or {}).get("http_status"),
            (row["failure"] or {}).get("type"),
        )
        for row in rows
    ]


@pytest.mark.parametrize(
    ("first", "failed"),
    [
        (error("500 Internal Server Error"), (500, "InternalServerError")),
        (error("503 Unavailable", head=b"retry-after: 0.1\r\n"), (503, "InternalServerError")),
        (error("529 Overloaded"), (529, "InternalServerError")),
        (None, (None, "RemoteProtocolError")),
        (EVENTS, (200, "RemoteProtocolError")),
    ],
)
async def test_what_passes_is_tried_again_before_the_client_has_seen_anything(
    caller: Caller, first: bytes | None, failed: tuple[Any, ...]
) -> None:
    caller.world.wire.answers = [[first, None], [whole(ANSWER)]]
    answer = await post(caller)
    assert (answer.status_code, answer.content) == (200, ANSWER)
    rows = await caller.rows(2)
    assert told(rows) == [("error", *failed), ("ok", None, None)]
    assert len({row["request_id"] for row in rows}) == 1
    assert answer.headers["x-flow-event-id"] == rows[1]["id"]


@pytest.mark.parametrize(
    "first",
    [
        error("429 Too Many Requests", head=b"retry-after: 20\r\n"),
        error("400 Bad Request"),
        error("404 Not Found"),
        error("500 Oh", head=b"x-should-retry: false\r\n"),
        error("503 Oh", head=b"retry-after: 90\r\n"),
    ],
)
async def test_what_does_not_pass_is_the_clients_at_once(caller: Caller, first: bytes) -> None:
    caller.world.wire.answers = [[first]]
    answer = await post(caller)
    assert answer.status_code == int(first[9:12])
    assert answer.json() == {"error": {"message": "Later."}}
    if b"retry-after" in first:
        assert answer.headers["retry-after"] in first.decode()
    (row,) = await caller.rows(1)
    assert row["failure"]["http_status"] == answer.status_code
    assert row["total_cost_usd"] == "0"
    told = (await caller.event(row)).properties
    assert (told["$ai_is_error"], told["$ai_http_status"]) == (True, answer.status_code)
    assert told["$ai_billable"] is True


async def test_an_error_that_does_not_end_is_passed_on_as_far_as_anybody_reads(
    caller: Caller,
) -> None:
    long = error("400 Bad Request", "x" * 2_000_000)
    caller.world.wire.always = [long]
    answer = await post(caller)
    assert answer.status_code == 400
    assert len(answer.content) == 256 * 1024


async def test_what_never_passes_is_passed_on_with_a_row_for_each_attempt(caller: Caller) -> None:
    caller.world.vendors.openai.faults.add(Fault(kind="status", status=503))
    with pytest.raises(openai.InternalServerError) as raised:
        await caller.openai.chat.completions.create(model="gpt-4.1", messages=HELLO)
    assert raised.value.status_code == 503
    assert await caller.conserved(2)


async def test_another_model_answers_in_place_of_one_that_cannot(caller: Caller) -> None:
    backed = caller.openai.with_options(base_url=f"{caller.world.url}/backed/v1")
    faults = caller.world.vendors.openai.faults
    faults.add(Fault(kind="status", status=429, times=1))
    faults.add(Fault(kind="status", status=500, skip=1, times=2))
    answer = await backed.chat.completions.create(model="gpt-4.1", messages=HELLO)
    assert answer.model == "gpt-4.1-nano-2025-04-14"
    rows = await caller.conserved(4)
    assert [(row["requested_model"], row["sent_model"]) for row in rows] == [
        ("gpt-4.1", None),
        *[("gpt-4.1", "gpt-4.1-mini")] * 2,
        ("gpt-4.1", "gpt-4.1-nano"),
    ]
    assert [row["outcome"] for row in rows] == ["error"] * 3 + ["ok"]


async def test_a_model_of_another_vendor_answers(caller: Caller) -> None:
    caller.world.wire.always = [error("429 Too Many Requests")]
    backed = caller.openai.with_options(base_url=f"{caller.world.url}/backed/v1")
    answer = await backed.chat.completions.create(model="groq/llama", messages=HELLO)
    assert answer.model == "gpt-4.1-mini-2025-04-14"
    refused, served = await caller.conserved(2)
    assert (refused["provider"], served["provider"]) == ("groq", "openai")
    assert (served["requested_model"], served["sent_model"]) == ("groq/llama", "gpt-4.1-mini")


async def test_a_model_without_a_price_is_no_help_under_a_budget(caller: Caller) -> None:
    await caller.budget("10")
    caller.world.wire.always = [whole(ANSWER)]
    caller.world.vendors.openai.faults.add(Fault(kind="status", status=429))
    body = {"model": "gpt-4.1", "messages": HELLO}
    answer = await caller.http.post("/odd/v1/chat/completions", json=body)
    assert answer.status_code == 429
    await caller.rows(1)
    await caller.budget(None)
    free = await caller.world.caller()
    answer = await free.http.post("/odd/v1/chat/completions", json=body)
    assert (answer.status_code, answer.content) == (200, ANSWER)


async def test_what_the_first_model_said_is_passed_on_where_none_answers(caller: Caller) -> None:
    caller.world.wire.always = [error("429 Too Many Requests", "The first said no.")]
    caller.world.vendors.openai.faults.add(Fault(kind="status", status=429))
    backed = caller.openai.with_options(base_url=f"{caller.world.url}/backed/v1")
    with pytest.raises(openai.RateLimitError, match="The first said no"):
        await backed.chat.completions.create(model="groq/llama", messages=HELLO)
    assert [row["provider"] for row in await caller.rows(3)] == ["groq", "openai", "openai"]


async def test_vectors_of_another_model_are_of_no_use(caller: Caller) -> None:
    backed = caller.openai.with_options(base_url=f"{caller.world.url}/backed/v1")
    caller.world.vendors.openai.faults.add(Fault(kind="status", status=429))
    with pytest.raises(openai.RateLimitError):
        await backed.embeddings.create(model="text-embedding-3-small", input="a")
    assert len(await caller.rows(1)) == 1


async def test_a_vendor_that_says_nothing(caller: Caller) -> None:
    caller.world.wire.always = [...]
    answer = await post(caller)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "upstream_timeout"
    assert answer.json()["error"]["type"] == "server_error"
    (row,) = await caller.rows(1)
    assert told([row]) == [("error", None, "ReadTimeout")]
    assert row["provenance"] == "estimated"
    assert caller.world.wire.requests[0].closed.is_set()


async def test_a_vendor_that_is_not_there(caller: Caller) -> None:
    caller.world.wire.always = [None]
    answer = await post(caller)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_unavailable"
    assert told(await caller.rows(2)) == [("error", None, "RemoteProtocolError")] * 2


@pytest.mark.parametrize("end", [[None], [...]], ids=["hangs up", "stalls"])
async def test_a_stream_that_breaks_off_is_not_ended_for_the_client(
    caller: Caller, end: list[Any]
) -> None:
    caller.world.wire.always = [EVENTS, chunk(delta("Some")), chunk(delta(" words")), *end]
    with pytest.raises(httpx.RemoteProtocolError):
        await post(caller)
    (row,) = await caller.rows(1)
    kind = "RemoteProtocolError" if end == [None] else "ReadTimeout"
    assert told([row]) == [("error", 200, kind)]
    assert row["provenance"] == "estimated"
    assert len(caller.world.wire.requests) == 1


async def test_a_client_that_reads_slowly_holds_up_the_vendor_and_loses_nothing(
    caller: Caller,
) -> None:
    part = delta("x" * 500_000)
    caller.world.wire.always = [EVENTS, *[chunk(part)] * PARTS, chunk(delta("", "stop")), LAST]
    body = {"model": "groq/m", "stream": True, "messages": HELLO}
    async with caller.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        await asyncio.sleep(2.5)  # longer than a vendor may be silent
        (request,) = caller.world.wire.requests
        assert request.sent < PARTS * len(part) * 0.7
        read = sum([len(data) async for data in answer.aiter_raw()])
    assert read == PARTS * len(part) + len(delta("", "stop"))
    assert (await caller.row())["outcome"] == "ok"


async def test_an_error_inside_an_answer_that_began_well(caller: Caller) -> None:
    broken = [delta("Some words"), event(error={"message": "overloaded"})]
    caller.world.wire.always = [EVENTS, *map(chunk, broken), LAST]
    answer = await post(caller)
    assert answer.content == b"".join(broken)
    (row,) = await caller.rows(1)
    assert told([row]) == [("error", None, "APIError")]
    assert row["provenance"] == "estimated"


async def test_an_error_inside_a_message(caller: Caller) -> None:
    caller.world.vendors.models["anthropic"].faults.add(Fault(kind="error_chunk", chunks=4))
    with pytest.raises(Exception, match=r"."):
        async with caller.anthropic.messages.stream(
            model="claude-haiku-4-5", max_tokens=99, messages=HELLO
        ) as stream:
            await stream.get_final_message()
    (row,) = await caller.conserved(1)
    assert row["outcome"] == "error"


@pytest.mark.parametrize("answer", [b"", b"{", b"[]", b"null", b'{"error": {"code": "x"}}'])
async def test_an_answer_that_is_none(caller: Caller, answer: bytes) -> None:
    caller.world.wire.always = [whole(answer)]
    got = await post(caller)
    assert (got.status_code, got.content) == (200, answer)
    (row,) = await caller.rows(1)
    assert (row["outcome"], row["provenance"]) == ("error", "estimated")
