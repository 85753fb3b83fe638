"""Unkey's SDK against the stand-in."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unkey.py import Unkey, errors, models

from flow.kit.tls import trusted
from flow.sandbox.faults import Fault
from flow.sandbox.unkey.app import ROOT_KEY, UnkeySandbox
from flow.sandbox.unkey.keys import Key, Ratelimit, hash_of, verify
from tests.sandbox.conftest import Server

FREE = {"cost": 0}
NOW = 1_800_000_000_000


@pytest.fixture
def vendor() -> UnkeySandbox:
    return UnkeySandbox(now_ms=lambda: NOW)


async def sdk(server: Server, vendor: UnkeySandbox, root_key: str = ROOT_KEY) -> Unkey:
    return Unkey(
        root_key=root_key,
        server_url=await server.url(vendor),
        client=httpx.Client(verify=trusted()),
        async_client=httpx.AsyncClient(verify=trusted()),
        retry_config=None,
    )


async def code_of(unkey: Unkey, key: str, **options: Any) -> str:
    answer = await unkey.keys.verify_key_async(key=key, retries=None, **options)
    assert answer.data.valid == (answer.data.code == models.Code.VALID)
    return str(answer.data.code.value)


async def test_a_valid_key_tells_all_there_is_to_know(server: Server, vendor: UnkeySandbox) -> None:
    key_id = vendor.add_key(
        "secret",
        name="Ada's",
        team_id="team-7",
        meta={"plan": "pro"},
        expires=NOW + 1,
        credits=5,
        permissions=["calls.join"],
        roles=["caller"],
        ratelimits=[Ratelimit("calls", limit=2, duration=60_000)],
    )
    unkey = await sdk(server, vendor)
    answer = await unkey.keys.verify_key_async(key="secret", credits=FREE)
    assert answer.meta.request_id == vendor.requests[0].request_id
    data = answer.data
    assert (data.valid, data.code, data.key_id) == (True, models.Code.VALID, key_id)
    assert (data.name, data.meta, data.enabled) == ("Ada's", {"plan": "pro"}, True)
    assert (data.expires, data.credits) == (NOW + 1, 5)
    assert (data.permissions, data.roles) == (["calls.join"], ["caller"])
    assert data.identity is not None
    assert data.identity.external_id == "team-7"
    assert data.ratelimits is not None
    assert (data.ratelimits[0].name, data.ratelimits[0].remaining) == ("calls", 1)


async def test_nothing_is_in_the_answer_that_the_sdk_does_not_know(
    server: Server, vendor: UnkeySandbox
) -> None:
    vendor.add_key("secret", team_id="t", credits=3, ratelimits=[Ratelimit("calls", 2, 60_000)])
    http = await server.http(vendor)
    answer = await http.post(
        "/v2/keys.verifyKey",
        json={"key": "secret"},
        headers={"authorization": f"Bearer {ROOT_KEY}"},
    )
    raw = answer.json()
    assert models.V2KeysVerifyKeyResponseBody.model_validate(raw).model_dump(
        by_alias=True, mode="json"
    ) == {**raw}


async def test_every_code(server: Server, vendor: UnkeySandbox) -> None:
    unkey = await sdk(server, vendor)
    vendor.add_key("VALID")
    vendor.add_key("DISABLED", enabled=False)
    vendor.add_key("EXPIRED", expires=NOW)
    vendor.add_key("USAGE_EXCEEDED", credits=0)
    vendor.add_key("RATE_LIMITED", ratelimits=[Ratelimit("calls", limit=0, duration=1000)])
    vendor.key(vendor.add_key("FORBIDDEN")).forbidden = True
    vendor.remove_key(vendor.add_key("NOT_FOUND"))
    codes = ["VALID", "DISABLED", "EXPIRED", "USAGE_EXCEEDED", "RATE_LIMITED", "FORBIDDEN"]
    for code in [*codes, "NOT_FOUND"]:
        assert await code_of(unkey, code) == code
    assert await code_of(unkey, "VALID", permissions="calls.join") == "INSUFFICIENT_PERMISSIONS"


async def test_leaving_credits_out_deducts_one_and_a_cost_of_zero_none(
    server: Server, vendor: UnkeySandbox
) -> None:
    key_id = vendor.add_key("secret", credits=3)
    unkey = await sdk(server, vendor)
    left = []
    for options in ({"credits": FREE}, {}, {"credits": {"cost": 2}}, {}):
        await code_of(unkey, "secret", **options)
        left.append(vendor.key(key_id).credits)
    assert left == [3, 2, 0, 0]
    assert [v.code for v in vendor.verifications] == ["VALID"] * 3 + ["USAGE_EXCEEDED"]
    assert await code_of(unkey, "secret", credits=FREE) == "VALID"


async def test_a_key_can_be_disabled_and_expire_while_in_use(
    server: Server, vendor: UnkeySandbox
) -> None:
    key_id = vendor.add_key("secret")
    unkey = await sdk(server, vendor)
    vendor.key(key_id).enabled = False
    assert await code_of(unkey, "secret") == "DISABLED"
    vendor.key(key_id).enabled = True
    vendor.key(key_id).expires = NOW - 1
    assert await code_of(unkey, "secret") == "EXPIRED"


async def test_verifications_are_logged_without_the_secret(
    server: Server, vendor: UnkeySandbox
) -> None:
    vendor.add_key("a very secret key")
    unkey = await sdk(server, vendor)
    await code_of(unkey, "a very secret key", credits=FREE)
    await code_of(unkey, "an unknown secret")
    http = await server.http(vendor)
    shown = await http.get("/_sandbox/verifications")
    assert shown.json() == [asdict(one) for one in vendor.verifications]
    assert [one["key_hash"] for one in shown.json()] == [
        hash_of("a very secret key"),
        hash_of("an unknown secret"),
    ]
    assert [one["cost"] for one in shown.json()] == [0, 1]
    assert "secret key" not in shown.text


# --- errors ---------------------------------------------------------------------------------


async def test_a_wrong_root_key_is_unauthorized(server: Server, vendor: UnkeySandbox) -> None:
    unkey = await sdk(server, vendor, root_key="another")
    with pytest.raises(errors.UnauthorizedErrorResponse) as refused:
        await unkey.keys.verify_key_async(key="secret")
    assert refused.value.data.error.status == 401
    assert not vendor.verifications


async def test_a_root_key_that_may_not_verify_is_forbidden(server: Server) -> None:
    unkey = await sdk(server, UnkeySandbox(may_verify=False))
    with pytest.raises(errors.ForbiddenErrorResponse) as refused:
        await unkey.keys.verify_key_async(key="secret")
    assert "verify_key" in refused.value.data.error.detail


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, errors.BadRequestErrorResponse),
        (401, errors.UnauthorizedErrorResponse),
        (403, errors.ForbiddenErrorResponse),
        (404, errors.NotFoundErrorResponse),
        (429, errors.TooManyRequestsErrorResponse),
        (500, errors.InternalServerErrorResponse),
        (503, errors.APIError),
    ],
)
async def test_a_status_told_to_the_stand_in_is_the_sdk_s_error(
    server: Server, vendor: UnkeySandbox, status: int, error: type[Exception]
) -> None:
    unkey = await sdk(server, vendor)
    vendor.faults.add(Fault(kind="status", status=status))
    with pytest.raises(error):
        await unkey.keys.verify_key_async(key="secret", retries=None)
    assert len(vendor.requests) == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(kind="drop"), httpx.RemoteProtocolError),
        (Fault(kind="hang"), httpx.ReadTimeout),
        (Fault(kind="malformed"), errors.ResponseValidationError),
        (Fault(kind="content_type"), errors.APIError),
        (Fault(kind="status", status=200, body={"data": {}}), errors.ResponseValidationError),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
async def test_other_faults_are_what_the_sdk_makes_of_them(
    server: Server, vendor: UnkeySandbox, fault: Fault, error: type[Exception]
) -> None:
    unkey = await sdk(server, vendor)
    vendor.add_key("secret")
    vendor.faults.add(fault)
    with pytest.raises(error):
        await unkey.keys.verify_key_async(key="secret", retries=None, timeout_ms=1_000)


@pytest.mark.parametrize(
    "body", [{}, {"key": ""}, {"key": "k", "credits": {"cost": -1}}, {"key": "k", "more": 1}, []]
)
async def test_a_wrong_body_is_a_bad_request_with_its_places(
    server: Server, vendor: UnkeySandbox, body: Any
) -> None:
    http = await server.http(vendor)
    headers = {"authorization": f"Bearer {ROOT_KEY}"}
    answer = await http.post("/v2/keys.verifyKey", json=body, headers=headers)
    assert answer.status_code == 400
    parsed = errors.BadRequestErrorResponseData.model_validate(answer.json())
    assert parsed.error.errors[0].location.startswith("body")


# --- rules ----------------------------------------------------------------------------------


def a_key(**more: Any) -> Key:
    return Key(id="key_1", hash="h", start="s", created_at=0, **more)


@pytest.mark.parametrize(
    ("query", "held", "allowed"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a AND b", "a", False),
        ("a OR b AND c", "a", True),
        ("(a OR b) AND c", "a", False),
        ("(a OR b) and c", "bc", True),
    ],
)
def test_a_permission_query_is_read_as_logic(query: str, held: str, allowed: bool) -> None:
    verdict = verify(a_key(permissions=list(held)), {"permissions": query}, NOW)
    assert verdict["valid"] == allowed


@pytest.mark.parametrize("query", ["a AND", "(a", "a b", ")", "OR a"])
async def test_a_permission_query_that_is_none_is_a_bad_request(
    server: Server, vendor: UnkeySandbox, query: str
) -> None:
    vendor.add_key("secret")
    unkey = await sdk(server, vendor)
    with pytest.raises(errors.BadRequestErrorResponse):
        await unkey.keys.verify_key_async(key="secret", permissions=query)


@given(
    limit=st.integers(0, 5),
    times=st.lists(st.integers(0, 5_000), min_size=1, max_size=30).map(sorted),
)
def test_no_window_of_a_rate_limit_lets_more_through_than_its_limit(
    limit: int, times: list[int]
) -> None:
    key = a_key(ratelimits=[Ratelimit("calls", limit=limit, duration=1000)])
    passed = [now for now in times if verify(key, {}, now)["valid"]]
    for window in range(6):
        asked = sum(now // 1000 == window for now in times)
        assert sum(now // 1000 == window for now in passed) == min(asked, limit)


@given(
    budget=st.integers(0, 10),
    costs=st.lists(st.none() | st.integers(0, 4), max_size=12),
)
def test_credits_never_go_below_zero_and_only_valid_verifications_pay(
    budget: int, costs: list[int | None]
) -> None:
    key = a_key(credits=budget)
    paid = 0
    for cost in costs:
        request = {} if cost is None else {"credits": {"cost": cost}}
        if verify(key, request, NOW)["valid"]:
            paid += 1 if cost is None else cost
    assert key.credits == budget - paid >= 0


# --- managing keys --------------------------------------------------------------------------


async def test_a_key_is_created_read_updated_and_deleted(
    server: Server, vendor: UnkeySandbox
) -> None:
    unkey = await sdk(server, vendor)
    created = await unkey.keys.create_key_async(
        api_id="api_1",
        prefix="flow",
        name="first",
        external_id="team-7",
        meta={"a": 1},
        credits={"remaining": 9},
        ratelimits=[{"name": "calls", "limit": 5, "duration": 60_000, "auto_apply": True}],
    )
    key_id = created.data.key_id
    assert created.data.key.startswith("flow_")
    assert await code_of(unkey, created.data.key) == "VALID"
    read = (await unkey.keys.get_key_async(key_id=key_id)).data
    assert (read.name, read.enabled, read.created_at) == ("first", True, NOW)
    assert read.identity is not None
    assert read.identity.external_id == "team-7"
    assert read.credits is not None
    assert read.credits.remaining == 8
    await unkey.keys.update_key_async(key_id=key_id, enabled=False, name=None)
    read = (await unkey.keys.get_key_async(key_id=key_id)).data
    assert (read.name, read.enabled, read.meta) == (None, False, {"a": 1})
    await unkey.keys.delete_key_async(key_id=key_id)
    assert await code_of(unkey, created.data.key) == "NOT_FOUND"
    with pytest.raises(errors.NotFoundErrorResponse):
        await unkey.keys.get_key_async(key_id=key_id)


def test_two_keys_never_share_a_secret(vendor: UnkeySandbox) -> None:
    vendor.add_key("secret")
    with pytest.raises(ValueError, match="already"):
        vendor.add_key("secret")
