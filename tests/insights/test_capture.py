"""The insights step at PostHog: captured by the wrapper, once, and never at the call's expense."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from decimal import Decimal

import httpx2
import pytest
from posthog import Posthog
from pydantic import SecretStr

from flow.domain.usage.events import Cost, Outcome, Quantities, UsageEvent
from flow.sandbox.faults import Fault
from flow.sandbox.posthog.app import PROJECT_KEY, PostHogSandbox
from flow.sandbox.posthog.events import Event
from flow.sandbox.server import Served
from flow.vendors.openai_client import openai_endpoint
from flow.vendors.posthog import get_posthog_client, shutdown_posthog
from flow.vendors.posthog_wrapper import PosthogWrapper
from tests.insights.conftest import TALK, Extraction, Vendor, a_thread, extracted

SECRET = "my card is 4111 1111"


def price(event: UsageEvent) -> UsageEvent:
    q = event.quantities
    rates = {
        "input_tokens": "0.000001",
        "cache_read_tokens": "0.0000001",
        "output_tokens": "0.00001",
    }
    cost = Cost({unit: Decimal(usd) * q[unit] for unit, usd in rates.items() if unit in q})
    return event.priced(cost, "test-1")


@dataclass
class Captured:
    app: PostHogSandbox
    client: Posthog
    vendor: Vendor
    capture_content: bool = False
    price: Callable[[UsageEvent], UsageEvent] = price

    async def extract(self, **options: object) -> tuple[Extraction, list[Event]]:
        """Run the step, then see what arrived."""
        endpoint = self.vendor.endpoint()
        done = await extracted(
            endpoint,
            a_thread(SECRET, *TALK),
            wrapper=PosthogWrapper(self.client, self.price),
            first_pause_secs=0.01,
            capture_content=self.capture_content,
            **options,
        )
        await endpoint.close()
        await shutdown_posthog(self.client, timeout_secs=0.5 if self.app.faults.to_json() else 30)
        return done, self.app.events


@pytest.fixture(params=[False])
async def captured(vendor: Vendor, request) -> AsyncIterator[Captured]:
    app = PostHogSandbox()
    async with Served(app) as url:
        client = get_posthog_client(SecretStr(PROJECT_KEY), url, capture_content=request.param)
        assert client is not None
        yield Captured(app, client, vendor, request.param)
        await shutdown_posthog(client, 0.1)


async def test_one_event_that_is_the_ledgers_event(captured):
    done, [arrived] = await captured.extract()
    [event] = done.events
    assert arrived.name == "$ai_generation"
    assert arrived.uuid == arrived.properties["$ai_span_id"] == str(event.id)
    assert not event.capture
    assert arrived.distinct_id == str(event.owner.api_key_id)
    assert arrived.properties["$groups"] == {"team": "acme"}
    thread_id = str(event.owner.workflow_thread_id)
    expected = {
        "$ai_trace_id": thread_id,
        "$ai_session_id": thread_id,
        "$ai_provider": "openai",
        "$ai_is_error": False,
        "$ai_http_status": 200,
        "$ai_cache_reporting_exclusive": False,
        "ai_product": "voice_bot",
        "$ai_billable": True,
        "team_id": "acme",
        "api_key_id": str(event.owner.api_key_id),
        "workflow_thread_id": thread_id,
        "usage_kind": "llm",
        "usage_source": "insights",
        "provenance": "reported",
        "outcome": "ok",
    }
    assert expected.items() <= arrived.properties.items()


async def test_its_tokens_and_costs_are_the_ledgers(captured):
    done, [arrived] = await captured.extract()
    event = price(done.events[0])
    q, said = event.quantities, arrived.properties
    gross = q["input_tokens"] + q["cache_read_tokens"] + q["cache_write_tokens"]
    assert (said["$ai_input_tokens"], said["$ai_output_tokens"]) == (gross, q["output_tokens"])
    assert said["$ai_total_cost_usd"] == pytest.approx(float(event.cost.total))
    assert said["$ai_cost_passthrough"] is True
    assert said["price_version"] == "test-1"


async def test_nothing_that_was_said_reaches_posthog(captured):
    captured.vendor.says += ['{"bad": "4111 1111"}']
    done, arrived = await captured.extract()
    assert len(arrived) == len(done.events) == 2
    assert "4111" not in str(arrived)
    assert [event.properties["$ai_input"] for event in arrived] == [None, None]


@pytest.mark.parametrize("captured", [True], indirect=True)
async def test_content_is_sent_where_it_is_switched_on(captured):
    _, [arrived] = await captured.extract()
    assert SECRET in str(arrived.properties["$ai_input"])
    assert arrived.properties["$ai_output_choices"]


async def test_failed_attempts_are_captured_one_by_one(captured):
    captured.vendor.app.faults.add(Fault(kind="status", status=429, times=2))
    done, arrived = await captured.extract()
    assert [event.uuid for event in arrived] == [str(event.id) for event in done.events]
    said = [event.properties for event in arrived]
    assert [p["$ai_is_error"] for p in said] == [True, True, False]
    assert [p["$ai_http_status"] for p in said] == [429, 429, 200]
    assert [p["outcome"] for p in said] == ["error", "error", "ok"]
    assert all(p["$ai_billable"] is True and p["ai_product"] == "voice_bot" for p in said)
    assert [e.outcome for e in done.events] == [Outcome.ERROR, Outcome.ERROR, Outcome.OK]


async def test_a_price_that_cannot_be_found_costs_nothing_but_the_costs(vendor):
    def broken(event: UsageEvent) -> UsageEvent:
        raise LookupError(event.model)

    app = PostHogSandbox()
    async with Served(app) as url:
        client = get_posthog_client(SecretStr(PROJECT_KEY), url)
        done, [arrived] = await Captured(app, client, vendor, price=broken).extract()
    assert done.result.status == "ok"
    assert "$ai_total_cost_usd" not in arrived.properties
    assert arrived.properties["team_id"] == "acme"


@pytest.mark.parametrize(
    "fault", [Fault(kind="hang"), Fault(kind="drop"), Fault(kind="status", status=500)]
)
async def test_posthog_in_trouble_changes_nothing(captured, fault):
    captured.app.faults.add(fault)
    done, _ = await captured.extract()
    assert done.result.status == "ok"
    assert done.events[0].quantities != Quantities()


async def test_with_and_without_posthog_the_step_does_the_same(captured):
    endpoint = captured.vendor.endpoint()
    plain = await extracted(endpoint, a_thread(SECRET, *TALK))
    await endpoint.close()
    wrapped, _ = await captured.extract()
    assert plain.result == wrapped.result
    assert captured.vendor.heard[0] == captured.vendor.heard[1]
    [one], [other] = plain.events, wrapped.events
    assert one.quantities.total_tokens == other.quantities.total_tokens
    assert (one.capture, other.capture) == (True, False)


@pytest.mark.parametrize("kind", ["malformed", "empty_choices", "no_usage", "null_usage_details"])
async def test_odd_answers_reach_the_account_through_the_wrapper_too(captured, kind):
    captured.vendor.app.faults.add(Fault(kind=kind))
    done, arrived = await captured.extract()
    assert [event.uuid for event in arrived] == [str(event.id) for event in done.events]
    assert all(event.quantities.total_tokens > 0 for event in done.events)


class Rerouted(httpx2.AsyncHTTPTransport):
    """Takes every request to the stand-in, whichever host it is for."""

    def __init__(self, base_url: str) -> None:
        super().__init__()
        self._base_url = httpx2.URL(base_url)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        there = self._base_url
        request.url = request.url.copy_with(scheme="http", host=there.host, port=there.port)
        return await super().handle_async_request(request)


async def test_posthogs_own_gateway_captures_so_the_step_does_not(captured):
    pool = httpx2.AsyncClient(transport=Rerouted(captured.vendor.base_url))
    endpoint = openai_endpoint(SecretStr("sk-test"), "https://gateway.us.posthog.com/v1", pool=pool)
    thread = a_thread(*TALK)
    wrapper = PosthogWrapper(captured.client, price)
    done = await extracted(endpoint, thread, wrapper=wrapper)
    await endpoint.close()
    assert await shutdown_posthog(captured.client)
    assert done.result.status == "ok"
    assert [event.capture for event in done.events] == [False]
    assert captured.app.events == []
    headers = captured.vendor.app.requests[0].headers
    assert headers["x-posthog-property-workflow_thread_id"] == str(thread.id)
