"""Every fault as OpenAI's SDK meets it, and what the vendor bills for it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from flow.sandbox.faults import Fault
from flow.sandbox.openai.app import OpenAISandbox
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.replies import SMALL_TALK
from flow.sandbox.server import Served
from tests.sandbox.conftest import Server

CHAT = "/v1/chat/completions"
ASK: Any = {"model": "gpt-4.1", "messages": [{"role": "user", "content": "hello"}]}
WITH_USAGE: Any = {**ASK, "stream": True, "stream_options": {"include_usage": True}}


async def read(
    client: openai.AsyncOpenAI, seen: list[ChatCompletionChunk] | None = None
) -> list[ChatCompletionChunk]:
    """Every chunk of a stream; those before an error are left in ``seen``."""
    seen = [] if seen is None else seen
    async for chunk in await client.chat.completions.create(**WITH_USAGE):
        seen.append(chunk)
    return seen


def said(chunks: list[ChatCompletionChunk]) -> list[str]:
    """The tokens of the reply among the chunks."""
    texts = [c.choices[0].delta.content for c in chunks if c.choices]
    return [text for text in texts if text]


# --- instead of an answer -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
async def test_a_status_is_the_sdk_s_error_and_bills_nothing(
    server: Server, vendor: OpenAISandbox, status: int, error: type[openai.APIStatusError]
) -> None:
    client = await server.openai(vendor)
    vendor.faults.add(Fault(kind="status", status=status, headers={"retry-after": "7"}))
    with pytest.raises(error) as refused:
        await client.chat.completions.create(**ASK)
    assert refused.value.response.headers["retry-after"] == "7"
    assert refused.value.request_id == vendor.requests[0].request_id
    assert isinstance(refused.value.body, dict)
    assert set(refused.value.body) == {"message", "type", "param", "code"}
    assert (vendor.requests[0].status, vendor.requests[0].faults) == (status, ["status"])
    assert vendor.bill.lines == []


@pytest.mark.parametrize("body", ["<html>bad gateway</html>", {"detail": "nope"}], ids=str)
async def test_a_status_may_have_any_body(server: Server, vendor: OpenAISandbox, body: Any) -> None:
    http = await server.http(vendor)
    vendor.faults.add(Fault(kind="status", status=502, body=body))
    answer = await http.post(CHAT, json=ASK)
    assert (answer.text if isinstance(body, str) else answer.json()) == body


async def test_a_dropped_connection_has_no_answer(server: Server, vendor: OpenAISandbox) -> None:
    client = await server.openai(vendor)
    vendor.faults.add(Fault(kind="drop"))
    with pytest.raises(openai.APIConnectionError):
        await client.chat.completions.create(**ASK)
    assert vendor.requests[0].status is None
    assert vendor.bill.lines == []


async def test_a_hanging_request_is_never_answered(server: Server, vendor: OpenAISandbox) -> None:
    client = await server.openai(vendor)
    vendor.faults.add(Fault(kind="hang"))
    with pytest.raises(openai.APITimeoutError):
        await client.with_options(timeout=0.1).chat.completions.create(**ASK)
    assert vendor.requests[0].status is None
    assert vendor.bill.lines == []


async def test_malformed_json_is_not_an_answer(server: Server, vendor: OpenAISandbox) -> None:
    http = await server.http(vendor)
    vendor.faults.add(Fault(kind="malformed"))
    answer = await http.post(CHAT, json=ASK)
    assert answer.status_code == 200
    with pytest.raises(ValueError, match="Unterminated"):
        answer.json()


async def test_a_delay_lets_the_answer_come_in_the_end(
    server: Server, vendor: OpenAISandbox
) -> None:
    client = await server.openai(vendor)
    vendor.faults.add(Fault(kind="delay", delay_secs=0.3, times=1))
    with pytest.raises(openai.APITimeoutError):
        await client.with_options(timeout=0.05).chat.completions.create(**ASK)
    vendor.faults.add(Fault(kind="delay", delay_secs=0.01))
    reply = await client.chat.completions.create(**ASK)
    assert reply.choices[0].message.content == SMALL_TALK[0]


async def test_a_wrong_content_type_labels_the_right_body(
    server: Server, vendor: OpenAISandbox
) -> None:
    http = await server.http(vendor)
    vendor.faults.add(Fault(kind="content_type"))
    answer = await http.post(CHAT, json=ASK)
    assert answer.headers.get_list("content-type") == ["text/html"]
    assert answer.json()["object"] == "chat.completion"


# --- in the middle of an answer -------------------------------------------------------------


@pytest.mark.parametrize("chunks", [1, 2, 12])
async def test_a_cut_stream_breaks_off_and_what_was_sent_is_billed(
    server: Server, vendor: OpenAISandbox, chunks: int
) -> None:
    client = await server.openai(vendor)
    vendor.faults.add(Fault(kind="cut", chunks=chunks))
    seen: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APIConnectionError):
        await read(client, seen)
    [line] = await vendor.bill.settled()
    assert len(seen) == chunks
    assert line.outcome == "disconnected"
    assert line.amounts.prompt_tokens == 8
    # The first chunk only says whose turn it is.
    assert line.amounts.completion_tokens == len(said(seen)) == chunks - 1


async def test_work_whose_answer_is_lost_is_billed(server: Server, vendor: OpenAISandbox) -> None:
    client = await server.openai(vendor)
    vendor.faults.add(Fault(kind="cut", chunks=0))
    with pytest.raises(openai.APIConnectionError):
        await client.chat.completions.create(**ASK)
    [line] = vendor.bill.lines
    assert line.outcome == "complete"
    assert line.amounts.completion_tokens > 0


@pytest.mark.parametrize("tokens", [0, 1, 9])
async def test_a_client_that_leaves_is_billed_its_prompt_and_the_tokens_sent(
    server: Server, vendor: OpenAISandbox, tokens: int
) -> None:
    client = await server.openai(vendor)
    vendor.faults.add(Fault(kind="stall", chunks=tokens + 1))
    seen: list[ChatCompletionChunk] = []
    stream = await client.chat.completions.create(**WITH_USAGE)
    async for chunk in stream:
        seen.append(chunk)
        if len(seen) == tokens + 1:
            break
    assert vendor.bill.open == 1
    await stream.close()
    [line] = await vendor.bill.settled()
    assert (line.outcome, line.amounts.prompt_tokens) == ("disconnected", 8)
    assert line.amounts.completion_tokens == len(said(seen)) == tokens


async def test_a_client_that_leaves_a_running_stream_is_billed_for_a_part_of_it(
    server: Server,
) -> None:
    vendor = OpenAISandbox(["word " * 4000], pace=Pace(token_secs=0.002))
    client = await server.openai(vendor)
    stream = await client.chat.completions.create(**WITH_USAGE)
    heard = 0
    async for chunk in stream:
        heard += len(said([chunk]))
        if heard == 5:
            break
    await stream.close()
    [line] = await vendor.bill.settled()
    assert line.outcome == "disconnected"
    assert 5 <= line.amounts.completion_tokens < 4000


async def test_speech_cut_off_is_billed_by_all_its_characters(
    server: Server, vendor: OpenAISandbox
) -> None:
    client = await server.openai(vendor)
    vendor.faults.add(Fault(kind="cut", chunks=1, route="/v1/audio/*"))
    wanted = client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input="x" * 1500, response_format="pcm"
    )
    # The SDK does not wrap what breaks while a caller reads the body.
    with pytest.raises(httpx2.RemoteProtocolError):
        async with wanted as response:
            [part async for part in response.iter_bytes()]
    [line] = await vendor.bill.settled()
    assert (line.outcome, line.amounts.characters) == ("disconnected", 1500)


async def test_an_error_object_ends_the_stream(server: Server, vendor: OpenAISandbox) -> None:
    client = await server.openai(vendor)
    vendor.faults.add(Fault(kind="error_chunk", chunks=4))
    seen: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APIError, match="had an error"):
        await read(client, seen)
    [line] = await vendor.bill.settled()
    assert len(seen) == 4
    assert line.outcome == "failed"
    assert len(said(seen)) <= line.amounts.completion_tokens <= len(said(seen)) + 1


async def test_a_malformed_chunk_is_in_the_middle_of_a_whole_stream(
    server: Server, vendor: OpenAISandbox
) -> None:
    client = await server.openai(vendor)
    vendor.faults.add(Fault(kind="malformed_chunk", chunks=4))
    seen: list[ChatCompletionChunk] = []
    with pytest.raises(ValueError, match="Unterminated"):
        await read(client, seen)
    assert len(seen) == 4
    http = await server.http(vendor)
    whole = (await http.post(CHAT, json=WITH_USAGE)).text
    assert '\n\ndata: {"id": "\n\n' in whole
    assert whole.endswith("data: [DONE]\n\n")


# --- what is said, and about usage ----------------------------------------------------------


async def test_usage_can_be_missing_while_the_work_is_billed(
    server: Server, vendor: OpenAISandbox
) -> None:
    client = await server.openai(vendor)
    vendor.faults.add(Fault(kind="no_usage"))
    chunks = await read(client)
    assert [chunk for chunk in chunks if chunk.usage] == []
    assert (await client.chat.completions.create(**ASK)).usage is None
    assert [line.amounts.completion_tokens for line in vendor.bill.lines] == [len(said(chunks))] * 2


async def test_usage_can_be_cumulative_on_every_chunk(
    server: Server, vendor: OpenAISandbox
) -> None:
    client = await server.openai(vendor)
    vendor.faults.add(Fault(kind="cumulative_usage"))
    chunks = await read(client)
    so_far = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]
    total = vendor.bill.lines[0].amounts.completion_tokens
    assert so_far == [*range(total + 1), total]


async def test_usage_can_come_without_its_details(server: Server, vendor: OpenAISandbox) -> None:
    client = await server.openai(vendor)
    vendor.faults.add(Fault(kind="null_usage_details"))
    usage = (await read(client))[-1].usage
    assert usage is not None
    assert usage.prompt_tokens == 8
    assert (usage.prompt_tokens_details, usage.completion_tokens_details) == (None, None)


async def test_replies_can_share_an_id(server: Server, vendor: OpenAISandbox) -> None:
    client = await server.openai(vendor)
    vendor.faults.add(Fault(kind="same_id"))
    ids = [(await client.chat.completions.create(**ASK)).id for _ in range(2)]
    assert ids[0] == ids[1]
    requests = {line.request_id for line in vendor.bill.lines}
    assert len(requests) == 2


async def test_choices_can_be_empty(server: Server, vendor: OpenAISandbox) -> None:
    client = await server.openai(vendor)
    vendor.faults.add(Fault(kind="empty_choices"))
    chunks = await read(client)
    assert sum(not chunk.choices for chunk in chunks) > len(chunks) / 2
    assert "".join(said(chunks)) == SMALL_TALK[0]
    assert (await client.chat.completions.create(**ASK)).choices == []


async def test_a_reply_can_have_no_tokens(server: Server, vendor: OpenAISandbox) -> None:
    client = await server.openai(vendor)
    vendor.faults.add(Fault(kind="empty_reply"))
    assert said(await read(client)) == []
    reply = await client.chat.completions.create(**ASK)
    assert reply.choices[0].message.content == ""
    assert [line.amounts.completion_tokens for line in vendor.bill.lines] == [0, 0]


async def test_tokens_can_be_slow(server: Server, vendor: OpenAISandbox) -> None:
    client = await server.openai(vendor)
    vendor.faults.add(Fault(kind="slow_tokens", delay_secs=30))
    seen: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APITimeoutError):
        await read(client.with_options(timeout=0.2), seen)
    assert said(seen) == []


# --- which requests are hit -----------------------------------------------------------------


async def statuses(http: httpx.AsyncClient, requests: int) -> list[int]:
    return [(await http.post(CHAT, json=ASK)).status_code for _ in range(requests)]


async def test_a_fault_spares_the_first_and_ends_after_its_times(
    server: Server, vendor: OpenAISandbox
) -> None:
    vendor.faults.add(Fault(kind="status", status=503, skip=1, times=2))
    assert await statuses(await server.http(vendor), 5) == [200, 503, 503, 200, 200]


@pytest.mark.parametrize(
    ("route", "hit"),
    [
        ("*", True),
        ("/v1/chat/*", True),
        ("POST /v1/*", True),
        ("GET /v1/*", False),
        ("/v1/audio/*", False),
    ],
)
async def test_a_fault_keeps_to_its_route(
    server: Server, vendor: OpenAISandbox, route: str, hit: bool
) -> None:
    vendor.faults.add(Fault(kind="status", route=route))
    assert await statuses(await server.http(vendor), 1) == [500 if hit else 200]


async def test_faults_are_switched_over_http(server: Server, vendor: OpenAISandbox) -> None:
    http = await server.http(vendor)
    faults = [{"kind": "status", "status": 429, "headers": {"Retry-After": "3"}, "times": 1}]
    armed = await http.post("/_sandbox/faults", json=faults)
    assert [one["seen"] for one in armed.json()] == [0]
    assert await statuses(http, 2) == [429, 200]
    assert (await http.get("/_sandbox/faults")).json()[0]["seen"] == 2
    await http.post("/_sandbox/faults", json=[{"kind": "drop"}])
    assert (await http.delete("/_sandbox/faults")).json() == []
    assert await statuses(http, 1) == [200]
    shown = (await http.get("/_sandbox/requests")).json()
    assert [one["status"] for one in shown] == [429, 200, 200]


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "status"}, [{"kind": "flood"}], [{"kind": "status", "staus": 1}], "x", [{}]],
    ids=str,
)
async def test_a_fault_that_does_not_exist_is_refused_and_not_armed(
    server: Server, vendor: OpenAISandbox, wrong: Any
) -> None:
    http = await server.http(vendor)
    assert (await http.post("/_sandbox/faults", json=wrong)).status_code == 400
    assert (await http.get("/_sandbox/faults")).json() == []


# --- the end --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="hang"),
        Fault(kind="delay", delay_secs=600),
        Fault(kind="stall", chunks=3),
        Fault(kind="slow_tokens", delay_secs=600),
    ],
    ids=lambda fault: fault.kind,
)
async def test_a_server_stops_with_requests_still_open(
    vendor: OpenAISandbox, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    vendor.faults.add(fault)
    async with httpx.AsyncClient(headers={"authorization": "Bearer k"}, timeout=None) as http:
        async with asyncio.timeout(10), Served(vendor) as url:
            asking = asyncio.create_task(http.post(f"{url}{CHAT}", json=WITH_USAGE))
            while not vendor.requests:
                await asyncio.sleep(0.01)
        with pytest.raises(httpx.HTTPError):
            await asking
    assert vendor.bill.open == 0
    assert caplog.records == []


async def test_a_port_can_be_chosen_and_is_free_again_afterwards(vendor: OpenAISandbox) -> None:
    async with Served(vendor) as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            await Served(vendor, port=port).__aenter__()
    async with Served(vendor, port=port) as again:
        assert again == url
