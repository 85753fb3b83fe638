"""Events at PostHog, over the real SDK, whatever state PostHog is in."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from posthog import Posthog
from pydantic import SecretStr

from flow.domain.products.product import Product, Products
from flow.domain.usage.events import (
    Cost,
    Failure,
    Kind,
    Outcome,
    Provenance,
    Quantities,
)
from flow.domain.usage.posthog_properties import Content, generation_properties
from flow.sandbox.faults import Fault
from flow.sandbox.posthog.app import PROJECT_KEY, PostHogSandbox
from flow.sandbox.server import Served
from flow.vendors.posthog import (
    QUEUED_EVENTS,
    capture_llm_generation,
    capture_trace,
    get_posthog_client,
    shutdown_posthog,
    trace_uuid,
)
from tests.events import an_event, an_owner

WHEN = datetime(2026, 11, 1, 12, 30, 1, 250_000, tzinfo=UTC)
OWNER = an_owner()
EVENT = an_event(
    OWNER,
    quantities=Quantities(input_tokens=100, cache_read_tokens=20, output_tokens=7),
    cost=Cost(
        input_tokens=Decimal("0.0002"),
        cache_read_tokens=Decimal("0.00001"),
        output_tokens=Decimal("0.000056"),
    ),
    occurred_at=WHEN,
)


@dataclass
class Counts:
    """What a client's callbacks were told."""

    queued: int = 0
    lost: Counter[str] = field(default_factory=Counter)

    def sent(self, events: int) -> None:
        self.queued += events

    def gave_up(self, reason: str, events: int) -> None:
        self.lost[reason] += events


@pytest.fixture
async def sandbox() -> AsyncIterator[tuple[PostHogSandbox, Posthog]]:
    app = PostHogSandbox()
    async with Served(app) as url:
        client = get_posthog_client(SecretStr(PROJECT_KEY), url)
        assert client is not None
        yield app, client
        await shutdown_posthog(client, 0.1)


@pytest.mark.parametrize("key", [None, SecretStr(""), SecretStr("  ")])
def test_without_a_project_key_there_is_no_client(key):
    assert get_posthog_client(key, "http://127.0.0.1:9") is None


async def test_a_process_has_one_client_however_often_it_is_asked_for():
    def ask(**changed: Any) -> Posthog | None:
        return get_posthog_client(SecretStr("phc_one"), "http://127.0.0.1:9", **changed)

    with ThreadPoolExecutor(8) as threads:
        clients = {threads.submit(ask).result() for _ in range(20)}
    assert len(clients) == 1
    (client,) = clients
    assert get_posthog_client(SecretStr(" phc_one "), "http://127.0.0.1:9") is client
    others = [
        ask(capture_content=True),
        ask(on_sent=Counts().sent),
        get_posthog_client(SecretStr("phc_two"), "http://127.0.0.1:9"),
        get_posthog_client(SecretStr("phc_one"), "http://127.0.0.1:10"),
    ]
    assert len({client, *others}) == 5
    assert await shutdown_posthog(client)
    new = ask()
    assert new is not client
    assert ask() is new
    for one in (new, *others):
        await shutdown_posthog(one)


async def test_events_that_are_sent_and_those_that_are_lost_are_counted():
    app, counts = PostHogSandbox(), Counts()
    async with Served(app) as url:
        client = get_posthog_client(
            SecretStr(PROJECT_KEY), url, on_sent=counts.sent, on_lost=counts.gave_up
        )
        capture_llm_generation(client, EVENT)
        capture_trace(client, OWNER, started_at=WHEN, ended_at=WHEN)
        assert (counts.queued, counts.lost) == (2, {})
        assert await shutdown_posthog(client)
        assert len(app.events) == 2
        capture_llm_generation(client, EVENT)
    assert (counts.queued, counts.lost) == (2, {"dropped": 1})


async def test_an_upload_that_fails_is_counted():
    app, counts = PostHogSandbox(), Counts()
    app.faults.add(Fault(kind="status", status=401))
    async with Served(app) as url:
        client = get_posthog_client(
            SecretStr(PROJECT_KEY), url, on_sent=counts.sent, on_lost=counts.gave_up
        )
        capture_llm_generation(client, EVENT)
        assert await shutdown_posthog(client, timeout_secs=30)
    assert (counts.queued, counts.lost) == (1, {"upload_failed": 1})


async def test_without_a_client_nothing_is_captured():
    assert not capture_llm_generation(None, EVENT)
    assert not capture_trace(None, OWNER, started_at=WHEN, ended_at=WHEN)
    assert await shutdown_posthog(None)


@pytest.mark.parametrize("kind", [Kind.LLM, Kind.TTS, Kind.STT])
async def test_an_event_arrives_as_it_was_built(sandbox, kind):
    app, client = sandbox
    event = replace(EVENT, kind=kind)
    assert capture_llm_generation(client, event)
    assert await shutdown_posthog(client)
    [arrived] = app.events
    assert arrived.name == "$ai_generation"
    assert arrived.uuid == str(event.id)
    assert arrived.distinct_id == str(OWNER.api_key_id)
    assert datetime.fromisoformat(arrived.timestamp) == WHEN
    assert arrived.properties["$groups"] == {"team": "acme"}
    assert generation_properties(event).items() <= arrived.properties.items()


async def test_a_failed_attempt_arrives_with_its_product_and_whether_it_is_billable(sandbox):
    app, client = sandbox
    failure = Failure("RateLimitError", "HTTP 429", 429)
    capture_llm_generation(client, replace(EVENT, outcome=Outcome.ERROR, failure=failure))
    assert await shutdown_posthog(client)
    said = app.events[0].properties
    assert (said["$ai_is_error"], said["$ai_http_status"]) == (True, 429)
    assert (said["ai_product"], said["$ai_billable"]) == ("voice_bot", True)


PRODUCTS = Products(
    [
        Product("voice_bot", billable=True, aliases=("voice",)),
        Product("playground", billable=False, aliases=("test",)),
        Product("insights", billable=True, calls=False),
    ]
)


@pytest.mark.parametrize(("alias", "billable"), [("voice", True), ("test", False)])
@pytest.mark.parametrize("kind", [Kind.LLM, Kind.TTS, Kind.STT])
@pytest.mark.parametrize("outcome", Outcome)
async def test_whether_it_is_billable_is_said_however_it_ends_and_whatever_its_product_is_called(
    sandbox, alias, billable, kind, outcome
):
    app, client = sandbox
    product = PRODUCTS.for_call(alias)
    owner = replace(OWNER, product=product.name, billable=product.billable)
    failure = Failure("RateLimitError", "HTTP 429", 429) if outcome is Outcome.ERROR else None
    event = replace(EVENT, owner=owner, kind=kind, outcome=outcome, failure=failure)
    assert capture_llm_generation(client, event)
    assert await shutdown_posthog(client)
    [arrived] = app.events
    assert arrived.properties["$ai_billable"] is billable
    assert arrived.properties["ai_product"] == product.name
    assert arrived.properties["outcome"] == outcome


async def test_work_that_nothing_metered_arrives_as_an_event(sandbox):
    app, client = sandbox
    unmetered = replace(
        EVENT, quantities=Quantities(), cost=None, provenance=Provenance.UNMETERED, kind=Kind.STT
    )
    assert capture_llm_generation(client, unmetered)
    assert await shutdown_posthog(client)
    [arrived] = app.events
    assert arrived.properties["provenance"] == "unmetered"
    assert not [name for name in arrived.properties if "cost" in name or "tokens" in name]


async def test_what_belongs_to_no_call_is_in_a_trace_of_its_own_and_has_no_trace_event(sandbox):
    app, client = sandbox
    owner = replace(OWNER, workflow_thread_id=None)
    assert capture_llm_generation(client, replace(EVENT, owner=owner))
    assert not capture_trace(client, owner, started_at=WHEN, ended_at=WHEN)
    assert await shutdown_posthog(client)
    [arrived] = app.events
    assert arrived.properties["$ai_trace_id"] == str(EVENT.id)
    assert "workflow_thread_id" not in arrived.properties


@pytest.mark.parametrize(
    "event",
    [replace(EVENT, capture=False), replace(EVENT, kind=Kind.CALL)],
    ids=["not-ours", "call"],
)
async def test_what_is_not_captured(sandbox, event):
    app, client = sandbox
    assert not capture_llm_generation(client, event)
    assert await shutdown_posthog(client)
    assert app.events == []


async def test_a_second_capture_is_the_same_event(sandbox):
    app, client = sandbox
    capture_llm_generation(client, EVENT)
    capture_llm_generation(client, EVENT)
    assert await shutdown_posthog(client)
    assert (len(app.events), len(app.unique_events)) == (2, 1)


async def test_content_leaves_only_when_it_is_passed(sandbox):
    app, client = sandbox
    capture_llm_generation(client, EVENT)
    capture_llm_generation(client, EVENT, content=Content([{"role": "user"}], "hello"))
    assert await shutdown_posthog(client)
    without, with_content = (event.properties for event in app.events)
    assert not {"$ai_input", "$ai_output_choices"} & without.keys()
    assert with_content["$ai_output_choices"] == "hello"


@pytest.mark.parametrize("said", ["\ud800", float("inf")], ids=["half-a-character", "infinite"])
async def test_what_a_caller_says_that_is_hard_to_send_keeps_no_other_event(sandbox, said):
    app, client = sandbox
    odd = replace(EVENT, id=uuid4(), properties={"plan": said})
    assert capture_llm_generation(client, odd)
    assert capture_llm_generation(client, EVENT)
    assert await shutdown_posthog(client)
    plans = {event.uuid: event.properties.get("plan") for event in app.events}
    assert plans == {str(odd.id): said if isinstance(said, str) else None, str(EVENT.id): None}


async def test_what_cannot_be_rendered_is_dropped_alone():
    app, counts = PostHogSandbox(), Counts()
    async with Served(app) as url:
        client = get_posthog_client(
            SecretStr(PROJECT_KEY), url, on_sent=counts.sent, on_lost=counts.gave_up
        )
        capture_llm_generation(client, replace(EVENT, id=uuid4(), properties={"plan": object()}))
        capture_llm_generation(client, EVENT)
        assert await shutdown_posthog(client)
    assert [event.uuid for event in app.events] == [str(EVENT.id)]
    assert (counts.queued, counts.lost) == (2, {"dropped": 1})


async def test_one_trace_for_a_call_however_often_the_step_is_repeated(sandbox):
    app, client = sandbox
    for _ in range(2):
        ended = WHEN + timedelta(seconds=42)
        assert capture_trace(client, OWNER, started_at=WHEN, ended_at=ended)
    assert await shutdown_posthog(client)
    [trace] = app.unique_events
    assert (trace.name, trace.uuid) == ("$ai_trace", str(trace_uuid(OWNER.workflow_thread_id)))
    assert trace.properties["$ai_latency"] == 42.0
    assert trace.properties["team_id"] == "acme"
    assert datetime.fromisoformat(trace.timestamp) == WHEN


async def test_a_team_without_a_name_is_no_group(sandbox):
    app, client = sandbox
    capture_llm_generation(client, replace(EVENT, owner=replace(OWNER, team_id="")))
    assert await shutdown_posthog(client)
    assert "$groups" not in app.events[0].properties


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="hang"),
        Fault(kind="drop"),
        Fault(kind="status", status=500),
        Fault(kind="status", status=401),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
async def test_posthog_in_trouble_neither_raises_nor_holds_up_the_end(sandbox, fault):
    app, client = sandbox
    app.faults.add(fault)
    assert all(capture_llm_generation(client, replace(EVENT, id=uuid4())) for _ in range(150))
    await shutdown_posthog(client, timeout_secs=0.2)
    # After the end there is nobody to send: dropped, not raised.
    assert not capture_llm_generation(client, EVENT)


async def test_the_queue_is_bounded(sandbox):
    app, client = sandbox
    app.faults.add(Fault(kind="hang"))
    queued = sum(capture_llm_generation(client, EVENT) for _ in range(QUEUED_EVENTS + 500))
    assert QUEUED_EVENTS <= queued < QUEUED_EVENTS + 500


async def test_a_shutdown_that_hangs_is_left_behind(sandbox):
    app, client = sandbox
    app.faults.add(Fault(kind="hang"))
    capture_llm_generation(client, EVENT)
    assert not await shutdown_posthog(client, timeout_secs=0.2)


async def test_events_wait_out_a_short_outage(sandbox):
    app, client = sandbox
    app.faults.add(Fault(kind="status", status=503, times=1))
    capture_llm_generation(client, EVENT)
    assert await shutdown_posthog(client, timeout_secs=30)
    assert [event.uuid for event in app.events] == [str(EVENT.id)]
