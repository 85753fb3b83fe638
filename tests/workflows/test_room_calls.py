"""Who has a call in a room: one process at a time, until it is silent, and then another."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from flow.db.database import Database
from flow.domain.calls.room import Room
from flow.domain.calls.room_call import OpenRoom, Place
from flow.domain.calls.thread import Status, ThreadTurn, Turn
from flow.errors import CallTakenOver, Conflict
from tests.db.making import a_key, a_thread

LATER = datetime.now(UTC) + timedelta(days=1)
ROOM = OpenRoom(Room("livekit", "wss://livekit.example.com", None, "flow-1"), LATER)
GRACE_SECS = 120


async def queued(database: Database, until: datetime = LATER) -> Place:
    """A call that waits for its first process."""
    thread = await a_thread(database, await a_key(database))
    await database.room_calls.queue(thread.id, ROOM, until, GRACE_SECS)
    return Place(thread.id, thread.api_key_id)


async def talking(database: Database, claim: str = "a-0/1") -> Place:
    """A call that a process has, with one turn said."""
    place = await queued(database)
    await database.room_calls.take(place, claim)
    turn = Turn(0, "assistant", "Hello!", datetime.now(UTC))
    await database.room_calls.touch(place.thread_id, claim, Status.IN_CALL)
    await database.save_turns([ThreadTurn(place.thread_id, turn)])
    return place


def silent_for(postgres_url: str, place: Place, seconds: int) -> None:
    """Let so much time pass since the last sign of life."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "update room_calls set heard_at = heard_at - make_interval(secs => %(s)s),"
            " taken_at = taken_at - make_interval(secs => %(s)s)",
            {"s": seconds},
        )
        connection.execute(
            "update workflow_threads set lease_until = lease_until - make_interval(secs => %s),"
            " connected_at = connected_at - make_interval(secs => %s)",
            (seconds, seconds),
        )


async def tries(database: Database, place: Place, claims: int) -> list[str]:
    """The claims of those who got the call, of many who try at once."""

    async def one(claim: str) -> str | None:
        try:
            await database.room_calls.take(place, claim)
        except CallTakenOver:
            return None
        return claim

    found = await asyncio.gather(*(one(f"p-{n}/x") for n in range(claims)))
    return [claim for claim in found if claim is not None]


async def test_one_of_many_gets_a_queued_call_with_all_it_needs(database: Database) -> None:
    place = await queued(database)
    (claim,) = await tries(database, place, 8)
    taken = await database.room_calls.take(place, claim)
    assert taken.open_room == ROOM
    assert (taken.thread.status, taken.is_under_way) == (Status.CONNECTING, False)
    assert 0 < taken.wait_secs <= 24 * 3600


async def test_a_call_is_queued_once_and_not_when_somebody_has_begun_it(
    database: Database,
) -> None:
    place = await queued(database)
    await database.room_calls.queue(place.thread_id, ROOM, LATER, 1)
    await database.room_calls.take(place, "a-0/1")
    with pytest.raises(Conflict, match="connecting"):
        await database.room_calls.queue(place.thread_id, ROOM, LATER, 1)


async def test_a_call_whose_caller_may_no_longer_come_is_left_to_expire(
    database: Database,
) -> None:
    place = await queued(database, datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(CallTakenOver):
        await database.room_calls.take(place, "a-0/1")


@pytest.mark.parametrize(
    ("silent_secs", "freed", "lost"),
    [(0, False, False), (14, False, False), (16, True, False), (GRACE_SECS + 76, False, True)],
    ids=["alive", "late", "silent", "past-the-grace"],
)
async def test_a_silent_call_is_freed_while_it_can_be_rejoined_and_lost_after_that(
    silent_secs: int, freed: bool, lost: bool, database: Database, postgres_url: str
) -> None:
    place = await talking(database)
    silent_for(postgres_url, place, silent_secs)
    free = await database.room_calls.free_silent(15)
    taken_over = await database.take_over_lost_threads(75, 0)
    thread = await database.get_workflow_thread_data(place.thread_id)
    again = Place(place.thread_id, place.api_key_id, 1)
    assert free == ([again] if freed else [])
    assert taken_over == ([place.thread_id] if lost else [])
    assert (thread.end_reason == "process_lost") is lost
    # Told again to all who ask: who freed it may be gone as well.
    assert await database.room_calls.free_silent(15) == free


async def test_who_was_silent_is_refused_everything_from_then_on(
    database: Database, postgres_url: str
) -> None:
    place = await talking(database)
    silent_for(postgres_url, place, 20)
    (again,) = await database.room_calls.free_silent(15)
    calls = database.room_calls
    with pytest.raises(CallTakenOver):
        await calls.touch(place.thread_id, "a-0/1")
    taken = await calls.take(again, "b-0/2")
    assert [turn.content for turn in taken.thread.transcript] == ["Hello!"]
    assert taken.thread.status is Status.IN_CALL
    assert 95 < taken.wait_secs <= 100
    assert taken.elapsed_secs is not None
    assert 20 <= taken.elapsed_secs < 30
    for late in (
        calls.save(place.thread_id, "a-0/1", status=Status.ENDED, end_reason="caller_hung_up"),
        calls.give_up(place.thread_id, "a-0/1", alive=True),
        calls.take(place, "a-0/1"),
    ):
        with pytest.raises(CallTakenOver):
            await late
    await calls.touch(place.thread_id, "b-0/2")
    thread = await database.get_workflow_thread_data(place.thread_id)
    assert (thread.status, thread.end_reason) == (Status.IN_CALL, None)


async def test_racing_watchers_free_a_call_once_and_racing_processes_get_it_once(
    database: Database, postgres_url: str
) -> None:
    place = await talking(database)
    silent_for(postgres_url, place, 20)
    await asyncio.gather(*(database.room_calls.free_silent(15) for _ in range(6)))
    (again,) = await database.room_calls.free_silent(15)
    assert again.attempt == 1
    assert len(await tries(database, again, 8)) == 1
    assert await database.room_calls.free_silent(15) == []


async def test_a_call_handed_over_may_be_rejoined_for_the_whole_grace(
    database: Database, postgres_url: str
) -> None:
    place = await talking(database)
    again = await database.room_calls.give_up(place.thread_id, "a-0/1", alive=True)
    silent_for(postgres_url, place, 100)
    taken = await database.room_calls.take(again, "b-0/1")
    assert 15 < taken.wait_secs <= 20
    # It could not enter the room: the grace goes on running.
    late = await database.room_calls.give_up(place.thread_id, "b-0/1", alive=False)
    silent_for(postgres_url, place, 60)
    with pytest.raises(CallTakenOver):
        await database.room_calls.take(late, "c-0/1")
    assert await database.take_over_lost_threads(75, 0) == [place.thread_id]


async def test_a_restarted_process_leaves_its_calls_to_whoever_is_first(
    database: Database,
) -> None:
    place, other = await talking(database), await talking(database, "b-0/1")
    assert await database.take_over_threads_of("a-0") == []
    again = Place(place.thread_id, place.api_key_id, 1)
    assert await database.room_calls.free_of("a-0") == [again]
    assert await database.room_calls.free_of("a-0") == []
    with pytest.raises(CallTakenOver):
        await database.room_calls.touch(place.thread_id, "a-0/1")
    await database.room_calls.touch(other.thread_id, "b-0/1")


async def test_others_writing_to_a_thread_are_no_sign_of_its_bots_life(
    database: Database, postgres_url: str
) -> None:
    place = await talking(database)
    silent_for(postgres_url, place, 20)
    await database.save_workflow_thread_data(place.thread_id, end_requested=True)
    (again,) = await database.room_calls.free_silent(15)
    assert (await database.room_calls.take(again, "b-0/1")).thread.end_requested


async def test_rooms_that_nobody_has_closed_are_told_until_they_are_forgotten(
    database: Database,
) -> None:
    place, running = await queued(database), await talking(database)
    await database.expire_threads(datetime.now(UTC) + timedelta(hours=1))
    left: list[tuple[UUID, OpenRoom]] = await database.room_calls.list_left(0)
    assert left == [(place.thread_id, ROOM)]
    assert await database.room_calls.list_left(20) == []
    await database.room_calls.forget(place.thread_id)
    assert await database.room_calls.list_left(0) == []
    await database.room_calls.touch(running.thread_id, "a-0/1")
