"""Who gets in: with which credentials, to what, and what happens when nobody can say."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from structlog.testing import capture_logs

from flow.api.app import create_app
from flow.api.auth import KeyRows
from flow.db.database import Database
from flow.domain.limits.api_key import ApiKey
from flow.sandbox.faults import Fault
from flow.vendors.key_verification_cache import DebugKeys, VerifiedKey
from tests.api.conftest import Api, ServeApi

Headers = list[tuple[str, str]]


def credentials(secret: str, other: str) -> dict[str, tuple[Headers, int, str | None]]:
    return {
        "bearer": ([("Authorization", f"Bearer {secret}")], 200, None),
        "scheme in capitals": ([("Authorization", f"BEARER {secret}")], 200, None),
        "two spaces": ([("Authorization", f"Bearer  {secret}")], 200, None),
        "x-api-key": ([("X-API-Key", secret)], 200, None),
        "both, the same": (
            [("Authorization", f"Bearer {secret}"), ("X-API-Key", secret)],
            200,
            None,
        ),
        "both, one empty": (
            [("Authorization", "Bearer"), ("X-API-Key", secret)],
            400,
            "conflicting_credentials",
        ),
        "both, different": (
            [("Authorization", f"Bearer {secret}"), ("X-API-Key", other)],
            400,
            "conflicting_credentials",
        ),
        "one good, one made up": (
            [("Authorization", f"Bearer {secret}"), ("X-API-Key", "nonsense")],
            400,
            "conflicting_credentials",
        ),
        "bearer twice": (
            [("Authorization", f"Bearer {secret}"), ("Authorization", f"Bearer {other}")],
            400,
            "conflicting_credentials",
        ),
        "x-api-key twice": (
            [("X-API-Key", secret), ("X-API-Key", secret)],
            400,
            "conflicting_credentials",
        ),
        "none": ([], 401, "missing_api_key"),
        "empty": ([("X-API-Key", "")], 401, "missing_api_key"),
        "bearer of nothing": ([("Authorization", "Bearer")], 401, "missing_api_key"),
        "basic": ([("Authorization", "Basic YTpi")], 401, "invalid_api_key"),
        "no scheme": ([("Authorization", secret)], 401, "invalid_api_key"),
        "unknown": ([("X-API-Key", "nonsense")], 401, "invalid_api_key"),
        "not ASCII": ([("X-API-Key", "schl\u00fcssel")], 401, "invalid_api_key"),
        "two keys": ([("X-API-Key", f"{secret}, {other}")], 401, "invalid_api_key"),
        "huge": ([("X-API-Key", "k" * 4000)], 401, "invalid_api_key"),
        "in the cookie": ([("Cookie", f"api_key={secret}")], 401, "missing_api_key"),
    }


async def test_credentials(api: Api, subtests: pytest.Subtests) -> None:
    for case, (headers, status, code) in credentials(api.new_key(), api.new_key()).items():
        with subtests.test(case):
            encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers]
            response = await api.anonymous.get("/api/threads", headers=encoded)
            assert response.status_code == status
            assert response.json().get("code") == code
            assert ("www-authenticate" in response.headers) == (status == 401)


async def test_a_key_in_the_query_is_no_key(api: Api) -> None:
    response = await api.anonymous.get("/api/threads", params={"api_key": api.new_key()})
    assert response.status_code == 401


@pytest.mark.parametrize(
    ("setting", "status", "code"),
    [
        ({"enabled": False}, 403, "disabled_api_key"),
        ({"expires": 1}, 401, "expired_api_key"),
    ],
)
async def test_a_key_unkey_refuses(
    api: Api, setting: dict[str, Any], status: int, code: str
) -> None:
    api.unkey.add_key("a_refused_key", **setting)
    response = await api.as_key("a_refused_key").post("/api/bot/join", json={})
    assert (response.status_code, response.json()["code"]) == (status, code)


CLOSED = [
    ("POST", "/api/bot/join"),
    ("POST", f"/api/bot/{uuid4()}/end"),
    ("POST", f"/api/bot/{uuid4()}/offer"),
    ("PATCH", f"/api/bot/{uuid4()}/offer"),
    ("GET", "/api/threads"),
    ("GET", f"/api/threads/{uuid4()}"),
    ("GET", f"/api/threads/{uuid4()}/usage"),
    ("GET", "/api/usage"),
    ("GET", "/api/anything"),
    ("OPTIONS", "/api/threads"),
    ("GET", "/api/bot/../threads"),
    ("GET", "/api//threads"),
    ("GET", "/api/threads?token=x"),
    ("GET", f"/api/threads/{uuid4()}/offer?token=x"),
]


async def test_everything_under_api_needs_a_key(api: Api, subtests: pytest.Subtests) -> None:
    for method, path in CLOSED:
        with subtests.test(f"{method} {path}"):
            response = await api.anonymous.request(method, path)
            assert response.status_code == 401
            assert response.json()["code"] == "missing_api_key"


async def test_no_spelling_of_a_path_gets_around_the_key(
    api: Api, subtests: pytest.Subtests
) -> None:
    for path in (b"/API/threads", b"//api/threads", b"/./api/threads", b"/api", b"/%61pi/threads"):
        with subtests.test(path.decode()):
            response = await api.anonymous.get(httpx.URL(api.url, raw_path=path))
            assert response.status_code in {401, 404}


async def test_behind_a_root_path_the_key_is_still_needed(api: Api) -> None:
    transport = httpx.ASGITransport(create_app(api.services), root_path="/flow")
    async with httpx.AsyncClient(transport=transport, base_url="http://flow") as client:
        assert (await client.get("/flow/api/threads")).status_code == 401


async def test_what_is_open_needs_no_key(api: Api, subtests: pytest.Subtests) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"):
        with subtests.test(path):
            assert (await api.anonymous.get(path)).status_code == 200


async def test_a_request_carries_both_ids_of_its_key(api: Api) -> None:
    seen: dict[str, Any] = {}

    async def route(request: Request) -> Response:
        seen.update(request.state._state)
        return Response()

    app = create_app(api.services)
    app.add_route("/api/seen", route)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://flow") as client:
        await client.get("/api/seen", headers=api.client.headers)
    secret = api.client.headers["Authorization"].removeprefix("Bearer ")
    verified = await api.services.keys.verify(secret, max_age_secs=60)
    row = await api.database.resolve_api_key(verified.unkey_key_id, verified.team_id, verified.name)
    assert seen["unkey_key_id"] == verified.unkey_key_id
    assert seen["api_key_id"] == row.id


async def test_a_key_is_asked_of_unkey_once_for_many_requests(api: Api) -> None:
    await asyncio.gather(*(api.client.get("/api/threads") for _ in range(30)))
    await api.client.post("/api/bot/join", json={})
    assert len(api.unkey.verifications) == 1


@pytest.mark.parametrize(
    "outage",
    [
        Fault(kind="status", status=500),
        Fault(kind="status", status=429),
        Fault(kind="status", status=200, body={"data": {"valid": True, "code": "VALID"}}),
        Fault(kind="malformed"),
        Fault(kind="hang"),
    ],
    ids=lambda fault: f"{fault.kind} {fault.status}",
)
async def test_when_unkey_fails_known_keys_go_on_and_strangers_wait(
    api: Api, outage: Fault
) -> None:
    stranger = api.as_key(api.new_key())
    assert (await api.client.post("/api/bot/join", json={})).status_code == 201
    api.unkey.faults.add(outage)
    async with asyncio.timeout(3):
        response = await stranger.post("/api/bot/join", json={})
    assert response.status_code == 503
    assert response.json()["code"] == "auth_unavailable"
    assert int(response.headers["retry-after"]) > 0
    assert (await api.client.post("/api/bot/join", json={})).status_code == 201


async def test_debug_mode_knows_one_key(serve_api: ServeApi) -> None:
    api = await serve_api(keys=DebugKeys("debug key"))
    headers = {"Authorization": "Bearer debug key"}
    assert (await api.anonymous.post("/api/bot/join", json={}, headers=headers)).status_code == 201
    assert (await api.client.post("/api/bot/join", json={})).status_code == 401


async def test_no_secret_and_no_token_is_logged(api: Api) -> None:
    secret = api.new_key()
    with capture_logs() as logs:
        joined = await api.as_key(secret).post("/api/bot/join", json={})
        url = joined.json()["connection"]["url"].replace("/ws?", "/offer?")
        await api.anonymous.post(url.replace("ws://", "http://"), json={})
        await api.as_key("a_wrong_secret").get("/api/threads?token=a_token")
    token = url.partition("token=")[2]
    assert logs
    for hidden in (secret, token, "a_wrong_secret", "a_token"):
        assert hidden not in str(logs)


class Counting:
    """A transport that answers like the database and counts."""

    def __init__(self) -> None:
        self.calls = 0

    async def call(self, function: str, args: Any) -> Any:
        self.calls += 1
        return {
            "id": str(UUID(int=1)),
            "unkey_key_id": args["p_unkey_key_id"],
            "team_id": args["p_team_id"],
            "name": args["p_name"],
        }

    async def close(self) -> None: ...


async def test_a_keys_row_is_read_again_when_unkey_moves_it_or_after_a_minute() -> None:
    transport, now = Counting(), [0.0]
    told: list[ApiKey] = []
    rows = KeyRows(Database(transport), told.append, clock=lambda: now[0])
    team_a = VerifiedKey("key_1", "team_a", "n", frozenset(), {}, 0)
    team_b = VerifiedKey("key_1", "team_b", "n", frozenset(), {}, 0)
    for verified, at, calls in (
        (team_a, 0, 1),
        (team_a, 59, 1),
        (team_b, 59, 2),
        (team_b, 100, 2),
        (team_b, 119.5, 3),
    ):
        now[0] = at
        assert (await rows.of(verified)).team_id == verified.team_id
        assert transport.calls == len(told) == calls
