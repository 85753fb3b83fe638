"""Ending a call wherever it is in its life in a process."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from flow.bot.calls.registry import Roster


class Session:
    """A session as the roster ends it: the first reason stands."""

    def __init__(self) -> None:
        self.ended: str | None = None

    def end(self, reason: str) -> None:
        self.ended = self.ended or reason


@pytest.mark.parametrize("ended_after", ["reserved", "begun"])
def test_a_call_is_ended_also_while_it_is_being_set_up(ended_after: str) -> None:
    roster, thread_id, session = Roster(2), uuid4(), Session()
    called: Any = session
    roster.reserve(thread_id)
    if ended_after == "reserved":
        assert roster.end(thread_id, "ended_by_api")
    roster.begin(thread_id, called, can_move=False)
    if ended_after == "begun":
        assert roster.end(thread_id, "ended_by_api")
    assert session.ended == "ended_by_api"


def test_a_call_that_is_not_here_is_not_ended_here() -> None:
    roster, thread_id = Roster(2), uuid4()
    assert not roster.end(thread_id, "ended_by_api")
    roster.reserve(thread_id)
    roster.leave(thread_id)
    assert not roster.end(thread_id, "ended_by_api")


def test_the_end_of_a_call_that_never_began_is_not_the_next_one_s() -> None:
    """A room's call may come back to the process that gave it up."""
    roster, thread_id, session = Roster(2), uuid4(), Session()
    called: Any = session
    roster.reserve(thread_id)
    roster.end(thread_id, "ended_by_api")
    roster.leave(thread_id)
    roster.reserve(thread_id)
    roster.begin(thread_id, called, can_move=True)
    assert session.ended is None
