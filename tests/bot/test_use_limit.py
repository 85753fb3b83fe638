"""How many uses of tools there are in a row, and what begins another row."""

from __future__ import annotations

from uuid import uuid4

import pytest

from flow.bot.tools.use_limit import USES_IN_A_ROW, UseLimit
from flow.bot.transcript import Transcript

NOW = "2026-11-21T05:26:03+00:00"


@pytest.mark.parametrize(
    ("role", "text", "begins"),
    [("user", "And now?", True), ("user", " ", False), ("assistant", "One moment.", False)],
)
def test_what_the_caller_says_begins_another_row(role: str, text: str, begins: bool) -> None:
    limit = UseLimit()
    transcript = Transcript(lambda *_: None, uuid4(), caller_said=limit.begin_again)
    assert all(limit.take() for _ in range(USES_IN_A_ROW))
    transcript.add(role, text, NOW)
    assert limit.take() is begins


def test_a_reply_is_wanted_until_the_model_calls_on_though_it_was_told() -> None:
    limit = UseLimit()
    for _ in range(USES_IN_A_ROW):
        limit.note_calls()
        limit.take()
    limit.note_calls()
    assert [(limit.take(), limit.is_reply_wanted) for _ in range(3)] == [(False, True)] * 3
    limit.note_calls()
    assert (limit.take(), limit.is_reply_wanted) == (False, False)
    limit.begin_again()
    assert (limit.take(), limit.is_reply_wanted) == (True, True)
