"""What servers and clients do that no protocol foresees: counted once, and the call goes on."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import httpx2
import pytest

from flow.domain.products.product import Saving
from flow.domain.products.save_mode import saving_request
from flow.domain.usage.events import Outcome, Provenance, Quantities, UsageEvent
from flow.domain.usage.units import Kind
from flow.metering.meter import Meter, Service
from flow.metering.taps.answer import EVENT_ID_HEADER
from flow.metering.taps.http import MeteredTransport
from flow.metering.wires.openai_chat import OpenAIChat
from flow.metering.wires.reader import Exchange, HttpRequest
from tests.events import an_owner
from tests.metering.wires.reading import EVENT_STREAM, event_stream
from tests.notebook import Notebook

OWNER = an_owner()
REQUEST = {"model": "gpt-4.1", "messages": [{"role": "user", "content": "hi"}], "stream": True}
REPORT = {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}
BILLED = Quantities(input_tokens=10, output_tokens=5)


def chunk(text: str | None = None, finish: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}


REPLY = event_stream([chunk("Hello"), chunk(finish="stop"), REPORT, "[DONE]"])


class _Body(httpx2.AsyncByteStream):
    def __init__(self, parts: Sequence[bytes], pause_secs: float) -> None:
        self._parts = parts
        self._pause_secs = pause_secs
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part
            await asyncio.sleep(self._pause_secs)

    async def aclose(self) -> None:
        self.is_closed = True


class _Server(httpx2.AsyncBaseTransport):
    """Gives one answer after the other, and the last one for ever."""

    def __init__(self, *answers: tuple[int, Mapping[str, str], Sequence[bytes]]) -> None:
        self._answers = list(answers)
        self.requests: list[httpx2.Request] = []
        self.bodies: list[_Body] = []
        self.pause_secs = 0.0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        status, headers, parts = self._answers[min(len(self.requests), len(self._answers)) - 1]
        self.bodies.append(_Body(parts, self.pause_secs))
        return httpx2.Response(status, headers=dict(headers), stream=self.bodies[-1])


def replying(*parts: bytes, **headers: str) -> _Server:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return _Server((200, {"content-type": EVENT_STREAM, **named}, parts or [REPLY]))


class _Client:
    def __init__(self, server: _Server, **options: Any) -> None:
        self.notebook = Notebook()
        self.meter = Meter(Service(Kind.LLM, "openai", "gpt-4.1"), OWNER, self.notebook)
        wire = options.pop("wire", None) or OpenAIChat()
        self.http = httpx2.AsyncClient(
            transport=MeteredTransport(server, self.meter, wire, **options),
            base_url="http://vendor/v1",
            follow_redirects=True,
        )

    async def ask(self, **options: Any) -> httpx2.Response:
        return await self.http.post("/chat/completions", **({"json": REQUEST} | options))

    @property
    def event(self) -> UsageEvent:
        assert not self.notebook.open
        (event,) = self.notebook.events
        return event


# --- clients ------------------------------------------------------------------------------------


async def test_an_answer_that_is_closed_before_its_first_byte_is_counted_and_let_go() -> None:
    server = replying()
    server.pause_secs = 60
    client = _Client(server)
    async with client.http.stream("POST", "/chat/completions", json=REQUEST):
        pass
    assert client.event.outcome is Outcome.INTERRUPTED
    assert server.bodies[0].is_closed


async def test_who_closes_a_stream_after_its_last_event_interrupts_nothing() -> None:
    server = replying()
    server.pause_secs = 60
    client = _Client(server)
    async with client.http.stream("POST", "/chat/completions", json=REQUEST) as answer:
        async for _ in answer.aiter_raw():
            break
    assert (client.event.outcome, client.event.quantities) == (Outcome.OK, BILLED)
    assert server.bodies[0].is_closed


async def test_nor_where_the_vendor_reports_nothing() -> None:
    server = replying(event_stream([chunk("Hello"), chunk(finish="stop"), "[DONE]"]))
    server.pause_secs = 60
    client = _Client(server)
    async with client.http.stream("POST", "/chat/completions", json=REQUEST) as answer:
        async for _ in answer.aiter_raw():
            break
    assert (client.event.outcome, client.event.provenance) == (Outcome.OK, Provenance.ESTIMATED)


@pytest.mark.parametrize("events", [[chunk("Hello")], [chunk("Hello"), chunk(finish="stop")]])
async def test_who_closes_it_before_interrupts_it(events: list[Any]) -> None:
    server = replying(event_stream(events))
    server.pause_secs = 60
    client = _Client(server)
    async with client.http.stream("POST", "/chat/completions", json=REQUEST) as answer:
        async for _ in answer.aiter_raw():
            break
    assert client.event.outcome is Outcome.INTERRUPTED


@pytest.mark.parametrize("step", range(12))
async def test_a_task_that_is_cancelled_at_any_instant_leaves_one_event(step: int) -> None:
    server = replying(*(REPLY[at : at + 60] for at in range(0, len(REPLY), 60)))
    server.pause_secs = 0.001
    client = _Client(server)
    asking = asyncio.create_task(client.ask())
    for _ in range(step):
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert len(client.notebook.events) == len({event.id for event in client.notebook.begun})
    assert all(body.is_closed for body in server.bodies)


async def test_an_id_holds_for_one_attempt_and_nonsense_is_none() -> None:
    client = _Client(_Server((429, {}, [b"{}"]), (200, {"content-type": EVENT_STREAM}, [REPLY])))
    for name in [str(UUID(int=7)), str(UUID(int=7)), "nonsense", ""]:
        await client.ask(headers={EVENT_ID_HEADER: name})
    ids = [event.id for event in client.notebook.events]
    assert ids[0] == UUID(int=7)
    assert len(set(ids)) == 4


@pytest.mark.parametrize(
    "body",
    [
        b"no JSON",
        b"[1, 2]",
        b'{"model": "gpt-4.1"}',
        b'{"model": "gpt-4.1", "messages": 7, "max_tokens": "x"}',
        b'{"model": "gpt-4.1", "messages": [{"role": ["x"]}]}',
        b'{"model": "gpt-4.1", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "a", "model": "gpt-4.1", "messages": []}',
        b'{"model": "gpt-4.1", "messages": ' + b"[" * 900 + b"]" * 900 + b"}",
    ],
)
async def test_save_mode_lets_requests_pass_that_it_cannot_change(body: bytes) -> None:
    saving = Saving({"openai/gpt-4.1": "openai/gpt-4.1-mini"}, 50, "Be brief.", True)
    server = replying()
    client = _Client(
        server,
        shape=lambda request, provider: saving_request(
            request, provider=provider, saving=saving, cache_key="k"
        ),
    )
    await client.ask(json=None, content=body, headers={"content-type": "application/json"})
    assert client.event.quantities == BILLED
    (sent,) = server.requests
    assert sent.headers["content-length"] == str(len(sent.content))


async def test_a_request_whose_body_is_streamed_is_read_like_any_other() -> None:
    async def parts() -> AsyncIterator[bytes]:
        body = json.dumps(REQUEST).encode()
        yield body[:10]
        yield body[10:]

    client = _Client(replying(event_stream([chunk("Hello"), chunk(finish="stop")])))
    await client.ask(json=None, content=parts())
    assert client.event.quantities["input_tokens"] > 3


# --- servers ------------------------------------------------------------------------------------


async def test_a_redirect_costs_nothing_and_what_it_leads_to_counts() -> None:
    there = {"location": "http://elsewhere/v1/chat/completions"}
    client = _Client(_Server((307, there, [b""]), (200, {"content-type": EVENT_STREAM}, [REPLY])))
    await client.ask()
    sent_on, answered = client.notebook.events
    assert (sent_on.quantities, sent_on.provenance) == (Quantities(), Provenance.MEASURED)
    assert sent_on.failure is not None
    assert sent_on.failure.http_status == 307
    assert (answered.quantities, answered.outcome) == (BILLED, Outcome.OK)


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(REPLY)),
        ("deflate", zlib.compress(REPLY)),
        ("deflate", raw_deflate(REPLY)),
    ],
    ids=["gzip", "deflate", "deflate without a header"],
)
async def test_encoded_answers_are_read_in_parts_of_any_size(encoding: str, packed: bytes) -> None:
    parts = [packed[at : at + 7] for at in range(0, len(packed), 7)]
    client = _Client(replying(*parts, content_encoding=encoding))
    assert (await client.ask()).content == REPLY
    assert (client.event.quantities, client.event.outcome) == (BILLED, Outcome.OK)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("gzip", REPLY), ("gzip", gzip.compress(REPLY)[:-30]), ("br", b"\x0b\x02")],
)
async def test_what_cannot_be_decoded_reaches_the_client_and_is_estimated(
    encoding: str, body: bytes
) -> None:
    client = _Client(replying(body, content_encoding=encoding))
    async with client.http.stream("POST", "/chat/completions", json=REQUEST) as answer:
        assert b"".join([part async for part in answer.aiter_raw()]) == body
    assert client.event.provenance is Provenance.ESTIMATED
    assert client.event.quantities["input_tokens"] > 0


class _Clumsy:
    """A reader with a mistake in it."""

    def open(self, request: HttpRequest) -> Exchange:
        raise RecursionError


async def test_a_reader_s_mistake_breaks_no_call_and_is_on_record() -> None:
    client = _Client(replying(), wire=_Clumsy())
    assert (await client.ask()).content == REPLY
    assert client.event.provenance is Provenance.UNMETERED
