"""Joins for a room: what is made where, what is answered, and what is kept to nobody's eyes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import jwt
import psycopg
import pytest
from psycopg import sql
from structlog.testing import capture_logs

from flow.domain.calls.room import room_name
from flow.domain.calls.thread import Status
from flow.sandbox import daily as dy
from flow.sandbox import livekit as lk
from flow.sandbox.faults import Fault
from tests.calls.building import Guest
from tests.calls.conftest import Serve
from tests.calls.test_call import stood_in
from tests.calls.test_rooms import KINDS, QUIET, House, house

OWN = "https://acme.daily.co/standup"


async def over(at: House, joined: dict[str, Any]) -> None:
    """End the call, so that leaving the service waits for nothing."""
    await at.served.http.post(f"/api/bot/{joined['workflow_thread_id']}/end")
    await at.served.settled(joined["workflow_thread_id"])


async def threads(at: House) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await at.served.http.get("/api/threads")).json()["threads"]
    return found


@pytest.mark.parametrize("kind", KINDS)
async def test_the_answer_says_where_the_bot_waits_and_lets_the_caller_in(
    kind: str, serving: Serve
) -> None:
    async with stood_in(QUIET) as standing, house(serving, standing, kind) as at:
        before = datetime.now(UTC)
        joined = await at.join()
        connection = joined["connection"]
        await at.building.arrived(connection["room"])
        await over(at, joined)
    name = room_name(UUID(joined["workflow_thread_id"]))
    assert set(connection) == {"type", "url", "room", "token", "expires_at"}
    assert (connection["type"], connection["room"]) == (kind, name)
    expires_at = datetime.fromisoformat(connection["expires_at"])
    assert 295 <= (expires_at - before).total_seconds() <= 301
    caller = at.vendor.admits(connection["token"])
    (room,) = at.building.entered
    assert room.token is not None
    bot = at.vendor.admits(room.token.get_secret_value())
    assert caller["exp"] == expires_at.timestamp()
    # The bot may come back until the longest call is over.
    assert bot["exp"] >= caller["exp"] + 1800
    if kind == "daily":
        assert connection["url"] == f"https://{dy.DOMAIN}.daily.co/{name}"
        assert (caller["o"], bot["o"], caller["r"], bot["r"]) == (False, True, name, name)
    else:
        assert connection["url"].startswith("ws://127.0.0.1:")
        assert (caller["sub"], bot["sub"]) == ("caller", "flow-bot")
        assert caller["video"]["room"] == bot["video"]["room"] == name


@pytest.mark.parametrize("kind", KINDS)
async def test_a_repeat_while_the_bot_waits_gives_the_same_room_and_a_new_token(
    kind: str, serving: Serve
) -> None:
    request, key = {"transport": {"type": kind}}, {"Idempotency-Key": "once"}
    async with stood_in(QUIET) as standing, house(serving, standing, kind) as at:
        answers = await asyncio.gather(
            *(at.served.http.post("/api/bot/join", json=request, headers=key) for _ in range(5))
        )
        joined = answers[0].json()
        await at.building.arrived(joined["connection"]["room"])
        later = await at.served.http.post("/api/bot/join", json=request, headers=key)
        await at.building.enter(later.json()["connection"]["token"])
        await at.until(joined, Status.IN_CALL)
        busy = await at.served.http.post("/api/bot/join", json=request, headers=key)
        await over(at, joined)
        done = await at.served.http.post("/api/bot/join", json=request, headers=key)
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 200, 201]
    found = [answer.json() for answer in (*answers, later)]
    assert len({one["workflow_thread_id"] for one in found}) == 1
    assert len({(one["connection"]["url"], one["connection"]["room"]) for one in found}) == 1
    for one in found:
        assert at.vendor.admits(one["connection"]["token"])
        # The join itself counts from when it is answered, its repeats from when it was noted.
        assert abs(_expiry(one) - _expiry(later.json())) <= timedelta(seconds=1)
    assert len(at.building.entered) == 1
    # Nobody else is let in, and nobody when it is over.
    assert (busy.status_code, busy.json()["connection"]) == (200, None)
    assert (done.status_code, done.json()["connection"]) == (200, None)


@pytest.mark.parametrize(
    ("transport", "field"),
    [
        ({"type": "daily", "token": "x"}, "transport.token"),
        ({"type": "websocket", "token": "x"}, "transport.token"),
        ({"type": "websocket", "room_url": OWN}, "transport.room_url"),
        ({"type": "daily", "room_url": "https://evil.example/standup"}, "transport.room_url"),
        ({"type": "daily", "room_url": "http://169.254.169.254/"}, "transport.room_url"),
        ({"type": "daily", "room_url": f"{OWN}?t=x"}, "transport.room_url"),
        ({"type": "daily", "room_url": OWN, "token": ""}, "transport.token"),
        ({"type": "daily", "room_url": OWN, "token": "a b"}, "transport.token"),
        (
            {"type": "livekit", "room_url": "wss://evil.example", "token": "x"},
            "transport.room_url",
        ),
        ({"type": "livekit", "room_url": "OURS"}, "transport.token"),
        ({"type": "daily", "room_name": "x"}, "transport.room_name"),
    ],
)
async def test_what_cannot_be_entered_is_refused_by_name_and_nothing_is_made(
    transport: dict[str, Any], field: str, serving: Serve
) -> None:
    async with stood_in(QUIET) as standing, house(serving, standing, "livekit") as at:
        ours = str(
            at.served.service.app.state.services.rooms._rooms.providers["livekit"].address("")
        )
        given = {k: v.replace("OURS", ours) for k, v in transport.items()}
        answer = await at.served.http.post("/api/bot/join", json={"transport": given})
        assert answer.status_code == 422, answer.text
        assert [error["field"] for error in answer.json()["errors"]] == [field]
        assert await threads(at) == []
        assert list(at.vendor.requests) == []


NO_LIVEKIT = dict.fromkeys(("livekit_url", "livekit_api_key", "livekit_api_secret"))


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ({"daily_api_key": None}, "daily", "DAILY_API_KEY"),
        (NO_LIVEKIT, "livekit", "LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET"),
        ({"building": {"absent": "install 'x[daily]'"}}, "daily", "install 'x[daily]'"),
        (
            {"daily_api_key": None, "building": {"absent": "install 'x[daily]'"}},
            "daily",
            "'daily' needs DAILY_API_KEY. For 'daily' install 'x[daily]'",
        ),
    ],
)
async def test_a_room_that_is_not_set_up_here_is_refused_and_the_log_says_what_to_do(
    settings: dict[str, Any], kind: str, said: str, serving: Serve
) -> None:
    async with stood_in(QUIET) as standing, house(serving, standing, kind, **settings) as at:
        with capture_logs() as logs:
            answer = await at.served.http.post("/api/bot/join", json={"transport": {"type": kind}})
        (error,) = answer.json()["errors"]
        assert (answer.status_code, error["field"]) == (422, "transport.type")
        assert f"'{kind}' is not set up here" in error["message"]
        assert said not in answer.text
        (logged,) = (line for line in logs if line["event"] == "operator_hint")
        assert said in logged["hint"]
        assert await threads(at) == []


async def test_a_refused_join_makes_nothing_at_the_vendor(serving: Serve) -> None:
    async with stood_in(QUIET) as standing, house(serving, standing) as at:
        (await at.served.http.get("/api/limits")).raise_for_status()
        database = at.served.service.database
        key = (await database.operating.get_api_key("sandbox")).key
        await database.operating.set_team_quota(key.team_id, "call_seconds", Decimal(0))
        answer = await at.served.http.post("/api/bot/join", json={"transport": {"type": "daily"}})
        assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded")
        assert list(at.vendor.requests) == []
        assert await threads(at) == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="status", status=500, route="POST */rooms"),
        Fault(kind="status", status=401),
        Fault(kind="drop", route="*/meeting-tokens"),
        Fault(kind="malformed", route="*/meeting-tokens"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.route.rpartition('/')[2]}",
)
async def test_a_vendor_that_is_down_is_503_and_the_thread_is_cancelled(
    fault: Fault, serving: Serve
) -> None:
    async with stood_in(QUIET) as standing, house(serving, standing, max_calls=1) as at:
        at.vendor.faults.add(fault)
        answer = await at.served.http.post("/api/bot/join", json={"transport": {"type": "daily"}})
        assert (answer.status_code, answer.json()["code"]) == (503, "transport_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        (thread,) = await threads(at)
        assert thread["status"] == "cancelled"
        limits = (await at.served.http.get("/api/limits")).json()["limits"]
        reserved = {limit["resource"]: Decimal(limit["reserved"] or 0) for limit in limits}
        assert reserved == {limit["resource"]: 0 for limit in limits} != {}
        assert at.building.entered == []
        # Its place is free again, in this process too.
        at.vendor.faults.clear()
        await over(at, await at.join())


async def test_a_vendor_that_goes_down_while_the_bot_waits_costs_a_repeat_its_token_only(
    serving: Serve,
) -> None:
    request, key = {"transport": {"type": "daily"}}, {"Idempotency-Key": "once"}
    async with stood_in(QUIET) as standing, house(serving, standing) as at:
        joined = (await at.served.http.post("/api/bot/join", json=request, headers=key)).json()
        await at.building.arrived(joined["connection"]["room"])
        at.vendor.faults.add(Fault(kind="status", status=500))
        again = await at.served.http.post("/api/bot/join", json=request, headers=key)
        assert (again.status_code, again.json()["code"]) == (503, "transport_unavailable")
        assert (await at.thread(joined)).status is Status.CONNECTING
        at.vendor.faults.clear()
        await at.building.enter(joined["connection"]["token"])
        await at.until(joined, Status.IN_CALL)
        await over(at, joined)


async def test_a_callers_token_is_in_no_table_no_answer_and_no_log(
    serving: Serve, postgres_url: str
) -> None:
    token = jwt.encode({"r": "standup", "exp": 4102444800}, dy.API_KEY, algorithm="HS256")
    transport = {"type": "daily", "room_url": OWN, "token": token}
    request, key = {"transport": transport}, {"Idempotency-Key": "once"}
    with capture_logs() as logs:
        async with stood_in(QUIET) as standing, house(serving, standing) as at:
            answer = await at.served.http.post("/api/bot/join", json=request, headers=key)
            joined = answer.json()
            await at.building.arrived("standup")
            other = {"transport": transport | {"token": "another-token"}}
            again = await at.served.http.post("/api/bot/join", json=other, headers=key)
            await at.building.enter(token)
            await at.until(joined, Status.IN_CALL)
            shown = await at.served.http.get(f"/api/threads/{joined['workflow_thread_id']}")
            listed = await at.served.http.get("/api/threads")
            wrong = {"transport": transport | {"room_url": "https://evil.example/x"}}
            refused = await at.served.http.post("/api/bot/join", json=wrong)
            metrics = await at.served.http.get("/metrics")
            await over(at, joined)
        captured = [event.to_json() for event in standing.posthog.events]
        told = [line.headers for line in standing.openai.bill.lines]
    assert (again.status_code, refused.status_code) == (200, 422)
    kept = shown.json()["request"]["transport"]
    assert (kept["type"], kept["room_url"]) == ("daily", OWN)
    assert "token" not in kept
    (room,) = at.building.entered
    assert room.token is not None
    assert room.token.get_secret_value() == token
    said = [one.text for one in (answer, again, shown, listed, refused, metrics)]
    everything = [*said, str(logs), str(captured), str(told), everything_in(postgres_url)]
    assert "standup" in everything[-1]
    for text in everything:
        assert token not in text
        assert token.rpartition(".")[2] not in text
        assert "another-token" not in text


async def test_neither_are_the_tokens_that_flow_made(serving: Serve, postgres_url: str) -> None:
    with capture_logs() as logs:
        async with stood_in(QUIET) as standing, house(serving, standing, "livekit") as at:
            joined = await at.join()
            await at.building.arrived(joined["connection"]["room"])
            await over(at, joined)
            shown = await at.served.http.get(f"/api/threads/{joined['workflow_thread_id']}")
    (room,) = at.building.entered
    assert room.token is not None
    secrets = [joined["connection"]["token"], room.token.get_secret_value(), lk.API_SECRET]
    for text in (shown.text, str(logs), repr(room), everything_in(postgres_url)):
        assert [secret for secret in secrets if secret in text] == []


def everything_in(url: str) -> str:
    """Every row of every table, as text."""
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "select table_schema, table_name from information_schema.tables"
            " where table_type = 'BASE TABLE'"
            " and table_schema not in ('pg_catalog', 'information_schema')"
        ).fetchall()
        found = []
        for schema, name in tables:
            query = sql.SQL("select t::text from {} t").format(sql.Identifier(schema, name))
            found += [row[0] for row in connection.execute(query)]
    return "\n".join(found)


async def test_a_customers_own_daily_needs_no_key_of_the_operators(serving: Serve) -> None:
    async with (
        stood_in(QUIET) as standing,
        house(serving, standing, daily_api_key=None) as at,
    ):
        token = jwt.encode({"r": "standup", "exp": 4102444800}, dy.API_KEY, algorithm="HS256")
        transport = {"type": "daily", "room_url": OWN, "token": token}
        joined = await at.join(transport=transport)
        await at.building.arrived("standup")
        guest: Guest = await at.building.enter(token)
        await at.until(joined, Status.IN_CALL)
        await guest.close()
        thread = await at.served.settled(joined["workflow_thread_id"])
    assert thread.end_reason == "caller_hung_up"
    assert joined["connection"].keys() == {"type", "url", "expires_at"}


def _expiry(joined: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(joined["connection"]["expires_at"])
