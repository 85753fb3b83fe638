"""Joining: one thread per request, the same one for a repeat, and a way to connect to it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import pytest

from flow.api.joins import JoinAnswer
from flow.domain.calls import join_token as tokens
from flow.domain.products.product import Products
from tests.api.conftest import NO_MORE, NO_PRICE, PRODUCTS, SECRET, Api, ServeApi


async def test_a_join_makes_a_thread_and_says_how_to_connect(api: Api) -> None:
    response = await api.client.post("/api/bot/join", json={})
    assert response.status_code == 201
    answer = response.json()
    thread_id = answer["workflow_thread_id"]
    assert answer.keys() == JoinAnswer.model_fields.keys()
    JoinAnswer.model_validate_json(response.content, strict=True)
    assert answer["status"] == "created"
    assert answer["product"] == "voice_bot"
    assert answer["posthog_trace_id"] == thread_id
    assert answer["budget"].pop("tier") == "ok"
    assert set(answer["budget"].values()) == {None}
    connection = answer["connection"]
    url = urlsplit(connection["url"])
    assert (connection["type"], url.scheme) == ("websocket", "ws")
    assert f"http://{url.netloc}" == api.url
    assert url.path == f"/api/bot/{thread_id}/ws"
    (token,) = parse_qs(url.query)["token"]
    tokens.check(SECRET, token, UUID(thread_id), api.now())
    left = datetime.fromisoformat(connection["expires_at"]) - api.now()
    assert timedelta(seconds=200) < left <= timedelta(seconds=300)
    assert connection["expires_at"].endswith("Z")


async def test_the_thread_holds_the_request_with_its_defaults(api: Api) -> None:
    body = {"metadata": {"order": 7}, "bot": {"greeting": "Hello"}}
    thread_id = (await api.join(body))["workflow_thread_id"]
    thread = (await api.client.get(f"/api/threads/{thread_id}")).json()
    assert thread["metadata"] == {"order": 7}
    assert thread["request"]["bot"]["greeting"] == "Hello"
    assert thread["request"]["bot"]["llm"]["model"] == "gpt-4.1"


async def test_a_webrtc_join_says_where_to_send_the_offer(api: Api) -> None:
    answer = await api.join({"transport": {"type": "webrtc"}})
    assert answer["connection"]["type"] == "webrtc"
    start = f"{api.url}/api/bot/{answer['workflow_thread_id']}/offer?token="
    assert answer["connection"]["url"].startswith(start)


async def test_behind_a_proxy_the_public_url_is_given(serve_api: ServeApi) -> None:
    api = await serve_api(public_url="https://voice.example.com/flow")
    url = (await api.join())["connection"]["url"]
    assert url.startswith("wss://voice.example.com/flow/api/bot/")


@pytest.mark.parametrize("host", ["evil.example/path", "a b", "x@y", "example.com:99999999", "é"])
async def test_a_host_that_is_none_is_not_repeated(api: Api, host: str) -> None:
    response = await api.client.post(
        "/api/bot/join", json={}, headers=[(b"Host", host.encode("latin-1"))]
    )
    if response.status_code != 400:
        assert response.json()["connection"]["url"].startswith(api.url.replace("http", "ws"))


async def test_without_an_idempotency_key_every_join_is_new(api: Api) -> None:
    first, second = await api.join(), await api.join()
    assert first["workflow_thread_id"] != second["workflow_thread_id"]


async def test_a_repeat_gives_the_same_thread_and_says_so(api: Api) -> None:
    headers = {"Idempotency-Key": "order 7 / cafe"}
    first = await api.client.post("/api/bot/join", json={"metadata": {"a": 1}}, headers=headers)
    again = await api.client.post("/api/bot/join", json={"metadata": {"a": 1}}, headers=headers)
    assert (first.status_code, again.status_code) == (201, 200)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["workflow_thread_id"] == first.json()["workflow_thread_id"]


async def test_a_repeat_spelt_differently_is_the_same(api: Api) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    first = await api.join({"product": "voice_bot", "metadata": {"a": 1, "b": 2}}, key)
    again = await api.join({"metadata": {"b": 2, "a": 1}, "insights": {"enabled": True}}, key)
    assert again["workflow_thread_id"] == first["workflow_thread_id"]


async def test_a_repeat_renews_the_token_while_nobody_has_connected(api: Api) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    first = await api.join(headers=key)
    api.now.moved = timedelta(seconds=100)
    again = await api.join(headers=key)
    assert again["connection"]["expires_at"] > first["connection"]["expires_at"]


async def test_a_repeat_of_a_call_under_way_gives_no_second_way_in(api: Api) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    first = await api.join(headers=key)
    await api.in_call(first["workflow_thread_id"])
    again = await api.join(headers=key)
    assert again["status"] == "in_call"
    assert again["connection"] is None


async def test_the_same_key_with_another_body_is_a_conflict(api: Api) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    await api.join(headers=key)
    response = await api.client.post("/api/bot/join", json={"metadata": {"a": 1}}, headers=key)
    assert response.status_code == 409
    assert response.json()["code"] == "idempotency_conflict"


async def test_idempotency_keys_of_two_customers_do_not_meet(api: Api) -> None:
    key = {"Idempotency-Key": "the same"}
    mine = await api.join(headers=key)
    theirs = await api.other.post("/api/bot/join", json={"metadata": {"b": 1}}, headers=key)
    assert theirs.status_code == 201
    assert theirs.json()["workflow_thread_id"] != mine["workflow_thread_id"]


async def test_the_same_idempotency_key_a_hundred_times_at_once_makes_one_thread(api: Api) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    joins = (api.client.post("/api/bot/join", json={}, headers=key, timeout=60) for _ in range(100))
    responses = await asyncio.gather(*joins)
    assert sorted(response.status_code for response in responses) == [200] * 99 + [201]
    assert len({response.json()["workflow_thread_id"] for response in responses}) == 1
    assert len((await api.client.get("/api/threads")).json()["threads"]) == 1


@pytest.mark.parametrize("key", [b"", b"k" * 256, b"tab\there", b"\xff", "caf\u00e9".encode()])
async def test_an_idempotency_key_that_is_none_is_named(api: Api, key: bytes) -> None:
    headers = [(b"Idempotency-Key", key)]
    response = await api.client.post("/api/bot/join", json={}, headers=headers)
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "Idempotency-Key"


async def test_two_idempotency_keys_are_one_too_many(api: Api) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    response = await api.client.post("/api/bot/join", json={}, headers=headers)
    assert response.status_code == 422


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"product": "unheard_of"}, 403, "unknown_product"),
        ({"bot": {"llm": {"provider": "unheard_of"}}}, 422, "invalid_request"),
        ({"max_duration_secs": 1}, 422, "invalid_request"),
    ],
)
async def test_what_is_refused_makes_no_thread(
    api: Api, body: dict[str, Any], status: int, code: str
) -> None:
    response = await api.client.post("/api/bot/join", json=body)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert (await api.client.get("/api/threads")).json()["threads"] == []


@NO_MORE
async def test_a_server_that_is_full_or_leaving_says_when_to_come_back_and_makes_nothing(
    code: str, api: Api
) -> None:
    api.calls.take_no_more(code)
    response = await api.client.post("/api/bot/join", json={})
    assert response.status_code == 503
    assert response.json()["code"] == code
    assert int(response.headers["retry-after"]) > 0
    assert (await api.client.get("/api/threads")).json()["threads"] == []


async def test_every_wrong_field_is_named_once(api: Api) -> None:
    body = {
        "bot": {"llm": {"temprature": 1, "temperature": 9}, "language": "??"},
        "transport": {"type": "pigeon"},
        "max_duration_secs": "soon",
        "colour": "red",
    }
    response = await api.client.post("/api/bot/join", json=body)
    assert response.status_code == 422
    problem = response.json()
    assert problem["code"] == "invalid_request"
    assert sorted(error["field"] for error in problem["errors"]) == [
        "bot.language",
        "bot.llm.temperature",
        "bot.llm.temprature",
        "colour",
        "max_duration_secs",
        "transport.type",
    ]


WITHOUT_PRICE = {"bot": {"llm": {"provider": "openai", "model": NO_PRICE}}}


async def test_a_model_without_a_price_is_refused_where_there_is_a_budget(api: Api) -> None:
    """Naming the field, the model and what can be done; and nothing is made."""
    key = await api.key_of(api.client)
    await api.database.operating.set_budget(key.id, Decimal(5))
    response = await api.client.post("/api/bot/join", json=WITHOUT_PRICE)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, "model_unpriced")
    (error,) = problem["errors"]
    assert error["field"] == "bot.llm.model"
    assert f"openai/{NO_PRICE}" in error["message"]
    assert f"openai/{NO_PRICE} (bot.llm.model)" in problem["detail"]
    assert "Use a model that has one" in problem["detail"]
    assert "FLOW_" not in response.text
    assert (await api.client.get("/api/threads")).json()["threads"] == []
    # Another key has no budget that could not hold it.
    assert (await api.other.post("/api/bot/join", json=WITHOUT_PRICE)).status_code == 201


async def test_a_product_may_allow_models_without_a_price(serve_api: ServeApi) -> None:
    bot, *others = PRODUCTS
    api = await serve_api(products=Products([replace(bot, unpriced="allow"), *others]))
    await api.database.operating.set_budget((await api.key_of(api.client)).id, Decimal(5))
    assert (await api.client.post("/api/bot/join", json=WITHOUT_PRICE)).status_code == 201


async def test_a_repeat_gets_its_thread_though_its_model_has_lost_its_price(api: Api) -> None:
    headers = {"Idempotency-Key": uuid4().hex}
    first = await api.join(WITHOUT_PRICE, headers)
    await api.database.operating.set_budget((await api.key_of(api.client)).id, Decimal(5))
    again = await api.client.post("/api/bot/join", json=WITHOUT_PRICE, headers=headers)
    assert again.status_code == 200
    assert again.json()["workflow_thread_id"] == first["workflow_thread_id"]
