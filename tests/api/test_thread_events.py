"""The stream of what happens in a call, as a client of server-sent events reads it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from flow.api import event_feed, thread_events
from flow.domain.calls.thread import Status, ThreadTurn, Turn
from flow.domain.calls.tool_call import ThreadToolCall, ToolCall, ToolOutcome
from flow.errors import Refused
from tests.api.conftest import Api, spend

T0 = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Event:
    type: str
    id: str
    data: Any


class Stream:
    """A stream that was answered; ``comments`` are what keeps it alive."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.comments = 0
        self._lines = response.aiter_lines()

    async def __aiter__(self) -> AsyncIterator[Event]:
        fields: dict[str, str] = {}
        async for line in self._lines:
            name, _, value = line.partition(": ")
            if line and not name:
                self.comments += 1
            elif line:
                fields[name] = value
            elif "event" in fields:
                yield Event(fields["event"], fields["id"], json.loads(fields["data"]))
                fields = {}

    async def until(self, kind: str, **data: Any) -> Event:
        """The next event of a type with these data; whatever comes before it is read past."""
        async with asyncio.timeout(20):
            async for event in self:
                if event.type == kind and data.items() <= event.data.items():
                    return event
        raise AssertionError(f"it ended without {kind} {data}")

    async def rest(self) -> list[Event]:
        async with asyncio.timeout(20):
            return [event async for event in self]


@asynccontextmanager
async def stream(
    client: httpx.AsyncClient, thread_id: str, seen: str | None = None, **params: str
) -> AsyncIterator[Stream]:
    headers = {} if seen is None else {"Last-Event-ID": seen}
    path = f"/api/threads/{thread_id}/events"
    async with client.stream("GET", path, headers=headers, params=params) as response:
        yield Stream(response)


async def said(api: Api, thread_id: str, *seqs: int) -> None:
    turns = [Turn(seq, "user", f"line {seq}", T0) for seq in seqs]
    await api.database.save_turns([ThreadTurn(UUID(thread_id), turn) for turn in turns])


async def test_a_call_is_told_as_it_goes_on_and_to_its_end(api: Api) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    async with stream(api.client, thread_id) as events:
        assert events.response.headers["content-type"].startswith("text/event-stream")
        assert events.response.headers["x-accel-buffering"] == "no"
        assert events.response.headers["cache-control"] == "no-store"
        await events.until("status", status="created")
        await api.in_call(thread_id)
        await events.until("status", status="in_call")
        await said(api, thread_id, 0)
        turn = await events.until("turn", seq=0)
        assert turn.data["content"] == "line 0"
        await spend(api, thread_id, "0.25")
        await events.until("usage", total_cost_usd=0.25, total_tokens=15)
        for status in (Status.ENDED, Status.EXTRACTING):
            await api.database.save_workflow_thread_data(UUID(thread_id), status=status)
        await api.database.finish_thread(UUID(thread_id), Status.COMPLETED)
        *_, end = await events.rest()
    assert (end.type, end.data["status"]) == ("end", "completed")
    async with stream(api.client, thread_id, turn.id) as events:
        later = await events.rest()
    assert [event.type for event in later] == ["usage", "status", "end"]
    async with stream(api.client, thread_id, end.id) as events:
        assert events.response.status_code == httpx.codes.NO_CONTENT


async def test_late_turns_of_a_process_that_died_are_told_to_who_comes_back(api: Api) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    await api.in_call(thread_id)
    await said(api, thread_id, 0, 10_000)
    async with stream(api.client, thread_id) as events:
        seen = await events.until("turn", seq=10_000)
    await said(api, thread_id, 1, 10_001)
    async with stream(api.client, thread_id, seen.id) as events:
        assert (await events.until("turn")).data["seq"] == 1
        assert (await events.until("turn")).data["seq"] == 10_001


async def test_uses_of_tools_are_told_each_when_it_begins_and_is_over(api: Api) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    await api.in_call(thread_id)

    async def used(use: UUID, secs: int, outcome: ToolOutcome) -> None:
        call = ToolCall(use, "find", {"day": "friday"}, T0 + timedelta(seconds=secs), outcome)
        await api.database.save_tool_calls([ThreadToolCall(UUID(thread_id), call)])

    slow, quick, late = uuid4(), uuid4(), uuid4()
    await used(slow, 0, ToolOutcome.RUNNING)
    async with stream(api.client, thread_id) as events:
        begun = await events.until("tool_call", id=str(slow), outcome="running")
        assert (begun.data["name"], begun.data["arguments"]) == ("find", {"day": "friday"})
        await used(quick, 1, ToolOutcome.RUNNING)
        await events.until("tool_call", id=str(quick), outcome="running")
        await used(quick, 1, ToolOutcome.OK)
        seen = await events.until("tool_call", id=str(quick), outcome="ok")
    await used(slow, 0, ToolOutcome.TIMEOUT)
    async with stream(api.client, thread_id, seen.id) as events:
        over = await events.until("tool_call")
        assert (over.data["id"], over.data["outcome"]) == (str(slow), "timeout")
        # One of a process that died, which another has brought.
        await used(late, -5, ToolOutcome.UNKNOWN)
        await events.until("tool_call", id=str(late), outcome="unknown")


async def test_the_token_of_the_join_shows_what_was_said_and_no_cost(api: Api) -> None:
    joined = await api.join()
    thread_id, url = joined["workflow_thread_id"], httpx.URL(joined["connection"]["url"])
    await api.in_call(thread_id)
    await said(api, thread_id, 0)
    await spend(api, thread_id, "0.25")
    api.now.moved = timedelta(hours=1)  # whoever is in the call may go on using its token
    async with stream(api.anonymous, thread_id, token=url.params["token"]) as events:
        turn = await events.until("turn", seq=0)
        assert "latency" not in turn.data
        await api.database.save_workflow_thread_data(UUID(thread_id), status=Status.ENDED)
        await api.database.finish_thread(UUID(thread_id), Status.COMPLETED)
        assert [event.type for event in await events.rest()] == ["status", "end"]
    async with stream(api.anonymous, thread_id, token=url.params["token"]) as events:
        assert events.response.status_code == httpx.codes.UNAUTHORIZED
    api.now.moved = timedelta(0)
    async with stream(api.anonymous, thread_id, token=url.params["token"]) as events:
        assert [event.type for event in await events.rest()] == ["status"] * 2 + [
            "turn",
            "status",
            "end",
        ]


async def test_what_is_not_the_callers_is_not_there(api: Api) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    other = (await api.join())["connection"]["url"]
    refusals: list[tuple[httpx.AsyncClient, str, dict[str, str], int]] = [
        (api.other, thread_id, {}, 404),
        (api.client, "0b6d1a52-8a5e-4f0f-9d0f-5b8f3c0f2a11", {}, 404),
        (api.anonymous, thread_id, {}, 401),
        (api.anonymous, thread_id, {"token": httpx.URL(other).params["token"]}, 401),
        (api.anonymous, thread_id, {"token": "x"}, 401),
    ]
    for client, asked, params, status in refusals:
        async with stream(client, asked, **params) as events:
            assert events.response.status_code == status
    async with stream(api.client, thread_id, "nonsense") as events:
        assert events.response.status_code == httpx.codes.UNPROCESSABLE_ENTITY
        await events.response.aread()
        assert events.response.json()["errors"][0]["field"] == "Last-Event-ID"


def test_a_refusal_says_whose_streams_are_too_many(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "MOST", 1)
    feed = event_feed.EventFeed(api.database)
    with feed.stream(uuid4()), pytest.raises(Refused, match="of one server"):
        feed.stream(uuid4()).__enter__()


async def test_streams_of_a_key_are_bounded_and_others_keep_theirs(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "MOST_OF_A_KEY", 2)
    mine = (await api.join())["workflow_thread_id"]
    theirs = (await api.other.post("/api/bot/join", json={})).json()["workflow_thread_id"]
    async with AsyncExitStack() as open_ones:
        kept = [await open_ones.enter_async_context(stream(api.client, mine)) for _ in range(2)]
        for one in kept:
            await one.until("status")
        async with stream(api.client, mine) as events:
            await events.response.aread()
            assert events.response.status_code == httpx.codes.TOO_MANY_REQUESTS
            assert events.response.json()["code"] == "too_many_streams"
        async with stream(api.other, theirs) as events:
            await events.until("status")
    async with asyncio.timeout(20):
        while True:  # the server notices a moment later who has gone
            async with stream(api.client, mine) as events:
                if events.response.status_code == httpx.codes.OK:
                    break


async def test_a_silent_stream_is_kept_alive(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_events, "KEEP_ALIVE_SECS", 0.05)
    thread_id = (await api.join())["workflow_thread_id"]
    async with stream(api.client, thread_id) as events:
        await events.until("usage")
        await asyncio.sleep(0.3)
        await api.in_call(thread_id)
        await events.until("status", status="in_call")
    assert events.comments > 0


async def test_a_stream_ends_with_its_key(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_events, "KEY_SECS", 0.1)
    monkeypatch.setattr(thread_events, "READ_MAX_AGE_SECS", 0.0)
    thread_id = (await api.join())["workflow_thread_id"]
    key = api.unkey.key((await api.key_of(api.client)).unkey_key_id)
    async with stream(api.client, thread_id) as events:
        await events.until("usage")
        await asyncio.sleep(0.3)
        await api.in_call(thread_id)
        await events.until("status", status="in_call")
        key.enabled = False
        # Whoever comes back with it is told why.
        assert [event for event in await events.rest() if event.type == "end"] == []


async def test_who_reads_nothing_is_dropped(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_events, "SEND_SECS", 0.2)
    thread_id = (await api.join())["workflow_thread_id"]
    await api.in_call(thread_id)
    words = "and so on " * 3_000
    turns = [ThreadTurn(UUID(thread_id), Turn(n, "user", words, T0)) for n in range(300)]
    await api.database.save_turns(turns)
    url = httpx.URL(api.url)
    reader, writer = await asyncio.open_connection(url.host, url.port, limit=1_024)
    head = f"GET /api/threads/{thread_id}/events HTTP/1.1\r\nHost: x\r\n"
    writer.write(f"{head}Authorization: {api.client.headers['Authorization']}\r\n\r\n".encode())
    await reader.readline()
    await asyncio.sleep(1.0)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(len(words) * len(turns)), 20)
    writer.close()


async def test_streams_end_when_their_process_stops_and_go_on_elsewhere(api: Api) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    async with stream(api.client, thread_id) as events:
        await events.until("usage")
        api.services.feed.close()
        assert await events.rest() == []
    async with stream(api.client, thread_id) as events:
        assert events.response.status_code == httpx.codes.SERVICE_UNAVAILABLE
