"""Health, numbers, the description of the API, and what a broken database looks like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry, Counter
from structlog.testing import capture_logs

from flow.db.database import Database
from flow.errors import ConfigurationError, DatabaseUnavailable
from flow.sandbox.faults import Fault
from tests.api.conftest import NO_MORE, Api, ServeApi


class Broken:
    """A transport to a database that fails in one way."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0

    async def call(self, function: str, args: Mapping[str, Any]) -> Any:
        self.calls += 1
        raise self.error

    async def close(self) -> None: ...


async def test_a_process_that_serves_is_healthy_and_ready(api: Api) -> None:
    assert (await api.anonymous.get("/healthz")).json() == {"status": "ok"}
    ready = await api.anonymous.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {
        "status": "ready",
        "reason": None,
        "checks": {"database": "ok", "keys": "ok", "calls": "ok"},
        "calls": {"running": 1, "capacity": 2},
    }


@NO_MORE
async def test_a_process_that_takes_no_calls_is_healthy_but_not_ready(code: str, api: Api) -> None:
    """At once: what was asked of database and key source a moment ago does not hide it."""
    assert (await api.anonymous.get("/readyz")).status_code == 200
    api.calls.take_no_more(code)
    ready = await api.anonymous.get("/readyz")
    assert ready.status_code == 503
    assert (ready.json()["status"], ready.json()["reason"]) == ("unavailable", code)
    assert ready.json()["checks"] == {"database": "ok", "keys": "ok", "calls": code}
    assert (await api.anonymous.get("/healthz")).status_code == 200


async def test_without_a_database_it_is_healthy_but_not_ready(serve_api: ServeApi) -> None:
    transport = Broken(DatabaseUnavailable())
    api = await serve_api(database=Database(transport))
    assert (await api.anonymous.get("/healthz")).status_code == 200
    for _ in range(20):
        ready = await api.anonymous.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["reason"] == "database_unavailable"
        assert ready.json()["checks"] == {"database": "unavailable", "keys": "ok", "calls": "ok"}
    assert transport.calls < 20


async def test_without_a_key_source_it_is_not_ready(api: Api) -> None:
    api.unkey.faults.add(Fault(kind="status", status=500))
    ready = await api.anonymous.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["reason"] == "auth_unavailable"
    assert ready.json()["checks"]["keys"] == "unavailable"


async def test_without_a_database_every_call_says_so(serve_api: ServeApi) -> None:
    api = await serve_api(database=Database(Broken(DatabaseUnavailable())))
    requests = [
        ("POST", "/api/bot/join"),
        ("GET", "/api/threads"),
        ("GET", f"/api/threads/{uuid4()}"),
        ("GET", "/api/usage"),
        ("POST", f"/api/bot/{uuid4()}/end"),
    ]
    for method, path in requests:
        response = await api.client.request(method, path)
        assert response.status_code == 503
        assert response.json()["code"] == "database_unavailable"
        assert int(response.headers["retry-after"]) == response.json()["retry_after"] > 0


async def test_what_nobody_foresaw_is_answered_without_its_details(serve_api: ServeApi) -> None:
    api = await serve_api(database=Database(Broken(RuntimeError("password=1234"))))
    with capture_logs() as logs:
        response = await api.client.get("/api/threads")
    assert response.status_code == 500
    assert response.json()["code"] == "internal_error"
    assert "1234" not in response.text
    (failure,) = [log for log in logs if log["event"] == "request_failed"]
    assert failure["request_id"] == response.json()["request_id"]
    assert (await api.anonymous.get("/healthz")).status_code == 200


async def test_the_numbers_are_those_of_the_registry(serve_api: ServeApi) -> None:
    registry = CollectorRegistry()
    Counter("flow_test", "A test.", registry=registry).inc(3)
    api = await serve_api(registry=registry)
    response = await api.anonymous.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert "flow_test_total 3.0" in response.text


async def test_a_request_is_logged_with_its_key_and_without_its_query(api: Api) -> None:
    with capture_logs() as logs:
        response = await api.client.get("/api/threads?limit=7")
    (log,) = [log for log in logs if log["event"] == "request"]
    assert (log["method"], log["path"], log["status"]) == ("GET", "/api/threads", 200)
    assert log["request_id"] == response.headers["x-request-id"]
    assert log["api_key_id"]
    assert "limit" not in str(logs)


async def test_a_secret_too_short_to_sign_with_is_refused(serve_api: ServeApi) -> None:
    with pytest.raises(ConfigurationError):
        await serve_api(secret=b"short")


async def test_the_description_names_keys_errors_and_bodies(api: Api) -> None:
    described = (await api.anonymous.get("/openapi.json")).json()
    schemas = described["components"]["schemas"]
    references = _references(described)
    assert references <= {f"#/components/schemas/{name}" for name in schemas}
    assert "#/components/schemas/JoinRequest" in references
    for path, operations in described["paths"].items():
        for operation in operations.values():
            assert bool(operation.get("security")) == path.startswith(
                ("/api/", "/start", "/sessions/")
            )
            assert operation["description"]
            for status, answer in operation["responses"].items():
                if int(status) >= 400 and path.startswith("/api/"):
                    assert list(answer["content"]) == ["application/problem+json"]
            by_token = path in {
                "/api/bot/{thread_id}/offer",
                "/api/bot/{thread_id}/end",
                "/api/threads/{thread_id}/events",
            }
            assert ({"join_token": []} in operation.get("security", [])) == by_token
            if path.startswith("/api/"):
                assert {"400", "401", "403", "429", "503"} <= operation["responses"].keys()


def _references(part: Any) -> set[str]:
    if isinstance(part, dict):
        own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
        return own.union(*(_references(each) for each in part.values()))
    if isinstance(part, list):
        return set().union(*(_references(each) for each in part))
    return set()
