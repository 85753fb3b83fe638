"""What is counted of requests and joins."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import generate_latest

from flow.db.database import Database
from flow.errors import DatabaseUnavailable
from flow.sandbox.faults import Fault
from flow.telemetry.metric_definitions import Metrics
from tests.api.conftest import Api, ServeApi
from tests.api.test_operations import Broken
from tests.telemetry.exposition import Scraped

OVERRIDE = {"x-posthog-budget-override": "true"}


def counted(api: Api) -> Scraped:
    metrics: Metrics = api.services.metrics
    return Scraped(generate_latest(metrics.registry).decode())


@pytest.mark.parametrize(
    ("outcome", "request_"),
    [
        ("created", {"json": {}}),
        ("invalid_request", {"json": {"nonsense": 1}}),
        ("malformed_request", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
        ("unsupported_media_type", {"content": b"a", "headers": {"Content-Type": "text/plain"}}),
        ("unknown_product", {"json": {"product": "no such product"}}),
        ("invalid_api_key", {"json": {}, "headers": {"Authorization": "Bearer wrong"}}),
        (
            "insufficient_permissions",
            {"json": {}, "headers": {"x-posthog-budget-override": "true"}},
        ),
    ],
)
async def test_a_join_counts_once_by_what_became_of_it(
    outcome: str, request_: dict[str, Any], api: Api
) -> None:
    await api.client.post("/api/bot/join", **request_)
    assert counted(api).by("flow_joins_total", "outcome") == {(outcome,): 1}


async def test_a_repeat_is_replayed_and_another_body_a_conflict(api: Api) -> None:
    headers = {"Idempotency-Key": "once"}
    for body in ({}, {}, {"metadata": {"a": 1}}):
        await api.client.post("/api/bot/join", json=body, headers=headers)
    assert counted(api).by("flow_joins_total", "outcome") == {
        ("created",): 1,
        ("replayed",): 1,
        ("idempotency_conflict",): 1,
    }


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(DatabaseUnavailable(), "database_unavailable"), (RuntimeError("no"), "failed")],
)
async def test_a_join_that_fails_is_counted_too(
    error: Exception, outcome: str, serve_api: ServeApi
) -> None:
    api = await serve_api(database=Database(Broken(error)))
    await api.client.post("/api/bot/join", json={})
    assert counted(api).by("flow_joins_total", "outcome") == {(outcome,): 1}


async def test_a_join_without_a_key_source_is_counted_as_that(api: Api) -> None:
    api.unkey.faults.add(Fault(kind="status", status=500))
    await api.client.post("/api/bot/join", json={})
    assert counted(api).by("flow_joins_total", "outcome") == {("auth_unavailable",): 1}


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/healthz", "/healthz", "200"),
        ("GET", "/api/threads", "/api/threads", "200"),
        ("GET", f"/api/threads/{'0' * 8}-0000-0000-0000-{'0' * 12}", None, "404"),
        ("POST", f"/api/bot/{'1' * 8}-0000-0000-0000-{'1' * 12}/end", None, "404"),
        ("PUT", "/api/threads", "/api/threads", "405"),
        ("GET", "/no/such/page", "unmatched", "404"),
        ("PURGE", "/healthz", "/healthz", "405"),
    ],
)
async def test_a_request_counts_for_its_route_and_never_for_its_path(
    method: str, path: str, route: str | None, status: str, api: Api
) -> None:
    await api.client.request(method, path)
    scraped = counted(api)
    ((labels, count),) = scraped.by("flow_http_requests_total", "route", "method", "status").items()
    assert count == 1
    assert labels[1:] == (method if method != "PURGE" else "other", status)
    assert labels[0] == route if route else "{thread_id:uuid}" in labels[0]
    assert scraped["flow_http_request_seconds_count"] == 1


async def test_a_request_refused_before_it_was_routed_counts_for_its_route(api: Api) -> None:
    await api.anonymous.get("/api/threads/11111111-0000-0000-0000-111111111111")
    routes = counted(api).by("flow_http_requests_total", "route", "status")
    assert routes == {("/api/threads/{thread_id:uuid}", "401"): 1}
