"""Joins for a room: what becomes of a thread whose bot cannot wait there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime

import pytest

from flow.domain.calls.join_request import Transport
from flow.domain.calls.room import Meeting
from flow.domain.calls.thread import Status, Thread
from flow.errors import TransportUnavailable
from tests.api.conftest import ServeApi
from tests.calls.holding import claimed, so_many_wait

JOIN = {"transport": {"type": "daily"}}


@dataclass
class Rooms:
    """A vendor that opens no rooms. With ``race`` a repeat of the join has had more luck: its bot
    is about to have the call when this one is refused."""

    race: str | None = None
    stack: ExitStack = field(default_factory=ExitStack)
    threads: list[Thread] = field(default_factory=list)
    committing: asyncio.Task[None] | None = None

    def check(self, transport: Transport) -> None:
        return None

    def stays_here(self, transport: Transport) -> bool:
        return False

    async def begin(self, thread: Thread, transport: Transport, until: datetime) -> Meeting:
        self.threads.append(thread)
        if self.race is not None:
            commit = self.stack.enter_context(claimed(self.race, thread.id))

            async def soon(url: str) -> None:
                await so_many_wait(url, 1)
                commit()

            self.committing = asyncio.create_task(soon(self.race))
        raise TransportUnavailable("The vendor opens no room.")

    async def invite(self, thread: Thread, transport: Transport, until: datetime) -> Meeting:
        raise AssertionError("nobody is invited")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def test_a_thread_whose_room_cannot_be_opened_is_cancelled(serve_api: ServeApi) -> None:
    rooms = Rooms()
    api = await serve_api(rooms=rooms)
    answer = await api.client.post("/api/bot/join", json=JOIN)
    assert (answer.status_code, answer.json()["code"]) == (503, "transport_unavailable")
    (thread,) = rooms.threads
    found = await api.database.get_workflow_thread_data(thread.id)
    assert found.status is Status.CANCELLED


async def test_a_call_that_a_repeat_has_begun_meanwhile_is_not_cancelled(
    serve_api: ServeApi, postgres_url: str, stack: ExitStack
) -> None:
    rooms = Rooms(race=postgres_url, stack=stack)
    api = await serve_api(rooms=rooms)
    answer = await api.client.post("/api/bot/join", json=JOIN)
    assert (answer.status_code, answer.json()["code"]) == (503, "transport_unavailable")
    assert rooms.committing is not None
    await rooms.committing
    (thread,) = rooms.threads
    found = await api.database.get_workflow_thread_data(thread.id)
    assert found.status is Status.CONNECTING
