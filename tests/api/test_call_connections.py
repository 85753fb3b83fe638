"""Connecting to a call: with the token of its join, once, and in the way it was joined for."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from flow.domain.calls import join_token as tokens
from flow.errors import DatabaseUnavailable
from tests.api.conftest import NO_MORE, SECRET, Api

OFFER = {"sdp": "v=0\r\n", "type": "offer"}
CANDIDATES = {
    "pc_id": "pc_1",
    "candidates": [{"candidate": "candidate:1", "sdp_mid": "0", "sdp_mline_index": 0}],
}


async def refused(url: str) -> tuple[int, dict[str, Any]]:
    """Status and problem of a handshake that does not succeed."""
    with pytest.raises(InvalidStatus) as caught:
        async with connect(url, open_timeout=10):
            pass
    response = caught.value.response
    return response.status_code, json.loads(response.body or b"{}")


def url_of(api: Api, thread_id: object, token: str) -> str:
    return f"{api.url.replace('http', 'ws')}/api/bot/{thread_id}/ws?token={token}"


def token_for(api: Api, thread_id: str, **left: int) -> str:
    expires_at = api.now() + timedelta(**left or {"seconds": 60})
    return tokens.sign(SECRET, UUID(thread_id), expires_at)


async def test_the_url_of_a_join_leads_to_its_call(api: Api) -> None:
    answer = await api.join()
    async with connect(answer["connection"]["url"]) as socket:
        await socket.send("hello")
        assert await socket.recv() == f"{answer['workflow_thread_id']} hello"
        assert socket.response is not None
        assert socket.response.headers["x-request-id"]


async def test_a_refused_handshake_is_no_error_in_the_log(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    assert (await refused(url_of(api, thread_id, "nonsense")))[0] == 401
    await asyncio.sleep(0.1)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_socket_at_a_path_that_has_none_is_not_found(api: Api) -> None:
    status, problem = await refused(f"{api.url.replace('http', 'ws')}/api/threads")
    assert (status, problem["code"]) == (404, "not_found")


@pytest.mark.parametrize("token", ["", "nonsense", "%00", "A" * 5000])
async def test_no_token_no_call(api: Api, token: str) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    status, problem = await refused(url_of(api, thread_id, token))
    assert (status, problem["code"]) == (401, "invalid_token")


async def test_an_expired_token_opens_nothing(api: Api) -> None:
    url = (await api.join())["connection"]["url"]
    api.now.moved = timedelta(seconds=301)
    status, problem = await refused(url)
    assert (status, problem["code"]) == (401, "expired_token")


async def test_the_token_of_one_thread_does_not_open_another(api: Api) -> None:
    mine, other = await api.join(), await api.join()
    token = mine["connection"]["url"].partition("token=")[2]
    status, _ = await refused(url_of(api, other["workflow_thread_id"], token))
    assert status == 401
    offer = f"/api/bot/{other['workflow_thread_id']}/offer?token={token}"
    assert (await api.anonymous.post(offer, json=OFFER)).status_code == 401


async def test_an_api_key_is_no_token(api: Api) -> None:
    thread_id = (await api.join())["workflow_thread_id"]
    secret = api.client.headers["Authorization"].removeprefix("Bearer ")
    assert (await refused(url_of(api, thread_id, secret)))[0] == 401


async def test_a_thread_that_is_not_there(api: Api) -> None:
    thread_id = str(uuid4())
    status, problem = await refused(url_of(api, thread_id, token_for(api, thread_id)))
    assert (status, problem["code"]) == (404, "not_found")


async def test_a_path_that_is_none(api: Api) -> None:
    assert (await refused(url_of(api, "not-a-uuid", "x")))[0] == 404


async def test_a_call_under_way_or_over_cannot_be_connected_to(api: Api) -> None:
    for advance in (api.in_call, api.over):
        answer = await api.join()
        await advance(answer["workflow_thread_id"])
        status, problem = await refused(answer["connection"]["url"])
        assert (status, problem["code"]) == (409, "not_connectable")


@NO_MORE
async def test_a_server_that_is_full_or_leaving_takes_no_call(code: str, api: Api) -> None:
    url = (await api.join())["connection"]["url"]
    offer_url = (await api.join({"transport": {"type": "webrtc"}}))["connection"]["url"]
    api.calls.take_no_more(code)
    status, problem = await refused(url)
    assert (status, problem["code"]) == (503, code)
    answer = await api.anonymous.post(offer_url, json=OFFER)
    assert (answer.status_code, answer.json()["code"]) == (503, code)
    assert int(answer.headers["retry-after"]) > 0


async def test_a_call_that_cannot_start_is_a_clear_refusal(api: Api) -> None:
    url = (await api.join())["connection"]["url"]
    api.calls.fail = DatabaseUnavailable()
    status, problem = await refused(url)
    assert (status, problem["code"]) == (503, "database_unavailable")
    api.calls.fail = RuntimeError("the password is 1234")
    status, problem = await refused(url)
    assert (status, problem["code"]) == (500, "internal_error")
    assert "1234" not in str(problem)


async def test_a_call_that_breaks_closes_its_socket(api: Api) -> None:
    async with connect((await api.join())["connection"]["url"]) as socket:
        await socket.send("break")
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011


async def test_a_websocket_call_takes_no_offer_and_a_webrtc_call_no_socket(api: Api) -> None:
    spoken, seen = await api.join(), await api.join({"transport": {"type": "webrtc"}})
    offer = f"/api/bot/{spoken['workflow_thread_id']}/offer"
    response = await api.client.post(offer, json=OFFER)
    assert (response.status_code, response.json()["code"]) == (409, "wrong_transport")
    thread_id = seen["workflow_thread_id"]
    status, problem = await refused(url_of(api, thread_id, token_for(api, thread_id)))
    assert (status, problem["code"]) == (409, "wrong_transport")


async def test_an_offer_needs_the_token_or_the_key(api: Api) -> None:
    answer = await api.join({"transport": {"type": "webrtc"}})
    thread_id = answer["workflow_thread_id"]
    with_token = await api.anonymous.post(answer["connection"]["url"], json=OFFER)
    assert with_token.status_code == 200
    assert with_token.json() == {"sdp": "v=0", "type": "answer", "pc_id": "pc_1"}
    with_key = await api.client.post(f"/api/bot/{thread_id}/offer", json=OFFER)
    assert with_key.status_code == 200
    assert api.calls.offers == [(UUID(thread_id), OFFER)] * 2


@pytest.mark.parametrize("token", ["", "nonsense"])
async def test_a_wrong_token_is_not_made_good_by_a_key(api: Api, token: str) -> None:
    answer = await api.join({"transport": {"type": "webrtc"}})
    path = f"/api/bot/{answer['workflow_thread_id']}/offer?token={token}"
    response = await api.client.post(path, json=OFFER)
    assert (response.status_code, response.json()["code"]) == (401, "invalid_token")
    assert api.calls.offers == []


async def test_an_offer_of_another_customer_finds_nothing(api: Api) -> None:
    answer = await api.join({"transport": {"type": "webrtc"}})
    path = f"/api/bot/{answer['workflow_thread_id']}/offer"
    assert (await api.other.post(path, json=OFFER)).status_code == 404
    assert (await api.other.patch(path, json=CANDIDATES)).status_code == 404
    assert (api.calls.offers, api.calls.candidates) == ([], [])


async def test_in_a_call_only_its_own_connection_is_negotiated_again(api: Api) -> None:
    answer = await api.join({"transport": {"type": "webrtc"}})
    await api.in_call(answer["workflow_thread_id"])
    api.calls.has_room = False
    url = answer["connection"]["url"]
    assert (await api.anonymous.post(url, json=OFFER)).status_code == 409
    again = {**OFFER, "pc_id": "pc_1", "restart_pc": True}
    assert (await api.anonymous.post(url, json=again)).status_code == 200


async def test_candidates_are_handed_over(api: Api) -> None:
    answer = await api.join({"transport": {"type": "webrtc"}})
    response = await api.anonymous.patch(answer["connection"]["url"], json=CANDIDATES)
    assert (response.status_code, response.content) == (204, b"")
    assert api.calls.candidates == [(UUID(answer["workflow_thread_id"]), CANDIDATES)]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "sdp"),
        ({"sdp": "", "type": "offer"}, "sdp"),
        ({"sdp": "v=0", "type": "answer"}, "type"),
        ({"sdp": "v=0", "type": "offer", "extra": 1}, "extra"),
        ({"sdp": 7, "type": "offer"}, "sdp"),
    ],
)
async def test_an_offer_that_is_none_names_what_is_wrong(
    api: Api, body: dict[str, Any], field: str
) -> None:
    answer = await api.join({"transport": {"type": "webrtc"}})
    response = await api.anonymous.post(answer["connection"]["url"], json=body)
    assert response.status_code == 422
    assert field in {error["field"] for error in response.json()["errors"]}
