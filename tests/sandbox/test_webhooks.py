"""The stand-in for a customer's receiver."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from standardwebhooks import Webhook

from flow.sandbox.server import Served
from flow.sandbox.webhooks import WebhookReceiver

SECRET = "whsec_" + "c2FuZGJveC1zZWNyZXQtbm90LWEtc2VjcmV0ISE="
BODY = '{"type":"thread.failed","timestamp":"2026-11-21T12:00:00Z","data":{"n":1}}'


def headers(at: datetime, secret: str = SECRET, body: str = BODY) -> dict[str, str]:
    return {
        "webhook-id": "one",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign("one", at, body),
    }


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with (
        Served(WebhookReceiver(SECRET)) as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):
        yield client


async def test_only_what_is_rightly_signed_is_kept(http: httpx.AsyncClient) -> None:
    now = datetime.now(UTC)
    other = "whsec_" + "b3RoZXItc2FuZGJveC1zZWNyZXQtbm90LW9uZSEhISE="
    for status, given in (
        (204, headers(now)),
        (401, headers(now, other)),
        (401, headers(now, body=BODY.replace("1}", "2}"))),
        (401, headers(now - timedelta(minutes=6))),
        (401, {}),
    ):
        assert (await http.post("/hook", content=BODY, headers=given)).status_code == status
    (kept,) = (await http.get("/_sandbox/received")).json()
    assert kept == {
        "path": "/hook",
        "webhook_id": "one",
        "type": "thread.failed",
        "timestamp": "2026-11-21T12:00:00Z",
        "data": {"n": 1},
    }


async def test_it_is_told_its_secrets_and_its_faults_over_http(http: httpx.AsyncClient) -> None:
    assert (await http.put("/_sandbox/secrets", json=[])).json() == {"secrets": 0}
    assert (await http.post("/hook", content=BODY)).status_code == 204
    assert (await http.put("/_sandbox/secrets", json="x")).status_code == 400
    fault = {"kind": "status", "status": 410, "times": 1}
    await http.post("/_sandbox/faults", json=[fault])
    assert [(await http.post("/", content=BODY)).status_code for _ in range(2)] == [410, 204]
