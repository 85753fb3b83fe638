"""Save mode through the gateway: what is sent in place of what was asked for."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from flow.domain.products.save_mode import SaveMode
from tests.gateway.conftest import Caller
from tests.gateway.test_bytes import ANSWER
from tests.gateway.wire import whole

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO: Any = [{"role": "user", "content": "Hello!"}]
ON = {"x-flow-save-mode": "on"}


async def sent(caller: Caller, fields: dict[str, Any], **headers: str) -> dict[str, Any]:
    """What the vendor gets of a request."""
    caller.world.wire.always = [whole(ANSWER)]
    answer = await caller.http.post("/v1/chat/completions", json=fields, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = json.loads(caller.world.wire.requests[-1].body)
    return found


async def test_a_cheaper_model_answers_and_both_are_on_record(caller: Caller) -> None:
    answer = await caller.openai.chat.completions.create(
        model="gpt-4.1", messages=HELLO, extra_headers=ON
    )
    assert answer.model == "gpt-4.1-mini-2025-04-14"
    (row,) = await caller.conserved(1)
    assert (row["requested_model"], row["sent_model"]) == ("gpt-4.1", "gpt-4.1-mini")
    assert (row["save_mode"], row["save_mode_reason"]) == (True, "on_by_header")
    told = (await caller.event(row)).properties
    assert (told["save_mode"], told["save_mode_reason"]) == (True, "on_by_header")


async def test_a_reply_is_shorter_and_told_to_be(caller: Caller) -> None:
    fields = {"model": "groq/m", "messages": HELLO, "max_tokens": 900, "new": [1.0]}
    assert await sent(caller, fields, **ON) == {
        "model": "m",
        "messages": [*HELLO, {"role": "system", "content": "Be brief."}],
        "max_tokens": 20,
        "new": [1.0],
    }
    assert await sent(caller, fields) == fields | {"model": "m"}


async def test_it_is_the_headers_then_the_keys_then_the_products_to_say(caller: Caller) -> None:
    operating = caller.world.service.database.operating
    await operating.set_save_mode(caller.key.id, SaveMode.ON)
    fields = {"model": "groq/m", "messages": HELLO}
    await sent(caller, fields)
    await sent(caller, fields, **{"x-flow-save-mode": "off"})
    rows = await caller.rows(2)
    assert [row["save_mode_reason"] for row in rows] == ["on_by_key", "off_by_header"]
    answer = await caller.http.post(
        "/v1/chat/completions", json=fields, headers={"x-flow-save-mode": "maybe"}
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "x-flow-save-mode")


@pytest.mark.parametrize(
    ("model", "ttl"),
    [("groq/claude-haiku-4-5", "1h"), ("groq/anthropic.claude-3-haiku-v1:0", None)],
)
async def test_breakpoints_last_an_hour_but_not_on_bedrock(
    caller: Caller, model: str, ttl: str | None
) -> None:
    text = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
    fields = {"model": model, "messages": [{"role": "user", "content": [text]}]}
    said = await sent(caller, fields, **ON)
    assert said["messages"][0]["content"][0]["cache_control"].get("ttl") == ttl


async def test_messages_are_saved_on_as_anthropic_takes_them(caller: Caller) -> None:
    text: Any = {"type": "text", "text": "Hi " * 5000, "cache_control": {"type": "ephemeral"}}
    answer = await caller.anthropic.messages.create(
        model="claude-haiku-4-5",
        max_tokens=900,
        messages=[{"role": "user", "content": [text]}],
        extra_headers=ON,
    )
    assert answer.usage.cache_creation is not None
    assert answer.usage.cache_creation.ephemeral_1h_input_tokens > 0
    assert answer.usage.cache_creation.ephemeral_5m_input_tokens == 0
    (row,) = await caller.conserved(1)
    assert "cache_write_1h_tokens" in {line["unit"] for line in row["lines"]}


async def test_it_engages_by_itself_when_the_budget_runs_low(caller: Caller) -> None:
    caller.world.wire.always = [whole(ANSWER)]
    fields = {"model": "gpt-4.1", "messages": HELLO}
    first = await caller.http.post("/v1/chat/completions", json=fields)
    assert first.status_code == 200
    (row,) = await caller.conserved(1)
    await caller.budget(str(float(row["total_cost_usd"]) / 0.97))
    # What is known of the key is a second old at most.
    await asyncio.sleep(1.1)
    second = await caller.http.post("/v1/chat/completions", json=fields)
    assert second.headers["x-posthog-budget"] == "engage"
    _, row = await caller.rows(2)
    assert (row["save_mode_reason"], row["sent_model"]) == ("budget_engage", "gpt-4.1-mini")


async def test_what_makes_no_sense_is_for_the_vendor_to_refuse(caller: Caller) -> None:
    said = await sent(caller, {"model": "groq/m", "messages": 3, "max_tokens": "many"}, **ON)
    assert said == {"model": "m", "messages": 3, "max_tokens": "many"}


async def test_a_response_is_saved_on_as_openai_takes_it(caller: Caller) -> None:
    answer = await caller.openai.responses.create(
        model="gpt-4.1", input="Hello!", max_output_tokens=900, extra_headers=ON
    )
    assert answer.model == "gpt-4.1-mini-2025-04-14"
    assert answer.max_output_tokens == 20
    await caller.conserved(1)
