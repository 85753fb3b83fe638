"""Ending a call wherever it is in its life in a process."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from flow.bot.calls.registry import CallRegistry
from flow.domain.calls.ending import EndReason


class Session:
    """A session as the registry ends it: the first reason stands."""

    def __init__(self) -> None:
        self.ended: str | None = None

    def end(self, reason: str) -> None:
        self.ended = self.ended or reason


@pytest.mark.parametrize("ended_after", ["reserved", "begun"])
def test_a_call_is_ended_also_while_it_is_being_set_up(ended_after: str) -> None:
    registry, thread_id, session = CallRegistry(2), uuid4(), Session()
    called: Any = session
    registry.reserve(thread_id)
    if ended_after == "reserved":
        assert registry.end(thread_id, EndReason.ENDED_BY_API)
    registry.begin(thread_id, called, can_move=False)
    if ended_after == "begun":
        assert registry.end(thread_id, EndReason.ENDED_BY_API)
    assert session.ended is EndReason.ENDED_BY_API


def test_a_call_that_is_not_here_is_not_ended_here() -> None:
    registry, thread_id = CallRegistry(2), uuid4()
    assert not registry.end(thread_id, EndReason.ENDED_BY_API)
    registry.reserve(thread_id)
    registry.leave(thread_id)
    assert not registry.end(thread_id, EndReason.ENDED_BY_API)


def test_the_end_of_a_call_that_never_began_is_not_the_next_one_s() -> None:
    """A room's call may come back to the process that gave it up."""
    registry, thread_id, session = CallRegistry(2), uuid4(), Session()
    called: Any = session
    registry.reserve(thread_id)
    registry.end(thread_id, EndReason.ENDED_BY_API)
    registry.leave(thread_id)
    registry.reserve(thread_id)
    registry.begin(thread_id, called, can_move=True)
    assert session.ended is None
