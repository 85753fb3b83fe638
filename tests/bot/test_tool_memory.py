"""What a bot that takes up a call remembers of its tools, and what it never does again."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from flow.bot.pipeline import spoken_by_voice
from flow.bot.tools.call_tools import CallTools
from flow.bot.tools.memory import messages_of
from flow.bot.tools.voice import ToolVoice
from flow.bot.tools.waiting import waiting_sentence
from flow.domain.calls.thread import Turn
from flow.domain.calls.tool_call import ToolCall, ToolOutcome
from flow.insights.schema_checker import Checker
from tests.notebook import Notebook

T0 = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SAID = [Turn(0, "user", "Book it.", T0), Turn(1, "assistant", "Done.", T0 + timedelta(seconds=9))]
BOOKED = ToolCall(
    UUID(int=1),
    "book",
    {"name": "Ada"},
    T0 + timedelta(seconds=2),
    ToolOutcome.OK,
    0.5,
    200,
    {"result": {"time": "18:00"}},
)
CUT_OFF = replace(
    BOOKED,
    id=UUID(int=2),
    started_at=T0 + timedelta(seconds=20),
    outcome=ToolOutcome.RUNNING,
    seconds=None,
    status=None,
    result=None,
)


def test_what_tools_did_is_remembered_where_it_happened() -> None:
    user, asked, answer, assistant, *rest = messages_of(SAID, [BOOKED, CUT_OFF], in_words=False)
    (call,) = asked["tool_calls"]
    assert (user["role"], assistant["content"]) == ("user", "Done.")
    assert call["function"] == {"name": "book", "arguments": '{"name": "Ada"}'}
    assert (answer["tool_call_id"], answer["content"]) == (
        call["id"], '{"result": {"time": "18:00"}}',
    )  # fmt: skip
    assert json.loads(rest[1]["content"])["error"] == "unknown"
    assert "Do not do it again" in rest[1]["content"].replace("not\n", "not ")


def test_a_session_is_told_of_tools_in_words() -> None:
    _, told, _, cut_off = messages_of(SAID, [BOOKED, CUT_OFF], in_words=True)
    assert told["role"] == cut_off["role"] == "developer"
    assert 'you used book with {"name": "Ada"}' in told["content"]
    assert '{"time": "18:00"}' in told["content"]
    assert "not known" in cut_off["content"]


def test_what_was_under_way_in_a_dead_process_is_put_on_record_as_unknown() -> None:
    notebook = Notebook()
    voice = ToolVoice(spoken_by_voice)
    check = Checker().problems
    CallTools(UUID(int=9), [], voice, notebook, check, earlier=[BOOKED, CUT_OFF])
    assert notebook.tool_calls == [replace(CUT_OFF, outcome=ToolOutcome.UNKNOWN)]


@pytest.mark.parametrize(
    ("language", "sentence"),
    [
        (None, "One moment, please."),
        ("de", "Einen Moment, bitte."),
        ("pt-BR", "Um momento, por favor."),
        ("ja", ""),
    ],
)
def test_a_bot_waits_in_its_own_language(language: str | None, sentence: str) -> None:
    assert waiting_sentence(language) == sentence
