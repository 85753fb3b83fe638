"""An end that is asked for while somebody connects: one of the two is first, never both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from flow.domain.calls.thread import Status, Thread
from flow.sandbox.twilio.call import TwilioStream
from tests.calls.conftest import Serve, Serving
from tests.calls.holding import held_at, so_many_wait, somebody_waits
from tests.calls.test_call import JOIN, SHORT, stood_in
from tests.calls.test_twilio import closed, dial, on_the_line
from tests.calls.webrtc import Caller

TIMES, AT_ONCE = 20, 5
SILENT = replace(SHORT, lines=())

Connect = Callable[[], Coroutine[Any, Any, str | None]]
"""Connects to a call and stays until the service hangs up; the code of a refusal."""


async def by_websocket(url: str) -> str | None:
    try:
        async with connect(url, proxy=None) as socket:
            with suppress(ConnectionClosed):
                async for _ in socket:
                    pass
    except InvalidStatus as refused:
        return str(json.loads(refused.response.body or b"{}")["code"])
    return None


async def end(served: Serving, joined: dict[str, Any]) -> dict[str, Any]:
    answer = await served.http.post(f"/api/bot/{joined['workflow_thread_id']}/end")
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    return said


async def accounted(served: Serving, joined: dict[str, Any]) -> tuple[Thread, list[dict[str, Any]]]:
    thread = await served.settled(joined["workflow_thread_id"])
    return thread, await served.service.database.get_thread_usage(thread.id)


async def test_a_call_that_is_ended_as_its_caller_connects_is_cancelled_or_hung_up(
    serving: Serve,
) -> None:
    async with stood_in(SILENT) as standing, serving(standing) as served:

        async def at_once(n: int) -> tuple[str | None, Thread, list[dict[str, Any]]]:
            joined = (await served.http.post("/api/bot/join", json=JOIN)).json()
            connecting = asyncio.create_task(by_websocket(joined["connection"]["url"]))
            await asyncio.sleep(n * 0.001)
            await end(served, joined)
            refused = await asyncio.wait_for(connecting, 30)
            return refused, *await accounted(served, joined)

        found = []
        for first in range(0, TIMES, AT_ONCE):
            tried = (at_once(n) for n in range(first, first + AT_ONCE))
            found += await asyncio.gather(*tried)
    for refused, thread, rows in found:
        if refused is None:
            assert (thread.status, thread.end_reason) == (Status.COMPLETED, "ended_by_api")
        else:
            assert (thread.status, rows) == (Status.CANCELLED, [])
            assert thread.connected_at is None
            assert refused in {"already_connected", "not_connectable"}


@asynccontextmanager
async def joined_by(
    kind: str, serving: Serve, standing: Any
) -> AsyncIterator[tuple[Serving, dict[str, Any], Connect]]:
    """A call that is joined, with all done that comes before connecting to it."""
    async with on_the_line(serving, standing) as line, httpx.AsyncClient(trust_env=False) as http:
        join = {**JOIN, "transport": {"type": kind}}
        answer = await line.served.http.post("/api/bot/join", json=join)
        assert answer.status_code == 201, answer.text
        joined = answer.json()
        url = joined["connection"]["url"]
        if kind == "websocket":
            yield line.served, joined, lambda: by_websocket(url)
        elif kind == "twilio":
            phone_call, noun = await line.answered(joined)

            async def stream() -> str | None:
                told = TwilioStream(phone_call, noun.parameters)
                async with dial(noun) as socket:
                    await socket.send(told.connected())
                    await socket.send(told.start())
                    code, reason = await closed(socket)
                return reason if code == 1008 else None

            yield line.served, joined, stream
        else:
            async with Caller(http, url) as caller:
                sdp = await caller.description()

                async def offer() -> str | None:
                    answered = await caller.offer(sdp)
                    code: str | None = answered.json().get("code")
                    return code

                yield line.served, joined, offer


KINDS = pytest.mark.parametrize("kind", ["websocket", "webrtc", "twilio"])


@KINDS
async def test_whoever_connects_first_has_a_call_that_is_hung_up(
    kind: str, serving: Serve, postgres_url: str
) -> None:
    async with (
        stood_in(SILENT) as standing,
        joined_by(kind, serving, standing) as (served, joined, connect),
    ):
        with held_at(postgres_url, "new.status = 'connecting'") as let_go:
            connecting = asyncio.create_task(connect())
            await somebody_waits(postgres_url)
            ending = asyncio.create_task(end(served, joined))
            await so_many_wait(postgres_url, 2)
            let_go()
            said = await ending
            refused = await asyncio.wait_for(connecting, 30)
        thread, _ = await accounted(served, joined)
    assert refused is None
    assert (said["status"], said["end_requested"]) == ("connecting", True)
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "ended_by_api")


@KINDS
async def test_whoever_connects_after_the_end_is_refused_and_nothing_runs(
    kind: str, serving: Serve, postgres_url: str
) -> None:
    async with (
        stood_in(SILENT) as standing,
        joined_by(kind, serving, standing) as (served, joined, connect),
    ):
        with held_at(postgres_url, "new.status = 'cancelled'") as let_go:
            ending = asyncio.create_task(end(served, joined))
            await somebody_waits(postgres_url)
            connecting = asyncio.create_task(connect())
            await so_many_wait(postgres_url, 2)
            let_go()
            said = await ending
            refused = await asyncio.wait_for(connecting, 30)
        thread, rows = await accounted(served, joined)
        running = served.service.calls.capacity.running
    assert refused == "already_connected"
    assert (said["status"], said["end_requested"]) == ("cancelled", False)
    assert (thread.status, thread.id, rows) == (
        Status.CANCELLED,
        UUID(joined["workflow_thread_id"]),
        [],
    )
    assert running == 0
