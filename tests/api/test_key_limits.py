"""Limits on the API: what a join over one is told, and what a key can read about its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from flow.api.joins import OVERRIDE_PERMISSION
from flow.api.key_limits import Limits
from flow.domain.limits.permissions import TEAM_LIMITS
from flow.domain.products.product import Product, Products
from flow.sandbox.quota import TOKEN, Quota, QuotaSandbox
from flow.sandbox.server import Served
from flow.vendors.quota_cache import QuotaSource
from tests.api.conftest import Api, ServeApi, spend

PRODUCTS = Products(
    [
        Product(
            "voice_bot",
            billable=True,
            reservation_usd=Decimal("0.50"),
            reservation_secs=60,
            concurrency_per_key=2,
        ),
        Product("insights", billable=True, calls=False),
    ]
)
OVERRIDE = "x-posthog-budget-override"


@pytest.fixture
async def api(serve_api: ServeApi) -> Api:
    """An API whose calls reserve half a dollar and a minute, two at once for each key."""
    return await serve_api(products=PRODUCTS)


def next_month() -> datetime:
    """When the month (UTC) that this is ends."""
    return (datetime.now(UTC).replace(day=1) + timedelta(days=32)).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )


async def spent(api: Api, usd: str) -> None:
    """Let the key of ``client`` have had a call that cost so much."""
    thread_id = (await api.join())["workflow_thread_id"]
    await spend(api, thread_id, usd)
    assert (await api.client.post(f"/api/bot/{thread_id}/end")).status_code == httpx.codes.OK


async def threads(client: httpx.AsyncClient) -> list[Any]:
    found: list[Any] = (await client.get("/api/threads")).json()["threads"]
    return found


async def limits(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    """Every limit as the key is shown it, by resource and scope."""
    found = (await client.get("/api/limits")).json()["limits"]
    return sorted(found, key=lambda one: (one["resource"], one["scope"]))


async def limit(client: httpx.AsyncClient, resource: str) -> dict[str, Any]:
    """The one limit of that resource, as the key is shown it."""
    limits = (await client.get("/api/limits")).json()["limits"]
    (found,) = [one for one in limits if one["resource"] == resource]
    return found


@pytest.mark.parametrize(
    ("limit", "calls", "code", "resource", "waits"),
    [
        ("budget 1", 0, "budget_exceeded", "budget_usd", "month"),
        ("budget 1.75", 1, "budget_exceeded", "budget_usd", "call"),
        ("ai_credits 100", 0, "quota_exceeded", "ai_credits", "month"),
        ("ai_credits 175", 1, "quota_exceeded", "ai_credits", "call"),
        ("call_seconds 100", 1, "quota_exceeded", "call_seconds", "call"),
        ("call_seconds 0", 0, "quota_exceeded", "call_seconds", "month"),
        ("concurrent_calls 1", 1, "concurrency_exceeded", "concurrent_calls", "call"),
        ("none", 2, "concurrency_exceeded", "concurrent_calls", "call"),
    ],
)
async def test_a_join_over_a_limit_makes_nothing_and_says_what_was_reached(
    api: Api, limit: str, calls: int, code: str, resource: str, waits: str
) -> None:
    await spent(api, "1")
    key = await api.key_of(api.client)
    name, _, amount = limit.partition(" ")
    if name == "budget":
        await api.database.operating.set_budget(key.id, Decimal(amount))
    elif amount:
        await api.database.operating.set_team_quota(key.team_id, name, Decimal(amount))
    for _ in range(calls):
        await api.join()
    before = await threads(api.client)
    response = await api.client.post("/api/bot/join", json={})
    problem = response.json()
    assert (response.status_code, problem["code"]) == (429, code)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"] == str(problem["retry_after"])
    left = (next_month() - datetime.now(UTC)).total_seconds()
    assert problem["retry_after"] == (5 if waits == "call" else pytest.approx(left, abs=30))
    assert problem["detail"].endswith(".")
    assert problem["limit"]["resource"] == resource
    assert problem["limit"]["limited"] or waits == "call"
    assert await threads(api.client) == before
    listed = (await api.client.get("/api/limits")).json()["limits"]
    facts = ("resource", "scope", "product", "used", "reserved", "limit", "resets_at")
    reached = {name: problem["limit"][name] for name in facts}
    assert reached in [{name: one[name] for name in facts} for one in listed]


async def test_a_repeated_join_is_answered_whatever_the_limits_are(api: Api) -> None:
    headers = {"Idempotency-Key": "once"}
    first = await api.join(headers=headers)
    await spend(api, first["workflow_thread_id"], "5")
    key = await api.key_of(api.client)
    await api.database.operating.set_budget(key.id, Decimal(1))
    await api.database.operating.set_team_quota(key.team_id, "concurrent_calls", Decimal(0))
    again = await api.client.post("/api/bot/join", json={}, headers=headers)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    assert again.json()["workflow_thread_id"] == first["workflow_thread_id"]
    assert again.json()["budget"]["tier"] == "exceeded"
    headers = {"Idempotency-Key": "another"}
    assert (await api.client.post("/api/bot/join", json={}, headers=headers)).status_code == 429


async def test_a_key_that_may_override_its_budget_says_so_for_each_call(api: Api) -> None:
    client = api.as_key(api.new_key("team_a", [OVERRIDE_PERMISSION]))
    key = await api.key_of(client)
    thread_id = (await client.post("/api/bot/join", json={})).json()["workflow_thread_id"]
    await spend(api, thread_id, "5")
    await client.post(f"/api/bot/{thread_id}/end")
    await api.database.operating.set_budget(key.id, Decimal(1))
    for headers in ({}, {OVERRIDE: "false"}):
        refused = await client.post("/api/bot/join", json={}, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (429, "budget_exceeded")
    joined = await client.post("/api/bot/join", json={}, headers={OVERRIDE: "true"})
    assert joined.status_code == 201
    assert joined.headers["x-posthog-budget"] == joined.json()["budget"]["tier"] == "override"
    await api.database.operating.set_team_quota("team_a", "concurrent_calls", Decimal(1))
    refused = await client.post("/api/bot/join", json={}, headers={OVERRIDE: "true"})
    assert (refused.status_code, refused.json()["code"]) == (429, "concurrency_exceeded")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ([(OVERRIDE, "true")], 403, "insufficient_permissions"),
        ([(OVERRIDE, "yes")], 422, "invalid_request"),
        ([(OVERRIDE, "TRUE")], 422, "invalid_request"),
        ([(OVERRIDE, "")], 422, "invalid_request"),
        ([(OVERRIDE, "true"), (OVERRIDE, "true")], 422, "invalid_request"),
        ([(OVERRIDE, "false"), (OVERRIDE, "true")], 422, "invalid_request"),
    ],
)
async def test_no_other_key_overrides_its_budget(
    api: Api, headers: list[tuple[str, str]], status: int, code: str
) -> None:
    response = await api.client.post("/api/bot/join", json={}, headers=headers)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert await threads(api.client) == []


async def test_every_limit_of_the_key_is_shown(api: Api) -> None:
    await spent(api, "1.20")
    key = await api.key_of(api.client)
    await api.database.operating.set_budget(key.id, Decimal(2))
    await api.database.operating.set_team_quota(key.team_id, "ai_credits", Decimal("170.5"))
    await api.database.operating.set_team_quota(key.team_id, "call_seconds", Decimal(60))
    await api.join()
    response = await api.client.get("/api/limits")
    Limits.model_validate_json(response.content, strict=True)
    anew = next_month().isoformat().replace("+00:00", "Z")
    assert response.json()["budget"] == {
        "tier": "ok",
        "cap_usd": "2.00",
        "spent_usd": "1.20",
        "reserved_usd": "0.50",
        "remaining_usd": "0.80",
        "resets_at": anew,
    }
    common = {"source": "flow", "status": "ok"}
    shown = [
        ("ai_credits", "team", None, "120", "50", "170.5", False, anew),
        ("budget_usd", "key", None, "1.2", "0.5", "2", False, anew),
        ("call_seconds", "team", None, "0", "60", "60", True, anew),
        ("concurrent_calls", "key", "voice_bot", "1", "0", "2", False, None),
        ("concurrent_calls", "team", None, "1", "0", None, False, None),
    ]
    names = ("resource", "scope", "product", "used", "reserved", "limit", "limited", "resets_at")
    rows = [{**dict(zip(names, one, strict=True)), **common} for one in shown]
    seeing = api.as_key(api.new_key("team_a", [TEAM_LIMITS]))
    of_team = [one for one in rows if one["scope"] == "team"]
    assert [one for one in await limits(seeing) if one["scope"] == "team"] == of_team
    # What others of the team used is not this key's to know.
    unseen = {"used": None, "reserved": None}
    assert await limits(api.client) == [
        {**one, **unseen} if one["scope"] == "team" else one for one in rows
    ]


async def test_a_lifted_budget_limits_nothing(api: Api) -> None:
    await spent(api, "1")
    key = await api.key_of(api.client)
    await api.database.operating.set_budget(key.id, Decimal(1))
    assert (await limit(api.client, "budget_usd"))["limited"]
    await api.database.operating.set_budget_override(key.id, datetime.now(UTC) + timedelta(hours=1))
    assert not (await limit(api.client, "budget_usd"))["limited"]
    assert (await api.client.get("/api/limits")).json()["budget"]["tier"] == "override"
    await api.join()


async def test_no_key_sees_the_limits_of_another(api: Api) -> None:
    await spent(api, "3")
    key, sibling = await api.key_of(api.client), api.as_key(api.new_key("team_a"))
    await api.database.operating.set_budget(key.id, Decimal(10))
    await api.database.operating.set_team_quota(key.team_id, "ai_credits", Decimal(1000))
    stranger = (await api.other.get("/api/limits")).json()
    assert {one["limit"] for one in stranger["limits"]} == {None, "2"}
    assert {one["used"] for one in stranger["limits"]} == {"0", None}
    of_team = (await sibling.get("/api/limits")).json()
    facts = {one["resource"]: (one["used"], one["limit"]) for one in of_team["limits"]}
    assert (facts["budget_usd"], facts["ai_credits"]) == (("0", None), (None, "1000"))
    for answer in (stranger, of_team):
        assert {answer["budget"][name] for name in ("cap_usd", "spent_usd")} == {None}


async def test_who_has_no_key_sees_no_limits(api: Api) -> None:
    for path in ("/api/limits", "/api/products"):
        assert (await api.anonymous.get(path)).status_code == 401


async def test_a_billing_service_has_its_say_before_anything_is_made(serve_api: ServeApi) -> None:
    billing = QuotaSandbox()
    async with Served(billing) as url:
        quotas = QuotaSource(f"{url}/quota", token=SecretStr(TOKEN), reuse_secs=0)
        api = await serve_api(products=PRODUCTS, quotas=quotas)
        billing.set_quota("team_a", Quota(limited=True, resource="minutes", used="90", limit="90"))
        refused = await api.client.post("/api/bot/join", json={})
        assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
        assert refused.json()["limit"]["source"] == "external"
        assert await threads(api.client) == []
        assert (await api.other.post("/api/bot/join", json={})).status_code == 201
        facts = ("resource", "used", "limited")
        seeing = api.as_key(api.new_key("team_a", [TEAM_LIMITS]))
        for client, used in ((api.client, None), (seeing, "90")):
            (external,) = await _external(client)
            assert [external[name] for name in facts] == ["minutes", used, True]
    # Nothing is known of this team, and now nobody is there to ask.
    stranger = api.as_key(api.new_key("team_c"))
    unknown = await stranger.post("/api/bot/join", json={})
    assert (unknown.status_code, "retry-after" in unknown.headers) == (503, True)
    assert await threads(stranger) == []
    (external,) = await _external(stranger)
    assert (external["status"], external["limited"]) == ("unavailable", True)
    await quotas.aclose()


async def test_a_repeated_join_gets_its_thread_whatever_has_happened_since(
    serve_api: ServeApi,
) -> None:
    billing = QuotaSandbox()
    async with Served(billing) as url:
        quotas = QuotaSource(f"{url}/quota", token=SecretStr(TOKEN), reuse_secs=0)
        api = await serve_api(products=PRODUCTS, quotas=quotas)
        billing.set_quota("team_a", Quota(limited=False))
        key = {"Idempotency-Key": "once"}
        first = await api.join(headers=key)
        billing.set_quota("team_a", Quota(limited=True))
        api.calls.has_room = False
        again = await api.client.post("/api/bot/join", json={}, headers=key)
        assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
        assert again.json()["workflow_thread_id"] == first["workflow_thread_id"]
        other = await api.client.post("/api/bot/join", json={"metadata": {"b": 1}}, headers=key)
        assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
        assert (await api.client.post("/api/bot/join", json={})).status_code == 429
    await quotas.aclose()


async def _external(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    limits = (await client.get("/api/limits")).json()["limits"]
    return [one for one in limits if one["source"] == "external"]
