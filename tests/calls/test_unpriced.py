"""Models without a price, where a budget would have to hold what they cost."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from tests.calls.conftest import Serve, key_of
from tests.calls.test_call import SHORT, stood_in


@pytest.mark.parametrize(
    ("product", "price", "cap", "status"),
    [
        ("", "", "5", 422),
        ("", "", None, 201),
        ('unpriced = "allow"', "", "5", 201),
        ("", "openai/gpt-9-ultra", "5", 201),
        ("", "openai/gpt-9", "5", 422),
    ],
    ids=["capped", "no-cap", "allowed", "priced-by-the-operator", "another-priced"],
)
async def test_a_model_that_has_no_price_is_refused_to_a_key_with_a_budget(
    product: str, price: str, cap: str | None, status: int, serving: Serve, tmp_path: Path
) -> None:
    products, prices = tmp_path / "products.toml", tmp_path / "prices.toml"
    products.write_text(f"[voice_bot]\nbillable = true\n{product}\n")
    vendor, _, model = price.partition("/")
    line = f"""
        [[price]]
        vendor = "{vendor}"
        model = "{model}"
        effective_from = 2026-01-01
        per_million = {{ input_tokens = "2", output_tokens = "8" }}
        source = "a contract"
        """
    prices.write_text(line)
    files = {"products_file": products, "prices_file": prices if price else None}
    async with stood_in(SHORT) as standing, serving(standing, **files) as served:
        database = served.service.database
        if cap is not None:
            await database.operating.set_budget(await key_of(served.http, database), Decimal(cap))
        ask = {"bot": {"llm": {"model": "gpt-9-ultra"}}}
        answer = await served.http.post("/api/bot/join", json=ask)
        threads = (await served.http.get("/api/threads")).json()["threads"]
    assert answer.status_code == status
    if status == 422:
        problem = answer.json()
        assert problem["code"] == "model_unpriced"
        assert [error["field"] for error in problem["errors"]] == ["bot.llm.model"]
        assert "openai/gpt-9-ultra" in problem["errors"][0]["message"]
        assert "has a budget, which cannot hold what has no price" in problem["detail"]
        assert threads == []


async def test_a_join_that_was_made_before_gets_its_thread(serving: Serve) -> None:
    """A budget that was set since, and a model that has no price, change nothing about it."""
    ask = {"bot": {"llm": {"model": "gpt-9-ultra"}}}
    key = {"Idempotency-Key": "once"}
    async with stood_in(SHORT) as standing, serving(standing) as served:
        database = served.service.database
        first = await served.http.post("/api/bot/join", json=ask, headers=key)
        key_id = await key_of(served.http, database)
        await database.operating.set_budget(key_id, Decimal(5))
        again = await served.http.post("/api/bot/join", json=ask, headers=key)
        other = await served.http.post("/api/bot/join", json=ask)
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 422)
    assert again.json()["workflow_thread_id"] == first.json()["workflow_thread_id"]


@pytest.mark.parametrize("part", ["stt", "tts"])
async def test_transcription_and_voice_are_held_by_the_budget_too(
    part: str, serving: Serve
) -> None:
    async with stood_in(SHORT) as standing, serving(standing) as served:
        database = served.service.database
        key_id = await key_of(served.http, database)
        await database.operating.set_budget(key_id, Decimal(5))
        ask = {"bot": {part: {"model": "tomorrow-1"}}}
        answer = await served.http.post("/api/bot/join", json=ask)
    assert (answer.status_code, answer.json()["code"]) == (422, "model_unpriced")
    assert [error["field"] for error in answer.json()["errors"]] == [f"bot.{part}.model"]
