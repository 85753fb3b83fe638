"""Processes that are told to stop: what still runs goes on, nothing new begins, nothing is lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from flow.db.database import Database
from flow.domain.calls.thread import Status, Thread
from flow.sandbox.all_vendors import Vendors
from flow.sandbox.callers.caller import CallReport
from flow.sandbox.callers.script import AfterBot
from flow.sandbox.reconcile import reconcile
from tests.calls.calling import Calling
from tests.calls.conftest import SETTLE_SECS
from tests.calls.processes import FlowProcess, flow_serve, flow_worker
from tests.calls.test_call import LONG, SHORT, stood_in

ENDLESS = replace(LONG, hang_up=AfterBot(60.0))
BOTH = replace(SHORT, lines=SHORT.lines + LONG.lines, token_secs=0.02)


@asynccontextmanager
async def customer(serving: FlowProcess, standing: Vendors) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {standing.api_key}"}
    async with httpx.AsyncClient(
        base_url=serving.url, headers=headers, timeout=30, trust_env=False
    ) as http:
        yield http


async def shutting_down(http: httpx.AsyncClient) -> dict[str, Any]:
    """What ``/readyz`` says once it says so."""
    async with asyncio.timeout(SETTLE_SECS):
        while True:
            ready = await http.get("/readyz")
            if ready.status_code == 503:
                said: dict[str, Any] = ready.json()
                return said
            await asyncio.sleep(0.05)


async def refuses_calls(http: httpx.AsyncClient, waiting: dict[str, Any]) -> None:
    """No join, and no connection to what was joined before; everything else is answered."""
    assert (await http.get("/healthz")).status_code == 200
    refused = await http.post("/api/bot/join", json={})
    assert (refused.status_code, refused.json()["code"]) == (503, "shutting_down")
    assert int(refused.headers["retry-after"]) == refused.json()["retry_after"] > 0
    with pytest.raises(InvalidStatus) as handshake:
        await connect(waiting["connection"]["url"])
    assert handshake.value.response.status_code == 503
    assert "Retry-After" in handshake.value.response.headers
    thread_id = waiting["workflow_thread_id"]
    assert (await http.get(f"/api/threads/{thread_id}")).json()["status"] == "created"
    assert (await http.get("/api/usage")).status_code == 200
    ended = await http.post(f"/api/bot/{thread_id}/end")
    assert ended.json()["status"] == "cancelled"


async def accounted(
    database: Database, standing: Vendors, reports: list[CallReport]
) -> list[Thread]:
    """The threads, settled, after holding their ledger against everything that repeats it."""
    rows, threads = [], []
    for report in reports:
        thread = await database.get_workflow_thread_data(UUID(report.workflow_thread_id))
        own = await database.get_thread_usage(thread.id)
        total = sum((Decimal(row["total_cost_usd"]) for row in own), Decimal(0))
        assert Decimal(thread.usage_stats["total_cost_usd"]) == total > 0
        rows += own
        threads.append(thread)
    assert len({row["id"] for row in rows}) == len(rows)
    async with asyncio.timeout(SETTLE_SECS):
        lines = await standing.openai.bill.settled()
    assert [one for one in reconcile(rows, lines) if not one.agrees] == []
    return threads


async def test_workers_drain_and_what_they_carried_is_accounted(
    database: Database, postgres_url: str, tmp_path: Path
) -> None:
    """All processes of the server are signalled, as systemd and a terminal do."""
    async with (
        stood_in(BOTH) as standing,
        flow_serve(
            standing,
            postgres_url,
            tmp_path,
            "--workers",
            "2",
            is_forked=False,
            FLOW_DRAIN_SECS="10",
        ) as serving,
        customer(serving, standing) as http,
    ):
        waiting = (await http.post("/api/bot/join", json={})).json()
        calls = [Calling(serving.url, standing, script) for script in (ENDLESS, ENDLESS)]
        for each in calls:
            await each.talking()
        serving.signal_all(signal.SIGTERM)
        said = await shutting_down(http)
        assert said["reason"] == said["checks"]["calls"] == "shutting_down"
        await refuses_calls(http, waiting)
        assert (await http.post(f"/api/bot/{calls[0].thread_id}/end")).status_code == 200
        reports = [await each.over() for each in calls]
        assert await serving.wait(60) == 0
        threads = await accounted(database, standing, reports)
    assert [thread.end_reason for thread in threads] == ["ended_by_api", "shutdown"]
    assert [report.closed for report in reports] == ["1000 ended_by_api", "1012 shutdown"]
    assert {thread.status for thread in threads} == {Status.COMPLETED}
    for thread in threads:
        # One in which the caller had not spoken yet has nothing to extract.
        assert (thread.insights or {})["status"] in {"ok", "skipped"}


async def test_a_rolling_restart_drops_no_call(
    database: Database, postgres_url: str, tmp_path: Path
) -> None:
    """The new process takes calls before the old one is told to stop."""
    async with stood_in(BOTH) as standing, flow_serve(standing, postgres_url, tmp_path) as old:
        first = Calling(old.url, standing, SHORT)
        async with flow_serve(standing, postgres_url, tmp_path) as new:
            await first.talking()
            old.terminate()
            second = Calling(new.url, standing, SHORT)
            reports = [await first.over(), await second.over()]
            assert await old.wait(60) == 0
            new.signal(signal.SIGINT)
            assert await new.wait(60) == 0
        threads = await accounted(database, standing, reports)
    assert {thread.end_reason for thread in threads} == {"caller_hung_up"}
    assert {thread.status for thread in threads} == {Status.COMPLETED}


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_second_signal_ends_it_at_once(
    workers: str, postgres_url: str, tmp_path: Path
) -> None:
    async with (
        stood_in(BOTH) as standing,
        flow_serve(
            standing,
            postgres_url,
            tmp_path,
            "--workers",
            workers,
            is_forked=False,
            FLOW_DRAIN_SECS="3600",
        ) as serving,
        customer(serving, standing) as http,
    ):
        calling = Calling(serving.url, standing, ENDLESS)
        await calling.talking()
        serving.terminate()
        await shutting_down(http)
        serving.terminate()
        status = await serving.wait(20)
        await asyncio.gather(calling.over(), return_exceptions=True)
        with pytest.raises(httpx.TransportError):
            await http.get("/healthz")
    assert status == -signal.SIGTERM
    async with asyncio.timeout(SETTLE_SECS):
        while serving.is_there:
            await asyncio.sleep(0.05)


async def test_a_worker_answers_about_itself_alone_and_stops(
    postgres_url: str, tmp_path: Path
) -> None:
    async with (
        stood_in(SHORT) as standing,
        flow_worker(standing, postgres_url, tmp_path, answers=True) as working,
        httpx.AsyncClient(base_url=working.url, trust_env=False) as http,
    ):
        assert (await http.get("/readyz")).json()["status"] == "ready"
        assert "flow_calls_capacity 20.0" in (await http.get("/metrics")).text
        for path in ("/api/products", "/docs", "/openapi.json"):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert await working.stopped() == 0
