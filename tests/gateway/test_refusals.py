"""What the gateway refuses, before anything is done, in the form of the client's protocol."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import anthropic
import httpx
import openai
import pytest
from structlog.testing import capture_logs

from tests.gateway.conftest import Caller
from tests.gateway.test_bytes import ANSWER
from tests.gateway.wire import whole

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO: Any = [{"role": "user", "content": "A secret prompt."}]
CHAT = "/v1/chat/completions"


def a_body(model: Any = "gpt-4.1", **more: Any) -> bytes:
    return json.dumps({"model": model, "messages": HELLO, **more}).encode()


async def nothing_was_done(caller: Caller) -> None:
    assert await caller.rows(0) == []
    assert caller.world.wire.requests == []
    assert not any((await caller.world.billed()).values())


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        (CHAT, b"", 400, "malformed_request"),
        (CHAT, b"[]", 400, "malformed_request"),
        (CHAT, b'{"model":"gpt-4.1"', 400, "malformed_request"),
        (CHAT, b'{"model":"gpt-4.1","model":"o3"}', 400, "malformed_request"),
        (CHAT, b'{"model":"gpt-4.1","Model":"o3"}', 400, "malformed_request"),
        (CHAT, b'{"a":' + b"[" * 100_000, 400, "malformed_request"),
        (CHAT, b'{"model":"\xff"}', 400, "malformed_request"),
        (CHAT, a_body(None), 422, "invalid_request"),
        (CHAT, a_body(" "), 422, "invalid_request"),
        (CHAT, a_body(7), 422, "invalid_request"),
        (CHAT, a_body("anthropic/claude-haiku-4-5"), 404, "model_not_found"),
        (CHAT, a_body("gpt-9-ultra"), 404, "model_not_found"),
        ("/v1/responses", a_body(background=True), 422, "invalid_request"),
        ("/v1/audio/transcriptions", a_body(), 415, "unsupported_media_type"),
        ("/small/v1/chat/completions", a_body("openai/gpt-4.1"), 403, "model_not_allowed"),
        ("/small/v1/chat/completions", a_body("gpt-4.1"), 403, "model_not_allowed"),
        ("/small/v1/embeddings", a_body("openai/text-embedding-3-small"), 403, "model_not_allowed"),
        ("/small/v1/audio/speech", a_body("openai/gpt-4o-mini-tts"), 403, "model_not_allowed"),
        ("/calls/v1/chat/completions", a_body(), 403, "unknown_product"),
        ("/nothing/v1/chat/completions", a_body(), 403, "unknown_product"),
        ("/v1/files", a_body(), 404, "not_found"),
        ("/v1/chat/completions/", a_body(), 404, "not_found"),
        ("/v1/models", a_body(), 405, "method_not_allowed"),
    ],
)
async def test_requests_that_cannot_be_served(
    caller: Caller, path: str, body: bytes, status: int, code: str
) -> None:
    answer = await caller.http.post(path, content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    error = answer.json()["error"]
    assert error["type"] in {"invalid_request_error", "permission_error"}
    assert error["message"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    await nothing_was_done(caller)


async def test_the_same_in_anthropics_form(caller: Caller) -> None:
    with pytest.raises(anthropic.NotFoundError) as raised:
        await caller.anthropic.messages.create(model="openai/gpt-4.1", max_tokens=9, messages=HELLO)
    body: Any = raised.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "not_found_error"
    assert body["error"]["code"] == "model_not_found"
    assert "anthropic" in body["error"]["message"]
    assert body["request_id"]
    with pytest.raises(anthropic.AuthenticationError):
        await caller.anthropic.with_options(api_key="wrong").messages.create(
            model="claude-haiku-4-5", max_tokens=9, messages=HELLO
        )
    await nothing_was_done(caller)


async def test_keys(caller: Caller) -> None:
    for key, code in ((None, "missing_api_key"), ("wrong", "invalid_api_key")):
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=caller.world.url, headers=headers) as http:
            for path in (CHAT, "/v1/models", "/small/v1/messages", "/v1/anything"):
                answer = await http.post(path, content=a_body())
                assert answer.status_code == 401
                assert answer.json()["error"]["code"] == code
                assert answer.json()["error"]["type"] == "authentication_error"
                assert answer.json().get("type") == ("error" if "messages" in path else None)
    both = {"authorization": "Bearer another"}
    answer = await caller.http.post(CHAT, content=a_body(), headers=both)
    assert answer.json()["error"]["code"] == "conflicting_credentials"
    other = await caller.world.caller()
    answer = await other.http.post("/small/v1/chat/completions", content=a_body("gpt-4.1-mini"))
    assert answer.json()["error"]["code"] == "insufficient_permissions"
    assert (await other.http.get("/small/v1/models")).status_code == 403
    await nothing_was_done(caller)


async def test_a_budget(caller: Caller) -> None:
    await caller.budget("0.0001")
    answer = await caller.openai.chat.completions.with_raw_response.create(
        model="gpt-4.1", messages=HELLO
    )
    assert answer.headers["x-posthog-budget"] == "ok"
    assert Decimal(answer.headers["x-posthog-budget-remaining-usd"]) == Decimal("0.0001")
    await caller.rows(1)
    spent = 0
    for _ in range(40):
        try:
            await caller.openai.chat.completions.create(model="gpt-4.1", messages=HELLO)
        except openai.RateLimitError as error:
            refused = error
            break
        spent += 1
    error = refused.response.json()["error"]
    assert (error["code"], error["type"]) == ("budget_exceeded", "rate_limit_error")
    assert error["limit"]["resource"] == "budget_usd"
    assert refused.response.headers["x-posthog-budget"] == "exceeded"
    assert refused.response.headers["x-posthog-budget-remaining-usd"] == "0.00"
    assert refused.response.headers["x-should-retry"] == "false"
    assert int(refused.response.headers["retry-after"]) > 0
    with pytest.raises(anthropic.RateLimitError) as raised:
        await caller.anthropic.messages.create(
            model="claude-haiku-4-5", max_tokens=9, messages=HELLO
        )
    assert raised.value.response.headers["x-posthog-budget"] == "exceeded"
    assert (
        await caller.anthropic.messages.count_tokens(model="claude-haiku-4-5", messages=HELLO)
    ).input_tokens
    await caller.conserved(1 + spent)


async def test_a_model_without_a_price_under_a_budget(caller: Caller) -> None:
    await caller.budget("10")
    answer = await caller.http.post(CHAT, content=a_body("groq/no-price"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "model_unpriced")
    await nothing_was_done(caller)
    await caller.budget(None)
    free = await caller.world.caller()
    caller.world.wire.always = [whole(ANSWER)]
    assert (await free.http.post(CHAT, content=a_body("groq/no-price"))).status_code == 200
    row = await free.row()
    assert row["total_cost_usd"] is None


async def test_a_teams_quota(caller: Caller) -> None:
    database = caller.world.service.database
    await database.operating.set_team_quota(caller.key.team_id, "ai_credits", Decimal(0))
    answer = await caller.http.post(CHAT, content=a_body())
    assert answer.json()["error"]["code"] == "quota_exceeded"
    await nothing_was_done(caller)
    # What is not billed is in no quota.
    small = await caller.http.post("/small/v1/chat/completions", content=a_body("gpt-4.1-mini"))
    assert small.status_code == 200


async def test_bodies_have_a_bound(caller: Caller) -> None:
    host, port = caller.world.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {CHAT} HTTP/1.1\r\nhost: {host}\r\nx-api-key: {caller.secret}\r\n"
    writer.write(f"{head}content-length: {33 * 2**20}\r\n\r\n".encode())
    said = await reader.read()
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b'"payload_too_large"' in said
    writer.close()
    larger_than_elsewhere = a_body("gpt-4.1", padding="x" * 3_000_000)
    answer = await caller.http.post(CHAT, content=larger_than_elsewhere)
    assert answer.status_code == 200
    encoded = await caller.http.post(CHAT, content=a_body(), headers={"content-encoding": "gzip"})
    assert encoded.status_code == 415


async def test_nothing_that_was_said_is_logged(caller: Caller) -> None:
    caller.world.wire.always = [whole(ANSWER)]
    with capture_logs() as logs:
        await caller.http.post(CHAT, content=a_body("groq/m"))
        await caller.http.post(CHAT, content=a_body(messages=3))
        await caller.http.post(CHAT, content=a_body("groq/m")[:-1])
        await caller.rows(2)
    assert "A secret prompt" not in str(logs)
    assert caller.secret not in str(logs)


async def test_a_server_that_is_stopping_takes_no_more(caller: Caller) -> None:
    gateway = caller.world.service.gateway
    gateway._is_stopping = True
    try:
        answer = await caller.http.post(CHAT, content=a_body())
    finally:
        gateway._is_stopping = False
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
    assert answer.headers["retry-after"] == "5"
    await nothing_was_done(caller)
