"""What a call may cost, while it runs: save mode, the budget's tiers, taking leave, billing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flow.domain.calls.thread import Status
from flow.domain.limits.budget import Tier
from flow.domain.products.save_mode import SaveMode
from flow.sandbox.callers.caller import call
from flow.sandbox.callers.script import AfterBot, Line
from flow.vendors.posthog_flags import COST_CONTROLS
from tests.calls.conftest import SETTLE_SECS, Serve, Serving, key_of
from tests.calls.own_bots import OWN, by_bot, by_each_bot
from tests.calls.test_call import JOIN, LONG, SHORT, stood_in

CHEAPER = "gpt-4.1-mini-2025-04-14"
ASKED_FOR = "gpt-4.1"
TWO_QUESTIONS = replace(
    SHORT,
    lines=(
        Line("Hello, are you open today?", "Yes, we are open until six."),
        Line("And what about tomorrow?", "Tomorrow we are closed.", AfterBot(1.0)),
    ),
)


def of_the_bot(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["kind"] == "llm" and row["source"] == "bot"]


@pytest.mark.parametrize(
    ("flag", "join", "key", "reason"),
    [
        (True, None, SaveMode.ON, "on_by_key"),
        (True, "off", SaveMode.ON, "off_by_join"),
        (False, "on", None, "flag_off"),
    ],
)
async def test_save_mode_is_on_where_it_is_wanted_and_every_event_says_why(
    flag: bool, join: str | None, key: SaveMode | None, reason: str, serving: Serve
) -> None:
    async with stood_in(SHORT) as standing, serving(standing) as served:
        standing.posthog.flags[COST_CONTROLS] = flag
        await served.service.database.operating.set_save_mode(
            await key_of(served.http, served.service.database), key
        )
        report = await call(served.url, standing.api_key, SHORT, join={**JOIN, "save_mode": join})
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
        asked = [line.requested_model for line in standing.openai.bill.lines if line.kind == "llm"]
    is_on = reason.startswith("on_by")
    generations = [row for row in rows if row["kind"] == "llm"]
    assert {row["save_mode_reason"] for row in generations} == {reason}
    assert {row["save_mode"] for row in generations} == {is_on}
    (generation,) = of_the_bot(rows)
    assert generation["requested_model"] == ASKED_FOR
    assert (generation["model"] == CHEAPER) is is_on
    assert (asked[0] == "gpt-4.1-mini") is is_on
    telemetry = {
        event.properties["$ai_span_id"]: event.properties
        for event in standing.posthog.unique_events
        if event.name == "$ai_generation"
    }
    for row in generations:
        told = telemetry[row["id"]]
        assert (told["save_mode"], told["save_mode_reason"]) == (is_on, reason)
        assert told["requested_model"] == row["requested_model"]


async def test_save_mode_engages_in_mid_call_and_the_conversation_goes_on(serving: Serve) -> None:
    async with stood_in(TWO_QUESTIONS) as standing, serving(standing) as served:
        standing.posthog.flags[COST_CONTROLS] = True
        # The greeting and the first answer cost more than 95 % of this, whatever they cost.
        await served.service.database.operating.set_budget(
            await key_of(served.http, served.service.database), Decimal("0.000001")
        )
        override = {"product": "voice_bot", **JOIN}
        report = await call(served.url, standing.api_key, TWO_QUESTIONS, join=override)
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
        refused = await served.http.post("/api/bot/join", json={})
        budget = await served.service.database.get_budget(thread.api_key_id)
    assert thread.status is Status.COMPLETED
    assert thread.end_reason == "caller_hung_up"
    assert [turn.content for turn in thread.transcript][-1] == "Tomorrow we are closed."
    assert [row["model"] for row in of_the_bot(rows)][-1] == CHEAPER
    assert {row["budget_tier"] for row in of_the_bot(rows)} == {"exceeded"}
    assert budget is not None
    assert budget.tier is Tier.EXCEEDED
    assert budget.spent_usd == sum(Decimal(row["total_cost_usd"]) for row in rows)
    assert budget.reserved_usd == 0
    assert (refused.status_code, refused.json()["code"]) == (429, "budget_exceeded")
    assert refused.headers["x-posthog-budget"] == "exceeded"


@by_each_bot
async def test_a_product_may_have_its_bot_take_leave_when_the_budget_is_exceeded(
    bot: str | None, serving: Serve, tmp_path: Path
) -> None:
    products = tmp_path / "products.toml"
    products.write_text(
        """
        [voice_bot]
        billable = true
        on_exceeded = "wrap_up"
        wrap_up_secs = 60
        goodbye = "I have to go now. Goodbye."
        """
    )
    long = replace(LONG, hang_up=AfterBot(30.0))
    known = {"products_file": products, "bots": OWN}
    async with stood_in(long) as standing, serving(standing, **known) as served:
        await served.service.database.operating.set_budget(
            await key_of(served.http, served.service.database), Decimal("0.000001")
        )
        report = await call(served.url, standing.api_key, long, join=by_bot(JOIN, bot))
        thread = await served.settled(report.workflow_thread_id)
        await served.conserved(thread)
    assert report.ended_by == "service"
    assert thread.end_reason == "budget_exceeded"
    assert thread.status is Status.COMPLETED
    assert thread.error is None
    assert thread.transcript[-1].content.endswith("Goodbye.")


async def test_insights_may_be_free_of_charge_on_a_call_that_is_not(
    serving: Serve, tmp_path: Path
) -> None:
    products = tmp_path / "products.toml"
    products.write_text(
        "[voice_bot]\nbillable = true\n[insights]\ncalls = false\nbillable = false\n"
    )
    async with stood_in(SHORT) as standing, serving(standing, products_file=products) as served:
        report = await call(served.url, standing.api_key, SHORT, join=JOIN)
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
        limits = (await served.http.get("/api/limits")).json()["limits"]
    billable = sum(Decimal(row["total_cost_usd"]) for row in rows if row["source"] == "bot")
    assert {row["billable"] for row in rows if row["source"] == "insights"} == {False}
    assert Decimal(thread.usage_stats["billable_cost_usd"]) == billable
    (used_up,) = [limit for limit in limits if limit["resource"] == "ai_credits"]
    assert Decimal(used_up["used"]) == billable * 100


async def test_a_running_call_that_was_given_up_elsewhere_ends(serving: Serve) -> None:
    silent = replace(SHORT, lines=(), hang_up=AfterBot(60.0))
    async with stood_in(silent) as standing, serving(standing) as served:
        running = asyncio.create_task(call(served.url, standing.api_key, silent, join=JOIN))
        thread_id = await _in_call(served)
        await served.service.database.finish_thread(thread_id, Status.FAILED)
        report = await running
        thread = await served.settled(report.workflow_thread_id)
        await served.conserved(thread)
    assert report.ended_by == "service"
    assert thread.status is Status.FAILED


async def _in_call(served: Serving) -> UUID:
    async with asyncio.timeout(SETTLE_SECS):
        while True:
            threads = (await served.http.get("/api/threads?status=in_call")).json()["threads"]
            if threads:
                return UUID(threads[0]["workflow_thread_id"])
            await asyncio.sleep(0.1)
