"""Calls whose bot is of the operator's own: run, ended and accounted as any other."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flow.domain.calls.thread import Status
from flow.errors import ConfigurationError
from flow.sandbox.all_vendors import Vendors, vendors
from flow.sandbox.callers.caller import call
from flow.sandbox.callers.script import Line
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.replies import Reply, ToolCall
from flow.sandbox.speech.synthesis import recordings
from tests.calls.conftest import Serve
from tests.calls.test_call import SHORT, SOON

DOCS = Path(__file__).parents[2] / "docs" / "bots.md"
BOOKING = replace(
    SHORT,
    greeting="Good evening! For how many people?",
    lines=(Line("For two people at half past seven.", "You have a table at half past seven.", SOON),),
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
    (text, *_) = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    return str(text)


@asynccontextmanager
async def stood_in(script: Any) -> AsyncIterator[Vendors]:
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
    async with stood_in(booked) as standing, serving(standing, bots=str(path)) as served:
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
