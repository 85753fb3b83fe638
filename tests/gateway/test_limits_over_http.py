"""What clients of both protocols are told of limits a minute, of teams' budgets, and of billing."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import anthropic
import openai
import pytest

from tests.gateway.conftest import Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")
SETTINGS = {"billing_url": "https://billing.example.com/raise"}
HELLO: Any = [{"role": "user", "content": "Hello!"}]


async def openai_answer(caller: Caller) -> Any:
    """The headers of an answer in OpenAI's protocol."""
    raw = caller.openai.chat.completions.with_raw_response
    return (await raw.create(model="gpt-4.1", messages=HELLO)).headers


async def limited(caller: Caller, **rates: int) -> None:
    """Limit the key, and wait until that is known."""
    await caller.world.service.database.operating.set_key_rates(caller.key.id, rates)
    await asyncio.sleep(1.1)


async def test_limits_a_minute_in_both_protocols(caller: Caller) -> None:
    await limited(caller, requests_per_minute=3, tokens_per_minute=100_000)
    headers = await openai_answer(caller)
    assert headers["x-ratelimit-limit-requests"] == "3"
    assert headers["x-ratelimit-remaining-requests"] == "2"
    assert headers["x-ratelimit-limit-tokens"] == "100000"
    assert 0 < int(headers["x-ratelimit-remaining-tokens"]) < 100_000
    assert headers["x-ratelimit-reset-requests"].endswith("s")
    raw = caller.anthropic.messages.with_raw_response
    answer = await raw.create(model="claude-haiku-4-5", max_tokens=9, messages=HELLO)
    assert answer.headers["anthropic-ratelimit-requests-limit"] == "3"
    assert answer.headers["anthropic-ratelimit-requests-remaining"] == "1"
    assert answer.headers["anthropic-ratelimit-tokens-reset"].endswith("Z")
    await openai_answer(caller)
    with pytest.raises(openai.RateLimitError) as refused:
        await openai_answer(caller)
    error = refused.value.response.json()["error"]
    assert (error["code"], error["type"]) == ("rate_limited", "rate_limit_error")
    assert error["limit"]["resource"] == "requests_per_minute"
    assert 50 <= int(refused.value.response.headers["retry-after"]) <= 61
    assert refused.value.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert "x-should-retry" not in refused.value.response.headers
    with pytest.raises(anthropic.RateLimitError) as other:
        await raw.create(model="claude-haiku-4-5", max_tokens=9, messages=HELLO)
    assert other.value.response.headers["anthropic-ratelimit-requests-remaining"] == "0"
    await caller.conserved(3)


async def test_an_answer_without_limits_has_no_headers_of_them(caller: Caller) -> None:
    assert not [name for name in await openai_answer(caller) if "ratelimit" in name]


@pytest.mark.parametrize("sees_team", [True, False])
async def test_a_teams_budget_that_is_tighter_than_the_keys(
    caller: Caller, sees_team: bool
) -> None:
    one = await caller.world.caller(["limits.team"] if sees_team else [])
    operating = one.world.service.database.operating
    await one.budget("100")
    await operating.set_team_quota(one.key.team_id, "budget_usd", Decimal("0.000001"))
    await asyncio.sleep(1.1)
    await openai_answer(one)
    await one.rows(1)
    await asyncio.sleep(1.1)
    with pytest.raises(openai.RateLimitError) as refused:
        await openai_answer(one)
    headers = refused.value.response.headers
    assert (headers["x-posthog-budget"], headers["x-posthog-budget-scope"]) == ("exceeded", "team")
    assert ("x-posthog-budget-remaining-usd" in headers) is sees_team
    error = refused.value.response.json()["error"]
    assert (error["code"], error["limit"]["scope"]) == ("budget_exceeded", "team")
    assert SETTINGS["billing_url"] in error["message"]
    assert "flow teams" not in error["message"]
