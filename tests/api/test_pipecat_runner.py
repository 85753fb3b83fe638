"""The routes of Pipecat's own runner, and what a join's answer has for Pipecat's clients."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr

from flow.domain.calls.join_request import Transport
from flow.domain.calls.room import Meeting, Room
from flow.domain.calls.thread import Thread
from tests.api.conftest import Api, ServeApi
from tests.api.test_call_connections import CANDIDATES, OFFER, token_for
from tests.api.test_room_joins import Rooms


def problems(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    return {one["field"]: one["message"] for one in answer.json()["errors"]}


async def stored(api: Api, session_id: str) -> dict[str, Any]:
    thread = await api.database.get_workflow_thread_data(UUID(session_id))
    return thread.join.to_json()


@pytest.mark.parametrize(
    ("rtvi", "kept"),
    [
        (True, {"allow": [], "metrics": False}),
        ({}, {"allow": [], "metrics": False}),
        (
            {"allow": ["text", "messages", "text"]},
            {"allow": ["messages", "text"], "metrics": False},
        ),
        ({"metrics": True}, {"allow": [], "metrics": True}),
        (False, None),
        (None, None),
    ],
    ids=str,
)
async def test_a_join_says_what_a_client_may_do(api: Api, rtvi: Any, kept: Any) -> None:
    answer = await api.join({"transport": {"type": "webrtc", "rtvi": rtvi}})
    way = answer["connection"]
    assert (await stored(api, answer["workflow_thread_id"]))["transport"]["rtvi"] == kept
    if kept is None:
        assert "connect_params" not in way
    else:
        assert way["connect_params"] == {"webrtcRequestParams": {"endpoint": way["url"]}}


async def test_a_websocket_join_has_what_its_client_takes(api: Api) -> None:
    way = (await api.join({"transport": {"type": "websocket", "rtvi": True}}))["connection"]
    assert way["connect_params"] == {"wsUrl": way["url"]}


class Waiting(Rooms):
    """A vendor whose rooms the bot waits in."""

    async def begin(self, thread: Thread, transport: Transport, until: datetime) -> Meeting:
        room = Room(transport.type, "https://acme.daily.co/one", SecretStr("the bot's"))
        return Meeting(room, SecretStr("a caller's"))


async def test_a_room_join_has_what_its_client_takes(serve_api: ServeApi) -> None:
    api = await serve_api(rooms=Waiting())
    params = {"url": "https://acme.daily.co/one", "token": "a caller's"}
    way = (await api.join({"transport": {"type": "daily", "rtvi": True}}))["connection"]
    assert way["connect_params"] == params
    started = (await api.client.post("/start", json={"createDailyRoom": True})).json()
    assert started == params | {"sessionId": started["sessionId"]}


@pytest.mark.parametrize(
    ("transport", "field", "said"),
    [
        (
            {"type": "webrtc", "rtvi": {"allow": ["files"]}},
            "transport.rtvi",
            "'text' or 'messages'",
        ),
        ({"type": "webrtc", "rtvi": {"alow": []}}, "transport.rtvi.alow", "not a field"),
        ({"type": "webrtc", "rtvi": "yes"}, "transport.rtvi", ""),
        ({"type": "twilio", "rtvi": True}, "transport.rtvi", "not for twilio"),
    ],
)
async def test_what_cannot_be_allowed_is_refused(
    api: Api, transport: Any, field: str, said: str
) -> None:
    answer = await api.client.post("/api/bot/join", json={"transport": transport})
    [(name, message)] = problems(answer).items()
    assert name.startswith(field)
    assert said in message


async def test_start_is_a_join_in_the_runners_words(api: Api) -> None:
    body = {"bot": {"greeting": "Hello."}, "transport": {"rtvi": {"allow": ["text"]}}}
    asked = {"transport": "webrtc", "enableDefaultIceServers": True, "body": body}
    answer = await api.client.post("/start", json=asked, headers={"Idempotency-Key": "one"})
    again = await api.client.post("/start", json=asked, headers={"Idempotency-Key": "one"})
    assert (answer.status_code, again.status_code) == (201, 200)
    assert answer.json()["sessionId"] == again.json()["sessionId"]
    session_id = answer.json()["sessionId"]
    endpoint = answer.json()["webrtcRequestParams"]["endpoint"]
    assert endpoint.startswith(f"{api.url}/api/bot/{session_id}/offer?token=")
    join = await stored(api, session_id)
    assert join["bot"]["greeting"] == "Hello."
    assert join["transport"]["rtvi"] == {"allow": ["text"], "metrics": False}
    await api.in_call(session_id)
    late = await api.client.post("/start", json=asked, headers={"Idempotency-Key": "one"})
    assert (late.status_code, late.json()["code"]) == (409, "not_connectable")


@pytest.mark.parametrize("sent", [b"", b"{}"], ids=["nothing", "an empty object"])
async def test_start_needs_to_be_told_nothing(api: Api, sent: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await api.client.post("/start", content=sent, headers=headers)
    assert answer.status_code == 201, answer.text
    transport = (await stored(api, answer.json()["sessionId"]))["transport"]
    assert (transport["type"], transport["rtvi"]["allow"]) == ("webrtc", [])


async def test_of_a_websocket_start_answers_what_its_client_takes_and_nothing_else(
    api: Api,
) -> None:
    answer = await api.client.post("/start", json={"transport": "websocket"})
    assert list(answer.json()) == ["wsUrl"]
    assert answer.json()["wsUrl"].startswith(api.url.replace("http", "ws"))


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"transport": "carrier pigeon"}, "body.transport.type"),
        ({"transport": "twilio"}, "body.transport.rtvi"),
        ({"transport": "webrtc", "body": {"transport": {"type": "daily"}}}, "body.transport.type"),
        ({"body": {"transport": "webrtc"}}, "body.transport"),
        ({"body": {"bot": {"greting": "Hi"}}}, "body.bot.greting"),
        ({"dailyRoomProperties": {}}, "dailyRoomProperties"),
        ({"body": []}, "body"),
        ({"createDailyRoom": True}, "transport.type"),
    ],
)
async def test_a_start_that_cannot_be_is_refused_by_field(api: Api, asked: Any, field: str) -> None:
    assert list(problems(await api.client.post("/start", json=asked))) == [field]


async def test_the_runners_routes_need_a_key_and_its_thread(api: Api) -> None:
    session_id = (await api.client.post("/start", json={})).json()["sessionId"]
    path = f"/sessions/{session_id}/api/offer"
    token = {"token": token_for(api, session_id)}
    assert (await api.anonymous.post("/start", json={})).status_code == 401
    assert (await api.anonymous.post(path, json=OFFER)).status_code == 401
    assert (await api.anonymous.post(path, json=OFFER, params=token)).status_code == 401
    assert (await api.other.post(path, json=OFFER)).status_code == 404
    assert api.calls.offers == []
    assert (await api.client.post(path, json=OFFER)).status_code == 200
    assert (await api.client.patch(path, json=CANDIDATES)).status_code == 204
    assert [str(thread_id) for thread_id, _ in api.calls.offers] == [session_id]


async def test_a_refused_start_has_the_problem_of_a_join(api: Api) -> None:
    api.calls.take_no_more("at_capacity")
    answer = await api.client.post("/start", json={})
    assert (answer.status_code, answer.json()["code"]) == (503, "at_capacity")
    # What Pipecat's client shows.
    assert answer.json()["detail"]


async def test_whoever_holds_a_joins_token_may_hang_up_however_long_the_call(api: Api) -> None:
    thread_id = (await api.join({"transport": {"type": "webrtc"}}))["workflow_thread_id"]
    token = {"token": token_for(api, thread_id)}
    path = f"/api/bot/{thread_id}/end"
    await api.in_call(thread_id)
    api.now.moved = timedelta(hours=1)
    renewed = OFFER | {"pc_id": "pc_1"}
    answer = await api.anonymous.post(f"/api/bot/{thread_id}/offer", json=renewed, params=token)
    assert answer.status_code == 200
    ended = await api.anonymous.post(path, params=token)
    assert (ended.status_code, ended.json()["end_requested"]) == (200, True)


async def test_a_token_hangs_up_its_own_call_alone_and_cancels_none_once_it_has_expired(
    api: Api,
) -> None:
    one, other = [
        (await api.join({"transport": {"type": "webrtc"}}))["workflow_thread_id"] for _ in range(2)
    ]
    for token in (token_for(api, other), "nonsense", ""):
        refused = await api.anonymous.post(f"/api/bot/{one}/end", params={"token": token})
        assert (refused.status_code, refused.json()["code"]) == (401, "invalid_token")
    token = token_for(api, one)
    api.now.moved = timedelta(hours=1)
    refused = await api.anonymous.post(f"/api/bot/{one}/end", params={"token": token})
    assert (refused.status_code, refused.json()["code"]) == (401, "expired_token")


async def test_a_page_of_another_origin_is_let_in_before_it_is_asked_who_it_is(
    serve_api: ServeApi,
) -> None:
    api = await serve_api(cors_origins=("https://app.example.com",))
    thread_id = (await api.join({"transport": {"type": "webrtc"}}))["workflow_thread_id"]
    asking = {
        "Origin": "https://app.example.com",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    call = f"/api/bot/{thread_id}"
    shared = [
        "/start",
        "/api/bot/join",
        f"{call}/offer",
        f"{call}/end",
        f"/api/threads/{thread_id}",
    ]
    for path in shared:
        asked = await api.anonymous.options(path, headers=asking)
        assert asked.status_code == 200, path
        assert asked.headers["access-control-allow-origin"] == "https://app.example.com"
        assert "access-control-allow-credentials" not in asked.headers
        stranger = asking | {"Origin": "https://evil.example"}
        refused = await api.anonymous.options(path, headers=stranger)
        assert "access-control-allow-origin" not in refused.headers
    for path in ("/api/threads", "/api/usage", "/api/limits", "/v1/chat/completions", "/metrics"):
        asked = await api.anonymous.options(path, headers=asking)
        assert (asked.status_code, asked.text) == (400, "Disallowed CORS origin"), path
        assert "access-control-allow-origin" not in asked.headers, path
        assert asked.headers["x-request-id"]
    # Without an origin it is a request as any other.
    assert (await api.anonymous.options("/api/threads")).status_code == 401


async def test_a_page_of_another_origin_sees_refusals_too_and_what_it_needs_of_their_heads(
    serve_api: ServeApi,
) -> None:
    api = await serve_api(cors_origins=("https://app.example.com",))
    origin = {"Origin": "https://app.example.com"}
    refused = await api.anonymous.post("/start", json={}, headers=origin)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://app.example.com"
    assert "Retry-After" in refused.headers["access-control-expose-headers"]
    assert refused.headers["x-request-id"]
    without = await api.anonymous.post("/start", json={})
    assert "access-control-allow-origin" not in without.headers


async def test_no_page_of_another_origin_is_let_in_unless_it_is_named(api: Api) -> None:
    asking = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"}
    for path in ("/start", "/api/usage"):
        asked = await api.anonymous.options(path, headers=asking)
        assert asked.status_code == 400
        assert "access-control-allow-origin" not in asked.headers
