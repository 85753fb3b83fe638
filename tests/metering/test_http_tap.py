"""Every attempt is metered, over the SDK's own retries and real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import UUID

import openai
import pytest
from pydantic import SecretStr

from flow.domain.usage.events import Outcome, Provenance, Quantities
from flow.domain.usage.units import Kind
from flow.metering.meter import Meter, Service
from flow.metering.taps.answer import EVENT_ID_HEADER, error_name
from flow.metering.taps.http import MeteredTransport
from flow.metering.wires.openai_chat import OpenAIChat
from flow.sandbox.faults import Fault
from flow.sandbox.openai.app import OpenAISandbox
from flow.sandbox.server import Served
from flow.vendors.model_endpoint import Endpoint
from flow.vendors.openai_client import (
    failure_of,
    may_pass,
    openai_client,
    openai_endpoint,
    retry_after_secs,
)
from tests.events import an_owner
from tests.notebook import Notebook

OWNER = an_owner()
AT_ONCE = {"retry-after-ms": "1"}


@dataclass
class Vendor:
    app: OpenAISandbox
    endpoint: Endpoint
    notebook: Notebook = field(default_factory=Notebook)

    @property
    def failed(self) -> list[tuple[int | None, str]]:
        """Status and kind of error of each attempt that failed."""
        failures = [event.failure for event in self.notebook.events if event.failure]
        return [(failure.http_status, failure.type) for failure in failures]

    def client(
        self, max_retries: int = 2, *, endpoint: Endpoint | None = None
    ) -> openai.AsyncOpenAI:
        endpoint = endpoint or self.endpoint
        meter = Meter(Service(Kind.LLM, "openai", "gpt-4.1-mini"), OWNER, self.notebook)
        tap = MeteredTransport(endpoint.transport(OWNER), meter, OpenAIChat())
        return openai_client(endpoint, tap, max_retries=max_retries)


@pytest.fixture
async def vendor() -> AsyncIterator[Vendor]:
    app = OpenAISandbox()
    async with Served(app) as url:
        endpoint = openai_endpoint(SecretStr("sk-test"), f"{url}/v1", timeout_secs=1.0)
        yield Vendor(app, endpoint)
        await endpoint.close()


async def ask(client: openai.AsyncOpenAI, **options: object) -> object:
    return await client.chat.completions.create(
        model="gpt-4.1-mini", messages=[{"role": "user", "content": "hi"}], **options
    )


def status(code: int, times: int) -> Fault:
    return Fault(kind="status", status=code, times=times, headers=AT_ONCE)


async def test_a_success_is_one_event(vendor):
    await ask(vendor.client())
    assert vendor.failed == []
    assert [event.outcome for event in vendor.notebook.events] == [Outcome.OK]


@pytest.mark.parametrize(
    ("faults", "failed"),
    [
        ([status(429, 1)], [(429, "RateLimitError")]),
        ([status(500, 2)], [(500, "InternalServerError")] * 2),
        (
            [status(503, 1), Fault(kind="status", status=429, skip=1, times=1, headers=AT_ONCE)],
            [(503, "InternalServerError"), (429, "RateLimitError")],
        ),
        ([Fault(kind="hang", times=1)], [(None, "ReadTimeout")]),
        ([Fault(kind="drop", times=1)], [(None, "RemoteProtocolError")]),
        ([Fault(kind="cut", times=1)], [(None, "RemoteProtocolError")]),
        ([Fault(kind="cut", chunks=1, times=1)], [(200, "RemoteProtocolError")]),
        ([Fault(kind="stall", chunks=1, times=1)], [(200, "ReadTimeout")]),
    ],
    ids=["429", "500x2", "503-429", "timeout", "drop", "cut", "cut-in-body", "stall-in-body"],
)
async def test_what_the_sdk_repeats_in_silence_is_reported(vendor, faults, failed):
    vendor.app.faults.add(*faults)
    answer = await ask(vendor.client())
    assert answer.choices[0].message.content
    assert vendor.failed == failed
    assert [event.outcome for event in vendor.notebook.events][-1] is Outcome.OK
    assert vendor.notebook.open == set()


async def test_the_last_failed_attempt_is_reported_too(vendor):
    vendor.app.faults.add(Fault(kind="status", status=500, headers=AT_ONCE))
    with pytest.raises(openai.InternalServerError):
        await ask(vendor.client(max_retries=1))
    assert vendor.failed == [(500, "InternalServerError")] * 2


async def test_a_request_that_is_not_repeated_is_reported_once(vendor):
    vendor.app.faults.add(Fault(kind="status", status=401))
    with pytest.raises(openai.AuthenticationError):
        await ask(vendor.client())
    assert vendor.failed == [(401, "AuthenticationError")]


async def test_nobody_listening_at_all(vendor):
    nowhere = vendor.endpoint.elsewhere(SecretStr("sk-test"), "http://127.0.0.1:9/v1")
    with pytest.raises(openai.APIConnectionError):
        await ask(vendor.client(max_retries=0, endpoint=nowhere))
    assert vendor.failed == [(None, "ConnectError")]
    (event,) = vendor.notebook.events
    assert (event.provenance, event.quantities) == (Provenance.MEASURED, Quantities())


async def test_a_stream_that_breaks_is_one_failure(vendor):
    vendor.app.faults.add(Fault(kind="cut", chunks=3))
    stream = await ask(vendor.client(), stream=True)
    with pytest.raises(Exception, match=r"."):
        async for _ in stream:
            pass
    assert vendor.failed == [(200, "RemoteProtocolError")]


async def test_a_refused_stream_is_reported(vendor):
    vendor.app.faults.add(status(429, 1))
    stream = await ask(vendor.client(), stream=True)
    assert [chunk async for chunk in stream]
    assert vendor.failed == [(429, "RateLimitError")]


async def test_a_cancelled_request_is_interrupted_and_no_failed_attempt(vendor):
    vendor.app.faults.add(Fault(kind="hang"))
    asking = asyncio.create_task(ask(vendor.client(max_retries=0)))
    await asyncio.wait({asking}, timeout=0.2)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert vendor.failed == []


async def test_an_event_has_the_id_that_the_request_names_and_the_vendor_does_not_see_it(vendor):
    event_id = UUID(int=17)
    await ask(vendor.client(), extra_headers={EVENT_ID_HEADER: str(event_id)})
    assert [event.id for event in vendor.notebook.events] == [event_id]
    assert EVENT_ID_HEADER not in vendor.app.requests[0].headers


async def test_a_post_that_no_reader_knows_is_on_record_as_unmetered(vendor):
    with pytest.raises(openai.NotFoundError):
        await vendor.client().moderations.create(input="hi")
    (event,) = vendor.notebook.events
    assert (event.provenance, event.cost) == (Provenance.UNMETERED, None)


async def test_a_get_costs_nothing_and_is_no_event(vendor):
    assert (await vendor.client().models.list()).data
    assert vendor.notebook.events == []


async def test_a_request_after_closing_fails_like_any_connection(vendor):
    await vendor.endpoint.close()
    with pytest.raises(openai.APIConnectionError):
        await ask(vendor.client(max_retries=0))
    assert vendor.failed == [(None, "ConnectError")]


@pytest.mark.parametrize("code", [400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 529])
async def test_errors_are_named_as_the_sdk_names_them(vendor, code):
    vendor.app.faults.add(Fault(kind="status", status=code))
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(vendor.client(max_retries=0))
    assert error_name(code) == type(caught.value).__name__ == failure_of(caught.value).type


@pytest.mark.parametrize(
    ("fault", "passing"),
    [
        (Fault(kind="status", status=429, headers={"retry-after": "7"}), True),
        (Fault(kind="status", status=503, headers={"retry-after": "soon"}), True),
        (
            Fault(
                kind="status",
                status=429,
                body={"error": {"message": "no money", "code": "insufficient_quota"}},
            ),
            False,
        ),
        (Fault(kind="status", status=400), False),
        (Fault(kind="drop"), True),
        (Fault(kind="hang"), True),
    ],
)
async def test_which_errors_may_pass(vendor, fault, passing):
    vendor.app.faults.add(fault)
    with pytest.raises(openai.APIError) as caught:
        await ask(vendor.client(max_retries=0))
    assert may_pass(caught.value) is passing
    asked = {"7": 7.0}.get(fault.headers.get("retry-after", ""))
    assert retry_after_secs(caught.value) == asked


async def test_a_failure_quotes_nothing_that_the_vendor_said(vendor):
    body = {"error": {"message": "Your prompt 'my secret' is bad", "code": "bad secret code"}}
    vendor.app.faults.add(Fault(kind="status", status=400, body=body))
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(vendor.client())
    failure = failure_of(caught.value)
    assert (failure.type, failure.message, failure.http_status) == (
        "BadRequestError",
        "HTTP 400",
        400,
    )
