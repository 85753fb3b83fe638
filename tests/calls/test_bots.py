"""Calls whose bot is of the operator's own: run, ended and accounted as any other."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flow.domain.calls.thread import Status
from flow.errors import ConfigurationError
from flow.sandbox.all_vendors import Vendors, vendors
from flow.sandbox.callers.caller import CallReport, call
from flow.sandbox.callers.script import AfterBot, Line
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.replies import Reply, ToolCall
from flow.sandbox.speech.synthesis import recordings
from tests.calls.conftest import Serve, key_of, quantity
from tests.calls.own_bots import CHEAPER, GREETING, OWN, by_bot
from tests.calls.test_call import JOIN, LONG, SHORT, SOON, stood_in
from tests.calls.test_rooms import house

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
BOOKING = replace(
    SHORT,
    greeting="Good evening! For how many people?",
    lines=(
        Line("For two people at half past seven.", "You have a table at half past seven.", SOON),
    ),
)
ARGUMENTS = '{"guests": 2, "time": "19:30"}'


def booked(messages: Any) -> Reply | str | None:
    """A model that books a table as soon as it is told to, and says so."""
    if "reservations for The Bluebird" not in str(messages[0].get("content")):
        return None
    if messages[-1]["role"] == "tool":
        return BOOKING.lines[0].reply
    return Reply(tool_calls=(ToolCall("book_table", ARGUMENTS),))


def example() -> str:
    """The file that the docs show."""
    found = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text("utf-8"), re.DOTALL)
    (text,) = (block for block in found if "async def bot(" in block)
    return str(text)


@asynccontextmanager
async def restaurant(script: Any) -> AsyncIterator[Vendors]:
    heard = recordings([line.text for line in BOOKING.lines], voice=BOOKING.voice)
    pace = Pace(first_token_secs=0.05, token_secs=BOOKING.token_secs)
    async with vendors(script, utterances=heard, pace=pace) as running:
        yield running


async def test_the_example_of_the_docs_takes_a_call(serving: Serve, tmp_path: Path) -> None:
    path = tmp_path / "booking.py"
    path.write_text(example())
    join = {
        "bot": {"name": "booking", "greeting": BOOKING.greeting},
        "metadata": {"restaurant": "The Bluebird"},
    }
    async with restaurant(booked) as standing, serving(standing, bots=str(path)) as served:
        report = await call(served.url, standing.api_key, BOOKING, join=join)
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "caller_hung_up")
    assert [(turn.role, turn.content) for turn in thread.transcript] == [
        ("assistant", BOOKING.greeting),
        ("user", BOOKING.lines[0].text),
        ("assistant", BOOKING.lines[0].reply),
    ]
    assert {row["kind"] for row in rows} == {"llm", "tts", "stt", "call"}
    assert sum(row["kind"] == "llm" and row["source"] == "bot" for row in rows) == 2
    assert {row["provenance"] for row in rows} <= {"reported", "measured"}


def named(bot: str) -> dict[str, Any]:
    return {"bot": {"name": bot, "system_prompt": SHORT.system_prompt}}


@pytest.mark.parametrize(
    "bot",
    ["nested", "two_models", "raises_afterwards", "speaks_first"],
)
async def test_a_call_is_accounted_to_the_last_token(bot: str, serving: Serve) -> None:
    async with stood_in(SHORT) as standing, serving(standing, bots=OWN) as served:
        join = named(bot) if bot == "speaks_first" else by_bot(JOIN, bot)
        report = await call(served.url, standing.api_key, SHORT, join=join)
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "caller_hung_up")
    assert [(turn.role, turn.content) for turn in thread.transcript] == [
        ("assistant", SHORT.greeting),
        ("user", SHORT.lines[0].text),
        ("assistant", SHORT.lines[0].reply),
    ]
    assert {row["kind"] for row in rows} == {"llm", "tts", "stt", "call"}
    generations = [row for row in rows if row["kind"] == "llm" and row["source"] == "bot"]
    assert len(generations) == (2 if bot in {"clears_up", "two_models"} else 1)
    models = {row["requested_model"] for row in generations}
    assert models == {"gpt-4.1", *([CHEAPER] if bot == "two_models" else [])}
    assert thread.usage_stats["estimated_events"] == 0


@pytest.mark.parametrize(
    ("bot", "models", "hangup"),
    [("clears_up", 2, "close"), ("two_models", 2, "abort"), ("two_models", 2, "end_api")],
)
async def test_a_call_that_ends_in_mid_sentence_is_accounted(
    bot: str, models: int, hangup: Any, serving: Serve
) -> None:
    async with stood_in(LONG) as standing, serving(standing, bots=OWN) as served:
        report = await call(
            served.url, standing.api_key, LONG, join=by_bot(JOIN, bot), hangup=hangup
        )
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.conserved(thread)
    assert thread.status is Status.COMPLETED
    assert thread.end_reason == ("ended_by_api" if hangup == "end_api" else "caller_hung_up")
    generations = [row for row in rows if row["kind"] == "llm" and row["source"] == "bot"]
    assert len(generations) == models
    # The other one is short, and whole.
    assert sum(row["outcome"] == "interrupted" for row in generations) == 1
    assert thread.transcript[-1].interrupted


async def test_services_that_a_bot_brings_along_are_counted_by_their_frames(
    serving: Serve,
) -> None:
    async with stood_in(SHORT) as standing, serving(standing, bots=OWN) as served:
        report = await call(served.url, standing.api_key, SHORT, join=by_bot(JOIN, "own_services"))
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.service.database.get_thread_usage(thread.id)
    said = SHORT.lines[0].text
    assert [turn.content for turn in thread.transcript] == [SHORT.greeting, said, said]
    counted = [row for row in rows if row["provider"] in {"parrot", "voice"}]
    characters = sum(quantity(row, "characters") for row in counted)
    assert characters == len(SHORT.greeting) + len(said)
    assert sum(quantity(row, "output_tokens") for row in counted) == 5
    assert all("usage frames" in row["note"] for row in counted)
    assert thread.usage_stats["unpriced_events"] == len(counted) == 3


SILENT = replace(SHORT, greeting="", lines=(), hang_up=AfterBot(60), patience_secs=60)
BRIEF = replace(SILENT, hang_up=AfterBot(0.1), patience_secs=0.1)
FAILING = (
    ("raises", "KeyError", "KeyError"),
    ("raises_in_mid_call", "KeyError", "KeyError"),
    ("gives_nothing", "ConfigurationError", "it gave NoneType, not a pipeline"),
    ("gives_a_number", "ConfigurationError", "it gave int, not a pipeline"),
    ("gives_a_name", "ConfigurationError", "its pipeline has a str in it"),
    ("deaf", "ConfigurationError", "call.transport.input() is not in its pipeline"),
    ("speaks_rtvi_itself", "ConfigurationError", "its pipeline has an RTVIProcessor"),
    ("unmetered", "ConfigurationError", "Nothing meters Voice"),
    ("unmetered_when_run", "ConfigurationError", "Nothing meters Voice"),
    ("one_name_twice", "ConfigurationError", "Two services are called 'tts'"),
    ("no_such_vendor", "ConfigurationError", "'acme' is not one of"),
    ("gives_a_worker", "ConfigurationError", "it gave PipelineWorker, not a pipeline"),
    ("no_model", "ConfigurationError", "name a model of 'anthropic'"),
    ("no_realtime", "ConfigurationError", "the join names no realtime model"),
    ("no_part", "ConfigurationError", "'ears' is not one of stt, llm, tts, realtime"),
    ("no_key", "ConfigurationError", "'groq' is not set up here"),
)
"""Bots, the type of the error that their calls end with, and how its message begins."""


async def test_a_bot_that_fails_ends_its_call_with_its_name_and_the_type_of_the_error(
    serving: Serve,
) -> None:
    async with (
        stood_in(SILENT) as standing,
        serving(standing, bots=OWN) as served,
    ):
        few = asyncio.Semaphore(4)

        async def failing(bot: str) -> CallReport:
            async with few:
                return await call(served.url, standing.api_key, SILENT, join=named(bot))

        reports = await asyncio.gather(*(failing(bot) for bot, _, _ in FAILING))
        threads = [await served.settled(report.workflow_thread_id) for report in reports]
        rows = [await served.service.database.get_thread_usage(thread.id) for thread in threads]
        assert standing.openai.bill.lines == []
    for (bot, error_type, said), report, thread in zip(FAILING, reports, threads, strict=True):
        assert report.closed == "4011 error: bot_failed", bot
        assert (thread.status, thread.end_reason) == (Status.FAILED, "error"), bot
        assert thread.error is not None, bot
        message = thread.error.pop("message")
        assert message.startswith(f"the bot {bot!r} failed: {said}")
        assert thread.error == {"code": "bot_failed", "bot": bot, "error_type": error_type}
        assert "what was said" not in message
    # One had begun its call.
    assert [row["kind"] for counted in rows for row in counted] == ["call"]


async def test_a_model_that_speaks_by_itself_says_the_greeting_and_is_counted_by_modality(
    serving: Serve,
) -> None:
    async with stood_in(SHORT) as standing, serving(standing, bots=OWN) as served:
        join = by_bot(JOIN, "speaks_itself")
        report = await call(served.url, standing.api_key, SHORT, join=join)
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.service.database.get_thread_usage(thread.id)
    assert [(turn.role, turn.content) for turn in thread.transcript] == [
        ("assistant", GREETING),
        ("user", SHORT.lines[0].text),
        ("assistant", GREETING),
    ]
    counted = [row for row in rows if row["provider"] == "talker"]
    assert len(counted) == 2
    for row in counted:
        assert {line["unit"]: Decimal(line["quantity"]) for line in row["lines"]} == {
            "input_tokens": 80,
            "input_audio_tokens": 50,
            "cache_read_tokens": 20,
            "cache_read_audio_tokens": 10,
            "output_tokens": 40,
            "output_audio_tokens": 30,
        }


async def test_a_bot_waits_in_a_room_as_the_built_in_one_does(serving: Serve) -> None:
    async with stood_in(SHORT) as standing, house(serving, standing, bots=OWN) as at:
        join = by_bot(at.join_request, "clears_up")
        report = await call(at.served.url, standing.api_key, SHORT, join=join, carrier=at.carrier)
        thread = await at.served.settled(report.workflow_thread_id)
        rows = await at.served.conserved(thread)
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "caller_hung_up")
    assert [turn.role for turn in thread.transcript] == ["assistant", "user", "assistant"]
    assert sum(row["kind"] == "llm" and row["source"] == "bot" for row in rows) == 2


async def test_what_no_frame_tells_of_a_service_that_a_bot_brings_along_is_on_record(
    serving: Serve,
) -> None:
    async with stood_in(BRIEF) as standing, serving(standing, bots=OWN) as served:
        report = await call(served.url, standing.api_key, BRIEF, join=named("infers_unseen"))
        thread = await served.settled(report.workflow_thread_id)
        rows = await served.service.database.get_thread_usage(thread.id)
    assert [(r["provider"], r["provenance"]) for r in rows if r["kind"] == "llm"] == [
        ("parrot", "unmetered")
    ]


async def test_a_bot_whose_services_have_no_price_is_not_for_a_key_with_a_budget(
    serving: Serve,
) -> None:
    async with stood_in(SILENT) as standing, serving(standing, bots=OWN) as served:
        database = served.service.database
        await database.operating.set_budget(await key_of(served.http, database), Decimal(5))
        report = await call(served.url, standing.api_key, SILENT, join=named("own_services"))
        thread = await served.settled(report.workflow_thread_id)
    assert thread.error is not None
    assert "no price is known for parrot/unknown, voice/unknown" in thread.error["message"]


async def test_a_bot_that_has_done_ends_the_call(serving: Serve) -> None:
    async with stood_in(SILENT) as standing, serving(standing, bots=OWN) as served:
        join = named("returns_in_mid_call")
        report = await call(served.url, standing.api_key, SILENT, join=join)
        thread = await served.settled(report.workflow_thread_id)
    assert report.closed == "1000 ended"
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "pipeline_ended")


@pytest.mark.parametrize("bot", ["slow", "without_aggregators"])
async def test_a_call_that_is_hung_up_at_once_ends(bot: str, serving: Serve) -> None:
    async with stood_in(BRIEF) as standing, serving(standing, bots=OWN) as served:
        report = await call(served.url, standing.api_key, BRIEF, join=named(bot))
        thread = await served.settled(report.workflow_thread_id)
        await served.conserved(thread)
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "caller_hung_up")


async def test_a_bot_that_is_none_is_refused_with_those_there_are(
    serving: Serve, tmp_path: Path
) -> None:
    path = tmp_path / "booking.py"
    path.write_text(example())
    async with stood_in(SHORT) as standing, serving(standing, bots=str(path)) as served:
        answer = await served.http.post("/api/bot/join", json=named("support"))
    assert answer.status_code == 422
    (problem,) = answer.json()["errors"]
    assert problem["field"] == "bot.name"
    assert problem["message"] == "'support' is not one of booking"


async def test_a_bot_that_cannot_be_had_stops_the_start(serving: Serve) -> None:
    async with stood_in(SHORT) as standing:
        with pytest.raises(ConfigurationError, match="FLOW_BOTS: no_such_bots cannot be imported"):
            async with serving(standing, bots="no_such_bots"):
                pass
