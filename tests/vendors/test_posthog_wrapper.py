"""PostHog's OpenAI wrapper and the ledger say the same of a request, over the real wrapper."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import httpx2
import openai
import pytest
from posthog import Posthog
from pydantic import SecretStr

from flow.domain.pricing.pricer import Pricer
from flow.domain.usage.events import (
    CostControl,
    Failure,
    Outcome,
    Provenance,
    Quantities,
    UsageEvent,
)
from flow.domain.usage.owner_labels import attribution_properties, control_properties
from flow.domain.usage.posthog_properties import generation_properties
from flow.sandbox.faults import Fault
from flow.sandbox.openai.app import OpenAISandbox
from flow.sandbox.posthog.app import PROJECT_KEY, PostHogSandbox
from flow.sandbox.posthog.events import Event
from flow.sandbox.server import Served
from flow.vendors.posthog import get_posthog_client, shutdown_posthog
from flow.vendors.posthog_wrapper import LedgerCapture, PosthogWrapper
from tests.events import an_event, an_owner

OWNER = an_owner()
CONTROL = CostControl(True, "budget_engage", "engage")
SECRET = "my card is 4111 1111"
price = Pricer.read().price
OTHER_MODEL = {
    "model": "gpt-4.1-2025-04-14",
    "usage": {
        "prompt_tokens": 10_000,
        "completion_tokens": 1_000,
        "total_tokens": 11_000,
        "prompt_tokens_details": {"cached_tokens": 4_000},
    },
}


class Metering(httpx2.AsyncHTTPTransport):
    """A meter on the wire: ``finished`` has the event of every request that is over.

    ``says`` is written over what the vendor answers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.next_id = uuid4()
        self.says: dict[str, Any] = {}
        self.finished: dict[UUID, UsageEvent] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        answer = await super().handle_async_request(request)
        body = await answer.aread()
        event = an_event(
            OWNER,
            id=self.next_id,
            source="insights",
            model="gpt-4.1-mini",
            requested_model="gpt-4.1-mini",
            quantities=Quantities(),
            provenance=Provenance.MEASURED,
            latency_secs=0.5,
            capture=False,
            control=CONTROL,
        )
        if answer.status_code >= 400:
            failure = Failure("RateLimitError", "HTTP 429", answer.status_code)
            event = replace(event, outcome=Outcome.ERROR, failure=failure)
        else:
            said = json.loads(body) | self.says
            body = json.dumps(said).encode()
            usage, read = said["usage"], said["usage"]["prompt_tokens_details"]["cached_tokens"]
            event = replace(
                event,
                model=said["model"],
                quantities=Quantities(
                    input_tokens=usage["prompt_tokens"] - read,
                    cache_read_tokens=read,
                    output_tokens=usage["completion_tokens"],
                ),
                provenance=Provenance.REPORTED,
            )
        self.finished[event.id] = event
        return httpx2.Response(
            answer.status_code, headers={"content-type": "application/json"}, content=body
        )


@dataclass
class World:
    """Both stand-ins, and a wrapped client between them."""

    posthog: PostHogSandbox
    openai: OpenAISandbox
    base_url: str
    client: Posthog
    meter: Metering = field(default_factory=Metering)

    async def ask(self, event_id: UUID | None = None, **options: Any) -> None:
        """One request; ``event_id`` is that of its usage event."""
        self.meter.next_id = event_id or uuid4()
        wrapper = PosthogWrapper(self.client, options.pop("price", price))
        make = wrapper.openai_class(options.pop("finished", self.meter.finished.get))
        wrapped = make(
            api_key="sk-test",
            base_url=self.base_url,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(transport=self.meter),
        )
        properties = {
            "$ai_span_id": str(self.meter.next_id),
            **attribution_properties(OWNER),
            **control_properties(CONTROL),
        }
        await wrapped.chat.completions.create(
            model="gpt-4.1-mini",
            messages=[{"role": "user", "content": SECRET}],
            temperature=0.25,
            posthog_distinct_id="somebody",
            posthog_trace_id="some trace",
            posthog_properties=properties,
            **options,
        )

    async def arrived(self) -> list[Event]:
        """What PostHog has once all is sent."""
        assert await shutdown_posthog(self.client, timeout_secs=30)
        return self.posthog.events


@pytest.fixture(params=[False])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    posthog, vendor = PostHogSandbox(), OpenAISandbox()
    async with Served(posthog) as host, Served(vendor) as url:
        client = get_posthog_client(SecretStr(PROJECT_KEY), host, capture_content=request.param)
        assert client is not None
        yield World(posthog, vendor, f"{url}/v1", client)
        await shutdown_posthog(client, 0.1)


async def test_the_model_that_served_is_the_one_that_is_told_and_priced(world: World) -> None:
    world.meter.says = OTHER_MODEL
    await world.ask(event_id := uuid4())
    [arrived] = await world.arrived()
    event = price(world.meter.finished[event_id])
    assert event.cost is not None
    assert event.cost.total == Decimal("0.0220")
    assert arrived.uuid == str(event_id)
    assert arrived.properties["$ai_model"] == "gpt-4.1-2025-04-14"
    assert arrived.properties["requested_model"] == "gpt-4.1-mini"
    assert arrived.properties["$ai_total_cost_usd"] == 0.022
    assert arrived.properties["$ai_cost_passthrough"] is True


async def test_it_is_the_ledgers_event_with_what_only_the_wrapper_knows(world: World) -> None:
    await world.ask(event_id := uuid4())
    [arrived] = await world.arrived()
    event = price(world.meter.finished[event_id])
    assert arrived.name == "$ai_generation"
    assert generation_properties(event).items() <= arrived.properties.items()
    assert arrived.distinct_id == str(OWNER.api_key_id)
    assert arrived.properties["$groups"] == {"team": "acme"}
    own = {
        "$ai_lib": "posthog-ai",
        "$ai_stop_reason": "stop",
        "$ai_base_url": f"{world.base_url}/",
        "$ai_tokens_source": "passthrough",
    }
    assert own.items() <= arrived.properties.items()
    assert arrived.properties["$ai_model_parameters"]["temperature"] == 0.25


@pytest.mark.parametrize("world", [False, True], indirect=True)
async def test_content_leaves_only_where_the_client_lets_it(world: World) -> None:
    await world.ask()
    [arrived] = await world.arrived()
    leaves = not world.client.privacy_mode
    assert (SECRET in str(arrived.properties)) is leaves
    assert bool(arrived.properties["$ai_output_choices"]) is leaves


async def test_a_refused_request_is_an_error_that_cost_nothing(world: World) -> None:
    world.openai.faults.add(Fault(kind="status", status=429))
    with pytest.raises(openai.RateLimitError):
        await world.ask(event_id := uuid4())
    [arrived] = await world.arrived()
    said = arrived.properties
    assert arrived.uuid == str(event_id)
    assert (said["$ai_is_error"], said["$ai_http_status"], said["outcome"]) == (True, 429, "error")
    assert said["$ai_error"] == "RateLimitError: HTTP 429"
    assert said["$ai_billable"] is True
    assert not {"$ai_input_tokens", "$ai_output_tokens"} & said.keys()


async def test_what_the_ledger_leaves_out_the_wrapper_does_not_say(world: World) -> None:
    def unknown(event_id: UUID) -> UsageEvent:
        event = world.meter.finished[event_id]
        return replace(event, quantities=Quantities(), provenance=Provenance.UNMETERED)

    await world.ask(finished=unknown, price=lambda event: event)
    [arrived] = await world.arrived()
    assert arrived.properties["provenance"] == "unmetered"
    counted = ("_tokens", "_cost_usd")
    assert not [name for name in arrived.properties if name.endswith(counted)]


def _broken(_: object) -> Any:
    raise LookupError


@pytest.mark.parametrize(
    "options",
    [{"finished": lambda _: None}, {"finished": _broken}, {"price": _broken}],
    ids=["no event", "not found", "no price"],
)
async def test_without_a_priced_event_the_wrappers_goes_as_it_is(
    world: World, options: dict[str, Any]
) -> None:
    await world.ask(event_id := uuid4(), **options)
    [arrived] = await world.arrived()
    assert arrived.uuid == arrived.properties["$ai_span_id"] == str(event_id)
    assert arrived.properties["$ai_input_tokens"] > 0
    assert arrived.properties["$ai_billable"] is True
    assert not [name for name in arrived.properties if "cost" in name]


async def test_a_request_that_is_given_up_is_captured_under_its_id(world: World) -> None:
    world.openai.faults.add(Fault(kind="hang"))
    with suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await world.ask(event_id := uuid4())
    [arrived] = await world.arrived()
    assert arrived.uuid == str(event_id)
    assert arrived.properties["$ai_error"] == "cancelled"


async def test_events_of_others_pass_as_they_are(world: World) -> None:
    capture = LedgerCapture(world.client, _broken, price)
    for span in ({}, {"$ai_span_id": "not-a-uuid"}, {"$ai_span_id": 7}):
        capture.capture("other", distinct_id="somebody", properties={"x": 1, **span})
    capture.capture("bare", distinct_id="somebody")
    assert [event.name for event in await world.arrived()] == ["other", "other", "other", "bare"]
    assert all(event.distinct_id == "somebody" for event in world.posthog.events)


@pytest.mark.parametrize("kind", ["hang", "drop"])
async def test_posthog_in_trouble_changes_nothing(world: World, kind: str) -> None:
    world.posthog.faults.add(Fault(kind=kind))
    await world.ask()
    assert len(world.meter.finished) == 1
