"""Turns of whole calls: what ends them, and replies that are thrown away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flow.sandbox.callers.caller import call
from flow.sandbox.callers.script import Line
from tests.calls.conftest import Serve
from tests.calls.test_call import JOIN, SHORT, SOON, stood_in

# espeak is silent for 0.6 s between the two sentences.
GOES_ON = replace(
    SHORT,
    lines=(
        Line(
            "I would like a table.\n\nFor four people, please.",
            "Of course. When would you like to come, and is there anything that we should know?",
            SOON,
        ),
    ),
    token_secs=0.06,
)


async def test_a_reply_that_is_thrown_away_is_in_the_account(serving: Serve) -> None:
    # After a sentence half of this silence ends a turn.
    silence = {"turn_silence_secs": 2.6}
    async with stood_in(GOES_ON) as standing, serving(standing, **silence) as served:
        report = await call(served.url, standing.api_key, GOES_ON, join=JOIN)
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
    said = " ".join(GOES_ON.lines[0].text.split())
    assert [turn.content for turn in thread.transcript] == [
        SHORT.greeting,
        said,
        GOES_ON.lines[0].reply,
    ]
    generations = [row for row in rows if (row["kind"], row["source"]) == ("llm", "bot")]
    assert sorted(row["outcome"] for row in generations) == ["interrupted", "ok"]
    assert thread.usage_stats["interrupted_generations"] == 1
    assert thread.transcript[2].latency is not None
    # The model was asked while the silence was waited for.
    assert thread.transcript[2].latency.llm_secs < 0.05


async def test_smart_turn_may_tell_turns_where_a_join_asks_for_it(serving: Serve) -> None:
    bot: dict[str, Any] = JOIN["bot"] | {"turn_detection": "smart"}
    async with stood_in(SHORT) as standing, serving(standing) as served:
        report = await call(served.url, standing.api_key, SHORT, join={"bot": bot})
        thread = await served.settled(report.workflow_thread_id)
        await served.conserved(thread)
    assert [turn.content for turn in thread.transcript][1:] == [
        SHORT.lines[0].text,
        SHORT.lines[0].reply,
    ]
    assert thread.join.bot.turn_detection == "smart"


@pytest.mark.parametrize("detection", ["vendor", "guess"])
async def test_turn_detection_that_is_none_is_named(detection: str, serving: Serve) -> None:
    async with stood_in(SHORT) as standing, serving(standing) as served:
        answer = await served.http.post(
            "/api/bot/join", json={"bot": {"turn_detection": detection}}
        )
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["bot.turn_detection"]
