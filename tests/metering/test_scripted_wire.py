"""The tap on HTTP over a wire that a test scripts: each end an attempt can have is one event."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any
from uuid import UUID

import httpx2
import pytest

from flow.domain.pricing.pricer import Pricer
from flow.domain.usage.events import Kind, Outcome, Provenance, Quantities, UsageEvent
from flow.metering.evidence import Evidence, Opening, Output
from flow.metering.meter import Meter, Service
from flow.metering.taps import http as tap_module
from flow.metering.taps.answer import EVENT_ID_HEADER
from flow.metering.taps.http import MeteredTransport
from flow.metering.wires.gemini_generate import GeminiGenerate
from flow.metering.wires.openai_chat import OpenAIChat
from flow.metering.wires.reader import HttpAnswer, HttpRequest
from tests.events import an_owner
from tests.notebook import Notebook

OWNER = an_owner()
URL = "https://api.openai.com/v1/chat/completions"
SSE = {"content-type": "text/event-stream"}
USAGE = {"prompt_tokens": 30, "completion_tokens": 7, "total_tokens": 37}
FIRST = {"model": "gpt-4.1-nano", "choices": [{"delta": {"content": "Yes, it is so."}}]}
LAST = {"choices": [{"delta": {}, "finish_reason": "stop"}]}


def event(data: Mapping[str, Any] | str) -> bytes:
    said = data if isinstance(data, str) else json.dumps(data)
    return f"data: {said}\n\n".encode()


class Body(httpx2.AsyncByteStream):
    """The parts of an answer: bytes, errors that are raised, and events that are waited for."""

    def __init__(self, *parts: bytes | Exception | asyncio.Event) -> None:
        self._parts = parts
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            if isinstance(part, Exception):
                raise part
            if isinstance(part, asyncio.Event):
                await part.wait()
            else:
                yield part

    async def aclose(self) -> None:
        self.is_closed = True


class Wire(httpx2.AsyncBaseTransport):
    """Answers every request with the same, and keeps the last request."""

    def __init__(
        self,
        answer: Body | Exception,
        status: int = 200,
        headers: Mapping[str, str] = SSE,
    ) -> None:
        self._answer = answer
        self._status = status
        self._headers = headers
        self.sent: httpx2.Request | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.sent = request
        if isinstance(self._answer, Exception):
            raise self._answer
        return httpx2.Response(self._status, headers=dict(self._headers), stream=self._answer)


def cheaper(request: Mapping[str, Any], provider: str) -> Mapping[str, Any]:
    return {**request, "model": "gpt-4.1-nano"}


class Call:
    """A metered client of a scripted wire."""

    def __init__(self, wire: Wire, **options: Any) -> None:
        self.notebook = Notebook()
        meter = Meter(Service(Kind.LLM, "openai", "gpt-4.1"), OWNER, self.notebook)
        headers = options.pop("headers", None)
        reader = options.pop("reader", None) or OpenAIChat()
        self.tap = MeteredTransport(wire, meter, reader, **options)
        self._client = httpx2.AsyncClient(transport=self.tap, headers=headers)

    async def ask(self, *, chunks: int | None = None) -> list[bytes]:
        """What comes of one streamed request, read up to so many chunks."""
        body = {"model": "gpt-4.1", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
        got: list[bytes] = []
        async with self._client.stream("POST", URL, json=body) as answer:
            if chunks != 0:
                async for chunk in answer.aiter_raw():
                    got.append(chunk)
                    if len(got) == chunks:
                        break
        return got

    async def post(self, url: str, body: Mapping[str, Any]) -> None:
        """Send one request and read all of its answer."""
        await self._client.post(url, json=body)

    async def event(self) -> UsageEvent:
        """The only event, once everything has settled."""
        async with asyncio.timeout(5):
            await self.tap.finish()
        (event,) = self.notebook.events
        assert self.notebook.open == set()
        return event


WHOLE = (event(FIRST), event(LAST), event({"choices": [], "usage": USAGE}), event("[DONE]"))
BROKE_OFF = httpx2.RemoteProtocolError("the peer closed the connection")


@pytest.mark.parametrize(
    ("wire", "outcome"),
    [
        (lambda: Wire(Body(*WHOLE)), Outcome.OK),
        (lambda: Wire(Body(event(FIRST), BROKE_OFF)), Outcome.ERROR),
        (lambda: Wire(httpx2.ReadTimeout("no answer")), Outcome.ERROR),
        (lambda: Wire(Body(b"busy"), status=503), Outcome.ERROR),
    ],
    ids=["whole", "broken-off", "no-answer", "refused"],
)
async def test_a_cheaper_model_is_on_record_and_priced_as_the_one_that_was_sent(
    wire: Any, outcome: Outcome
) -> None:
    call = Call(wire(), shape=cheaper)
    try:
        await call.ask()
    except httpx2.TransportError:
        assert outcome is Outcome.ERROR
    event = await call.event()
    assert event.outcome is outcome
    assert (event.requested_model, event.sent_model) == ("gpt-4.1", "gpt-4.1-nano")
    assert event.model == "gpt-4.1-nano"
    if event.quantities:
        version = Pricer.read().price(event).price_version or ""
        assert "gpt-4.1-nano" in version


GENERATE = "https://generativelanguage.googleapis.com/v1beta/models/"


@pytest.mark.parametrize(
    ("method", "sent", "body"),
    [
        ("gemini-2.5-pro:generateContent", "gpt-4.1-nano:generateContent", {"contents": [1]}),
        ("gemini-2.5-pro:countTokens", "gemini-2.5-pro:countTokens", {"contents": []}),
    ],
)
async def test_a_model_that_the_path_names_is_replaced_there(
    method: str, sent: str, body: dict[str, Any]
) -> None:
    def changed(request: Mapping[str, Any], provider: str) -> Mapping[str, Any]:
        assert request["model"] == "gemini-2.5-pro"
        return {**cheaper(request, provider), "contents": [1]}

    wire = Wire(Body(b"{}"))
    call = Call(wire, shape=changed, reader=GeminiGenerate())
    await call.post(f"{GENERATE}{method}?alt=sse", {"contents": []})
    assert wire.sent is not None
    assert str(wire.sent.url) == f"{GENERATE}{sent}?alt=sse"
    assert json.loads(await wire.sent.aread()) == body
    for one in call.notebook.events:
        assert (one.requested_model, one.sent_model) == ("gemini-2.5-pro", "gpt-4.1-nano")
    assert len(call.notebook.events) == ("generate" in method)


async def test_a_model_that_was_not_replaced_is_the_one_that_was_asked_for() -> None:
    call = Call(Wire(Body(event({**FIRST, "model": "gpt-4.1"}), *WHOLE[1:])))
    await call.ask()
    event_ = await call.event()
    assert (event_.requested_model, event_.sent_model) == ("gpt-4.1", None)


async def test_the_model_that_was_meant_goes_before_the_one_in_the_request() -> None:
    call = Call(Wire(Body(*WHOLE)), asked_for="o3", shape=cheaper)
    await call.ask()
    event = await call.event()
    assert (event.requested_model, event.sent_model) == ("o3", "gpt-4.1-nano")


NEVER_LEFT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.UnsupportedProtocol,
    httpx2.LocalProtocolError,
)
MAY_HAVE_LEFT = (
    httpx2.ReadTimeout,
    httpx2.ReadError,
    httpx2.WriteTimeout,
    httpx2.WriteError,
    httpx2.CloseError,
    httpx2.RemoteProtocolError,
)


@pytest.mark.parametrize("error", NEVER_LEFT)
async def test_a_request_that_never_left_costs_nothing(error: type[Exception]) -> None:
    call = Call(Wire(error("no")))
    with pytest.raises(error):
        await call.ask()
    event = await call.event()
    assert (event.quantities, event.provenance) == (Quantities(), Provenance.MEASURED)
    assert event.failure is not None
    assert event.failure.type == error.__name__


@pytest.mark.parametrize("error", MAY_HAVE_LEFT)
async def test_a_request_that_may_have_left_costs_what_it_is_estimated_at(
    error: type[Exception],
) -> None:
    call = Call(Wire(error("no")))
    with pytest.raises(error):
        await call.ask()
    event = await call.event()
    assert event.quantities["input_tokens"] > 0
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.ERROR)


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_a_refusal_whose_body_breaks_off_is_one_event_that_costs_nothing(
    status: int,
) -> None:
    call = Call(Wire(Body(b'{"error": ', BROKE_OFF), status=status))
    with pytest.raises(httpx2.RemoteProtocolError):
        await call.ask()
    event = await call.event()
    assert (event.quantities, event.outcome) == (Quantities(), Outcome.ERROR)
    assert event.failure is not None
    assert event.failure.http_status == status


@pytest.mark.parametrize("drain", [False, True])
async def test_an_answer_that_never_ends_is_left_in_time_and_counted(
    drain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tap_module, "DRAIN_SECS", 0.05)
    body = Body(event(FIRST), asyncio.Event())
    call = Call(Wire(body), drain=drain)
    await call.ask(chunks=1)
    event_ = await call.event()
    assert (event_.outcome, event_.provenance) == (Outcome.INTERRUPTED, Provenance.ESTIMATED)
    assert event_.quantities["output_tokens"] > 0
    assert body.is_closed


async def test_an_answer_that_is_drained_has_the_vendor_s_own_numbers() -> None:
    free = asyncio.Event()
    body = Body(WHOLE[0], free, *WHOLE[1:])
    call = Call(Wire(body), drain=True)
    await call.ask(chunks=1)
    asyncio.get_running_loop().call_later(0.02, free.set)
    event_ = await call.event()
    assert event_.quantities == Quantities(input_tokens=30, output_tokens=7)
    assert (event_.outcome, event_.provenance) == (Outcome.INTERRUPTED, Provenance.REPORTED)


async def test_an_answer_is_passed_on_byte_for_byte_as_it_came() -> None:
    packed = gzip.compress(b"".join(WHOLE))
    parts = [packed[:5], packed[5:40], packed[40:]]
    wire = Wire(Body(*parts), headers={**SSE, "content-encoding": "gzip"})
    call = Call(wire)
    assert await call.ask() == parts
    assert (await call.event()).quantities == Quantities(input_tokens=30, output_tokens=7)
    assert wire.sent is not None
    assert wire.sent.headers["accept-encoding"] == "gzip, deflate"


class Clumsy:
    """A reader with a mistake in it."""

    def open(self, request: HttpRequest) -> Clumsy:
        return self

    opening = Opening(Quantities(input_tokens=5), model="gpt-4.1")

    def answered(self, answer: HttpAnswer) -> Iterator[Evidence]:
        yield Output("a word")
        raise KeyError("answered")

    def body(self, data: bytes) -> Iterator[Evidence]:
        yield Output("and one more")
        raise KeyError("body")

    def end(self) -> Iterator[Evidence]:
        yield from ()
        raise KeyError("end")


async def test_a_reader_that_fails_breaks_no_answer_and_the_work_is_estimated() -> None:
    call = Call(Wire(Body(*WHOLE)), reader=Clumsy())
    assert await call.ask() == list(WHOLE)
    event = await call.event()
    assert event.quantities["input_tokens"] == 5
    assert event.quantities["output_tokens"] > 0
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.ERROR)


async def test_a_body_that_was_changed_has_the_length_it_says() -> None:
    wire = Wire(Body(*WHOLE))
    await Call(wire, shape=cheaper).ask()
    assert wire.sent is not None
    sent = await wire.sent.aread()
    assert json.loads(sent)["model"] == "gpt-4.1-nano"
    assert wire.sent.headers["content-length"] == str(len(sent))


async def test_the_id_of_an_event_is_between_the_client_and_the_tap() -> None:
    wire = Wire(Body(*WHOLE))
    call = Call(wire, headers={EVENT_ID_HEADER: str(UUID(int=17))})
    await call.ask()
    assert (await call.event()).id == UUID(int=17)
    assert wire.sent is not None
    assert EVENT_ID_HEADER not in wire.sent.headers
    assert wire.sent.headers["host"] == "api.openai.com"
