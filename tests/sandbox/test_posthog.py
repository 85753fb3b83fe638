"""PostHog's SDK against the stand-in."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
from posthog import Posthog

from flow.sandbox.faults import Fault
from flow.sandbox.posthog.app import PROJECT_KEY, PostHogSandbox
from tests.sandbox.conftest import Server

MakeClient = Callable[..., Any]


@pytest.fixture
def vendor() -> PostHogSandbox:
    return PostHogSandbox()


@pytest.fixture
async def client(server: Server, vendor: PostHogSandbox) -> AsyncIterator[MakeClient]:
    url = await server.url(vendor)
    made: list[Posthog] = []

    def make(**options: Any) -> Posthog:
        defaults = {"host": url, "flush_interval": 0.02, "max_retries": 0, "timeout": 2}
        made.append(Posthog(options.pop("key", PROJECT_KEY), **{**defaults, **options}))
        return made[-1]

    yield make
    for one in made:
        # Its threads talk to a server on this loop, so the loop must keep running.
        await asyncio.to_thread(one.shutdown)


async def send(client: Posthog, *uuids: str, name: str = "$ai_generation") -> None:
    for uuid in uuids:
        client.capture(name, distinct_id="key-1", properties={"cost": "0.1"}, uuid=uuid)
    await asyncio.to_thread(client.flush)


@pytest.mark.parametrize(
    "options",
    [{}, {"gzip": True}, {"capture_mode": "v1"}, {"capture_mode": "v1", "gzip": True}],
    ids=str,
)
async def test_events_arrive_however_the_sdk_sends_them(
    client: MakeClient, vendor: PostHogSandbox, options: dict[str, Any]
) -> None:
    uuid = str(uuid4())
    await send(client(**options), uuid)
    [event] = vendor.events
    assert (event.uuid, event.name, event.distinct_id) == (uuid, "$ai_generation", "key-1")
    assert event.properties["cost"] == "0.1"
    assert event.timestamp is not None


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
async def test_capture_v1_may_be_compressed(
    client: MakeClient, vendor: PostHogSandbox, compression: str
) -> None:
    await send(client(capture_mode="v1", capture_compression=compression), str(uuid4()))
    assert [event.path for event in vendor.events] == ["/i/v1/analytics/events"]


async def test_a_repeat_is_kept_and_is_no_second_event(
    client: MakeClient, vendor: PostHogSandbox, server: Server
) -> None:
    first, second = str(uuid4()), str(uuid4())
    posthog = client()
    for uuid in (first, second, first):
        await send(posthog, uuid)
    assert [event.uuid for event in vendor.events] == [first, second, first]
    assert [event.uuid for event in vendor.unique_events] == [first, second]
    http = await server.http(vendor)
    assert len((await http.get("/_sandbox/events")).json()) == 3
    shown = (await http.get("/_sandbox/events?unique=1")).json()
    assert [event["uuid"] for event in shown] == [first, second]


async def test_ai_events_may_take_their_own_way(client: MakeClient, vendor: PostHogSandbox) -> None:
    posthog = client()
    posthog.capture_ai("$ai_generation", distinct_id="key-1")
    await asyncio.to_thread(posthog.flush)
    assert [event.path for event in vendor.events] == ["/i/v0/ai/batch/"]


async def test_an_unknown_project_key_is_refused(
    client: MakeClient, vendor: PostHogSandbox
) -> None:
    failures: list[Any] = []
    posthog = client(key="another", on_error=lambda error, _batch: failures.append(error))
    await send(posthog, str(uuid4()))
    assert [failure.status for failure in failures] == [401]
    assert vendor.events == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="status", status=503),
        Fault(kind="status", status=429, headers={"Retry-After": "1"}),
        Fault(kind="drop"),
        Fault(kind="hang"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
async def test_a_fault_is_the_sdk_s_error(
    client: MakeClient, vendor: PostHogSandbox, fault: Fault
) -> None:
    failures: list[Any] = []
    posthog = client(timeout=0.2, on_error=lambda error, _batch: failures.append(error))
    vendor.faults.add(fault)
    await send(posthog, str(uuid4()))
    assert len(failures) == 1
    assert vendor.events == []
    if fault.kind == "status":
        assert failures[0].status == fault.status


FLAGS: dict[str, Any] = {"on": True, "off": False, "which": "b"}


async def test_flags_are_answered_as_set(client: MakeClient, vendor: PostHogSandbox) -> None:
    posthog = client()
    assert await asyncio.to_thread(posthog.get_all_flags, "key-1") == {}
    vendor.flags.update(FLAGS)
    assert await asyncio.to_thread(posthog.get_all_flags, "key-1") == FLAGS


async def test_flags_are_evaluated_in_the_sdk_from_their_definitions(
    client: MakeClient, vendor: PostHogSandbox
) -> None:
    vendor.flags.update(FLAGS)
    posthog = client(secret_key="a personal key")
    await asyncio.to_thread(posthog.load_feature_flags)
    flags = await asyncio.to_thread(
        lambda: posthog.evaluate_flags("key-1", only_evaluate_locally=True)
    )
    answers = {name: flags.get_flag(name) for name in FLAGS}
    assert answers == FLAGS
    assert "/flags/" not in {request.path for request in vendor.requests}


@pytest.mark.parametrize("version", ["2", "4"])
async def test_flags_are_written_in_the_version_asked_for(server: Server, version: str) -> None:
    http = await server.http(PostHogSandbox(flags=FLAGS))
    body = {"token": PROJECT_KEY, "distinct_id": "key-1"}
    answer = await http.post(
        f"/flags/?v={version}", json=body, headers={"authorization": f"Bearer {PROJECT_KEY}"}
    )
    which = answer.json()["flags"]["which"]
    expected = ("b", None) if version == "4" else (None, "b")
    assert (which.get("value"), which.get("variant")) == expected


EVENT = {"event": "e", "distinct_id": "d", "api_key": PROJECT_KEY}


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/capture/", json.dumps(EVENT).encode(), {}),
        ("/i/v0/e/", json.dumps(EVENT).encode(), {}),
        ("/e/", gzip.compress(json.dumps([EVENT]).encode()), {"content-encoding": "gzip"}),
        ("/batch/", zlib.compress(json.dumps(EVENT).encode()), {"content-encoding": "deflate"}),
        ("/batch?compression=gzip", gzip.compress(json.dumps(EVENT).encode()), {}),
    ],
    # A gzip file holds the time it was made at, which would make a name of its own each run.
    ids=["capture", "v0", "gzip", "deflate", "gzip-by-query"],
)
async def test_other_ways_in_are_open_too(
    server: Server, vendor: PostHogSandbox, path: str, body: bytes, headers: dict[str, str]
) -> None:
    http = await server.http(vendor)
    del http.headers["authorization"]
    assert (await http.post(path, content=body, headers=headers)).json() == {"status": "Ok"}
    assert len(vendor.events) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\x1f\x8b", 400),
        (b"5", 401),
        (b"[]", 401),
        (json.dumps({"batch": [EVENT]}).encode(), 401),
        (json.dumps({**EVENT, "event": None}).encode(), 400),
        (json.dumps({**EVENT, "distinct_id": None}).encode(), 400),
        (json.dumps({"api_key": PROJECT_KEY, "batch": [EVENT, 5]}).encode(), 400),
        (json.dumps({"api_key": PROJECT_KEY, "batch": 5}).encode(), 400),
        (json.dumps({**EVENT, "properties": [1]}).encode(), 400),
    ],
)
async def test_what_is_no_event_is_refused_whole(
    server: Server, vendor: PostHogSandbox, body: bytes, status: int
) -> None:
    http = await server.http(vendor)
    del http.headers["authorization"]
    assert (await http.post("/batch/", content=body)).status_code == status
    assert vendor.events == []
