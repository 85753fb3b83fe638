"""Ending a call wherever it is in its life in a process."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from flow.bot.calls.registry import CallRegistry
from flow.domain.calls.ending import EndReason
from flow.errors import Conflict, Refused


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


NO_PLACE = [
    pytest.param(1, False, "at_capacity", id="full"),
    pytest.param(9, True, "shutting_down", id="closing"),
]


@pytest.mark.parametrize(("most", "is_closing", "code"), NO_PLACE)
async def test_a_place_is_given_only_where_there_is_one(
    most: int, is_closing: bool, code: str
) -> None:
    """Whoever asked before may come second."""
    registry, first = CallRegistry(most), uuid4()
    registry.reserve(first)
    if is_closing:
        registry.leave(first)
        await registry.close(0)
    with pytest.raises(Refused) as refused:
        registry.reserve(uuid4())
    assert refused.value.code == code
    assert registry.capacity.running == (0 if is_closing else 1)


def test_a_call_has_one_place_and_a_free_one_is_given_again() -> None:
    registry, thread_id = CallRegistry(2), uuid4()
    registry.reserve(thread_id)
    with pytest.raises(Conflict):
        registry.reserve(thread_id)
    registry.reserve(uuid4())
    registry.leave(thread_id)
    registry.reserve(uuid4())
    assert registry.capacity.full == "at_capacity"


@pytest.mark.parametrize(("can_move", "reason"), [(False, "shutdown"), (True, "handed_over")])
@pytest.mark.parametrize("begins", ["before", "late"])
async def test_a_call_is_ended_by_a_shutdown_also_if_it_begins_late_in_it(
    begins: str, can_move: bool, reason: str
) -> None:
    registry, thread_id, session = CallRegistry(2), uuid4(), Session()
    called: Any = session
    registry.reserve(thread_id)
    if begins == "before":
        registry.begin(thread_id, called, can_move=can_move)
    closing = asyncio.create_task(registry.close(0))
    await asyncio.sleep(0.01)
    if begins == "late":
        registry.begin(thread_id, called, can_move=can_move)
    assert session.ended == reason
    assert not closing.done()
    registry.leave(thread_id)
    await asyncio.wait_for(closing, 5)


async def test_a_shutdown_lets_calls_go_on_for_its_grace_time() -> None:
    registry, thread_id, session = CallRegistry(2), uuid4(), Session()
    called: Any = session
    registry.reserve(thread_id)
    registry.begin(thread_id, called, can_move=False)
    closing = asyncio.create_task(registry.close(30))
    await asyncio.sleep(0.01)
    assert session.ended is None
    assert registry.capacity.draining
    registry.leave(thread_id)
    await asyncio.wait_for(closing, 5)
    assert session.ended is None


async def test_a_shutdown_waits_for_what_is_left_to_do_for_a_call_that_is_over() -> None:
    registry, thread_id, free = CallRegistry(2), uuid4(), asyncio.Event()
    registry.reserve(thread_id)
    registry.spawn(free.wait())
    registry.leave(thread_id)
    closing = asyncio.create_task(registry.close(0))
    await asyncio.sleep(0.01)
    assert not closing.done()
    free.set()
    await asyncio.wait_for(closing, 5)
