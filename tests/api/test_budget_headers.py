"""The budget's tier and what remains of it, on every answer to a key that has one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import httpx
import pytest

from flow.api.budget_headers import REMAINING_HEADER, TIER_HEADER
from flow.db.database import Database
from flow.db.postgres_transport import PostgresTransport
from flow.db.transport import Transport
from flow.errors import DatabaseUnavailable
from tests.api.conftest import Api, ServeApi, spend

NO_THREAD = "/api/threads/00000000-0000-4000-8000-000000000000"

ANSWERS = [
    (200, "GET", "/api/threads", None),
    (200, "GET", "/api/limits", None),
    (200, "GET", "/api/products", None),
    (200, "GET", "/api/usage", None),
    (201, "POST", "/api/bot/join", {}),
    (403, "POST", "/api/bot/join", {"product": "unheard_of"}),
    (404, "GET", NO_THREAD, None),
    (404, "GET", "/api/nothing/there", None),
    (405, "DELETE", "/api/threads", None),
    (422, "POST", "/api/bot/join", {"colour": "red"}),
    (422, "GET", "/api/threads?limit=0", None),
]


def said(response: httpx.Response) -> tuple[str | None, str | None]:
    """Tier and remaining USD, as the headers say."""
    return response.headers.get(TIER_HEADER), response.headers.get(REMAINING_HEADER)


async def budget(api: Api, client: httpx.AsyncClient, cap: str, spent: str = "0") -> None:
    """Give the client's key a budget of which so much is spent."""
    key = await api.key_of(client)
    thread_id = (await client.post("/api/bot/join", json={})).json()["workflow_thread_id"]
    await spend(api, thread_id, spent)
    await client.post(f"/api/bot/{thread_id}/end")
    await api.database.operating.set_budget(key.id, Decimal(cap))


@pytest.mark.parametrize(("status", "method", "path", "body"), ANSWERS)
async def test_every_answer_says_how_the_budget_stands(
    api: Api, status: int, method: str, path: str, body: Any
) -> None:
    await budget(api, api.client, "50", "8.80")
    for client in (api.client, api.as_key(api.client.headers["Authorization"].split()[1])):
        response = await client.request(method, path, json=body)
        assert (response.status_code, *said(response)) == (status, "ok", "41.20")
        without = await api.other.request(method, path, json=body)
        assert (without.status_code, *said(without)) == (status, None, None)


@pytest.mark.parametrize(
    ("spent", "expected"),
    [
        ("0", ("ok", "10.00")),
        ("8.499999", ("ok", "1.500001")),
        ("8.5", ("warn", "1.50")),
        ("9.5", ("engage", "0.50")),
        ("10", ("exceeded", "0.00")),
        ("11.25", ("exceeded", "0.00")),
    ],
)
async def test_the_tier_follows_what_is_spent(
    api: Api, spent: str, expected: tuple[str, str]
) -> None:
    await budget(api, api.client, "10", spent)
    assert said(await api.client.get("/api/threads")) == expected
    joined = await api.client.post("/api/bot/join", json={})
    assert (joined.status_code, *said(joined)) == (429 if expected[1] == "0.00" else 201, *expected)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/api/threads", {}, 401),
        ("/api/threads", {"X-API-Key": "flow_key_of_nobody"}, 401),
        ("/healthz", {}, 200),
        ("/openapi.json", {}, 200),
    ],
)
async def test_who_is_not_known_is_told_of_no_budget(
    api: Api, path: str, headers: dict[str, str], status: int
) -> None:
    response = await api.anonymous.get(path, headers=headers)
    assert (response.status_code, *said(response)) == (status, None, None)


async def test_a_cap_that_is_taken_away_is_not_spoken_of(api: Api) -> None:
    await budget(api, api.client, "10")
    await budget(api, api.client, "0")
    assert said(await api.client.get("/api/threads")) == (None, None)


class Ailing:
    """A transport of which some functions fail, or never answer."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.failing: set[str] = set()
        self.hanging: set[str] = set()

    async def call(self, function: str, args: Mapping[str, Any]) -> Any:
        if function in self.hanging:
            await asyncio.Event().wait()
        if function in self.failing:
            raise DatabaseUnavailable
        return await self._inner.call(function, args)

    async def close(self) -> None:
        await self._inner.close()


async def test_a_budget_that_cannot_be_read_is_unknown_and_fails_no_answer(
    serve_api: ServeApi, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ailing = Ailing(await PostgresTransport.open(postgres_url))
    api = await serve_api(database=Database(ailing))
    await budget(api, api.client, "10")
    ailing.failing = {"get_budget"}
    response = await api.client.get("/api/threads")
    assert (response.status_code, *said(response)) == (200, "unknown", None)
    ailing.failing = {"list_workflow_threads"}
    response = await api.client.get("/api/threads")
    assert (response.status_code, *said(response)) == (503, "unknown", None)
    monkeypatch.setattr("flow.api.budget_headers.LOOKUP_SECS", 0.05)
    ailing.failing, ailing.hanging = set(), {"get_budget"}
    response = await api.client.get("/api/threads")
    assert (response.status_code, *said(response)) == (200, "unknown", None)
    ailing.hanging = set()
    assert said(await api.client.get("/api/threads")) == ("ok", "10.00")
    await api.database.close()


async def test_the_header_of_a_join_is_the_budget_in_its_body(api: Api) -> None:
    await budget(api, api.client, "10", "9")
    response = await api.client.post("/api/bot/join", json={})
    told = response.json()["budget"]
    assert said(response) == (told["tier"], told["remaining_usd"]) == ("warn", "1.00")
    assert (told["cap_usd"], told["spent_usd"], told["reserved_usd"]) == ("10.00", "9.00", "0.10")
