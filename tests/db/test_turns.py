"""Turns and signs of life, each by itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from flow.db.database import Database
from flow.domain.calls.latency import TurnLatency
from flow.domain.calls.thread import Pulse, Status, ThreadTurn, Turn
from flow.errors import IllegalTransition, NotFound
from tests.db.making import a_key, a_thread

T0 = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def said(thread_id: UUID, count: int) -> list[ThreadTurn]:
    return [
        ThreadTurn(thread_id, Turn(n, "user", f"line {n}", T0 + timedelta(seconds=n), n % 2 == 1))
        for n in range(count)
    ]


async def test_turns_of_many_threads_are_stored_once_in_their_order(database: Database) -> None:
    key = await a_key(database)
    one, other = await a_thread(database, key), await a_thread(database, key)
    turns = said(one.id, 4) + said(other.id, 2)
    assert await database.save_turns(turns[::-1]) == frozenset()
    await asyncio.gather(*(database.save_turns(turns[n:]) for n in range(4)))
    for thread, count in ((one, 4), (other, 2)):
        saved = await database.get_workflow_thread_data(thread.id)
        assert list(saved.transcript) == [turn.turn for turn in said(thread.id, count)]


async def test_a_reply_keeps_how_long_it_was_waited_for(database: Database) -> None:
    thread = await a_thread(database, await a_key(database))
    latency = TurnLatency(0.612, 0.1, 0.3, 0.05, 0.2, 0.009)
    reply = Turn(1, "assistant", "Yes.", T0, latency=latency)
    await database.save_turns([ThreadTurn(thread.id, reply)])
    later = replace(reply, seq=2, latency=replace(latency, tts_secs=1.25))
    saved = await database.save_workflow_thread_data(thread.id, turns=[later])
    assert saved.transcript == (reply, later)


async def test_a_thread_that_is_over_takes_what_was_said_in_it(database: Database) -> None:
    thread = await a_thread(database, await a_key(database))
    await database.save_turns(said(thread.id, 1))
    over = await database.finish_thread(thread.id, Status.FAILED, error={"code": "process_lost"})
    await database.save_turns(said(thread.id, 3))
    saved = await database.get_workflow_thread_data(thread.id)
    assert [turn.seq for turn in saved.transcript] == [0, 1, 2]
    assert (saved.status, saved.completed_at) == (Status.FAILED, over.completed_at)


async def test_a_thread_that_is_gone_does_not_hold_up_the_others(database: Database) -> None:
    thread, gone = await a_thread(database, await a_key(database)), uuid4()
    assert await database.save_turns(said(gone, 2) + said(thread.id, 1)) == {gone}
    assert len((await database.get_workflow_thread_data(thread.id)).transcript) == 1


async def test_a_late_turn_is_no_sign_of_life(direct: Database, postgres_url: str) -> None:
    thread = await a_thread(direct, await a_key(direct))
    await direct.claim_thread(thread.id, "somebody/1")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        query = "select heartbeat_at, lease_until from workflow_threads where id = %s"
        before = connection.execute(query, (thread.id,)).fetchone()
        await direct.save_turns(said(thread.id, 1))
        assert connection.execute(query, (thread.id,)).fetchone() == before
        await direct.touch_thread(thread.id)
        after = connection.execute(query, (thread.id,)).fetchone()
    assert before is not None
    assert after is not None
    assert all(new > old for new, old in zip(after, before, strict=True))


async def test_a_sign_of_life_renews_moves_and_hears_what_is_asked(database: Database) -> None:
    thread = await a_thread(database, await a_key(database))
    await database.claim_thread(thread.id, "somebody/1")
    moved = await database.touch_thread(thread.id, Status.IN_CALL)
    assert moved == await database.touch_thread(thread.id) == Pulse(Status.IN_CALL, False)
    await database.save_workflow_thread_data(thread.id, end_requested=True)
    assert await database.touch_thread(thread.id) == Pulse(Status.IN_CALL, True)
    with pytest.raises(IllegalTransition, match="in_call to created"):
        await database.touch_thread(thread.id, Status.CREATED)
    with pytest.raises(NotFound):
        await database.touch_thread(uuid4())


async def test_of_a_turn_that_is_sent_again_with_other_words_the_first_stays(
    database: Database,
) -> None:
    thread = await a_thread(database, await a_key(database))
    first = Turn(0, "user", "Yes.", T0)
    await database.save_turns([ThreadTurn(thread.id, first)])
    again = Turn(0, "assistant", "No.", T0 + timedelta(seconds=9), interrupted=True)
    await database.save_turns([ThreadTurn(thread.id, again)])
    saved = await database.get_workflow_thread_data(thread.id)
    assert saved.transcript == (first,)
