"""A whole call whose customer is told of its end."""

from __future__ import annotations

import asyncio
from uuid import UUID

import httpx
import pytest

from flow.domain.webhooks.webhook import State
from flow.sandbox.callers.caller import call
from flow.sandbox.server import Served
from flow.sandbox.webhooks import WebhookReceiver
from flow.vendors.webhook_signing import new_secret
from tests.calls.conftest import SETTLE_SECS, Serve
from tests.calls.test_call import JOIN, SHORT, stood_in


async def test_the_end_of_a_call_is_told_as_the_api_shows_it(serving: Serve) -> None:
    app = WebhookReceiver()
    async with (
        stood_in(SHORT) as standing,
        Served(app) as url,
        serving(standing, debug=True, webhooks_allow_private=True) as served,
    ):
        join = JOIN | {"webhook_url": f"{url}/ended"}
        report = await call(served.url, standing.api_key, SHORT, join=join)
        thread = await served.settled(report.workflow_thread_id)
        webhooks = served.service.database.webhooks
        secret = (await webhooks.secrets(thread.api_key_id, new_secret())).current
        async with asyncio.timeout(SETTLE_SECS):
            while [one.state for one in (await webhooks.list()).items] != 2 * [State.DELIVERED]:
                await asyncio.sleep(0.05)
        delivery, _ = (await webhooks.list()).items
        app.trust(secret)
        await webhooks.replay(delivery.event_id)
        async with asyncio.timeout(SETTLE_SECS):
            while len(app.received) < 3:
                await asyncio.sleep(0.05)
        shown = (await served.http.get(f"/api/threads/{thread.id}")).json()
        # An attempt is counted once its answer is read, which is after it came here.
        delivered = 'flow_webhook_attempts_total{outcome="delivered"} 3.0'
        async with asyncio.timeout(SETTLE_SECS):
            while delivered not in (await served.http.get("/metrics")).text:
                await asyncio.sleep(0.05)
    started, first, again = app.received
    assert started.type == "thread.started"
    assert started.data["status"] == "in_call", "it is told while the call goes on"
    assert first == again, "the replay was verified, and is the same"
    assert (first.path, first.type) == ("/ended", "thread.completed")
    assert UUID(first.webhook_id) == delivery.event_id
    longer = {
        *("transcript", "request", "latency", "tool_calls", "variables"),
        *("node", "phone", "recording"),
    }
    assert set(shown) - set(first.data) == longer
    told = {name: shown[name] for name in first.data if name != "usage_stats"}
    assert told == {name: value for name, value in first.data.items() if name != "usage_stats"}
    stats = first.data["usage_stats"]
    assert float(stats["total_cost_usd"]) == pytest.approx(shown["usage_stats"]["total_cost_usd"])
    assert stats["total_tokens"] == shown["usage_stats"]["total_tokens"]


async def test_a_join_that_would_have_flow_call_its_own_network_is_refused(
    serving: Serve,
) -> None:
    async with stood_in(SHORT) as standing, serving(standing) as served:
        for url in ("https://10.0.0.7/", "http://hooks.example.com/", "https://localhost/"):
            answer = await served.http.post("/api/bot/join", json={"webhook_url": url})
            assert answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY
            assert [one["field"] for one in answer.json()["errors"]] == ["webhook_url"]
        threads = (await served.http.get("/api/threads")).json()["threads"]
    assert threads == []
