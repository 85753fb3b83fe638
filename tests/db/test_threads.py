"""Keys and threads, over both transports."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from flow.db.database import Database
from flow.db.postgres_transport import PostgresTransport
from flow.domain.calls.thread import Status, Thread, Turn
from flow.errors import Conflict, IllegalTransition, InvalidInput, NotFound
from tests.db.making import JOIN, a_key, a_thread, account_of

T0 = datetime(2026, 11, 21, 12, 0, 0, 250_000, tzinfo=UTC)

LEGAL = {
    ("created", "connecting"),
    ("created", "failed"),
    ("created", "expired"),
    ("created", "cancelled"),
    ("connecting", "in_call"),
    ("connecting", "ended"),
    ("connecting", "failed"),
    ("connecting", "expired"),
    ("connecting", "cancelled"),
    ("in_call", "ended"),
    ("in_call", "failed"),
    ("ended", "extracting"),
    ("ended", "completed"),
    ("ended", "failed"),
    ("extracting", "completed"),
    ("extracting", "failed"),
}
WAY_TO = {
    Status.CREATED: (),
    Status.CONNECTING: (Status.CONNECTING,),
    Status.IN_CALL: (Status.CONNECTING, Status.IN_CALL),
    Status.ENDED: (Status.CONNECTING, Status.IN_CALL, Status.ENDED),
    Status.EXTRACTING: (Status.CONNECTING, Status.IN_CALL, Status.ENDED, Status.EXTRACTING),
    Status.COMPLETED: (Status.CONNECTING, Status.IN_CALL, Status.ENDED, Status.COMPLETED),
    Status.FAILED: (Status.FAILED,),
    Status.EXPIRED: (Status.EXPIRED,),
    Status.CANCELLED: (Status.CANCELLED,),
}


async def test_a_key_keeps_its_row_and_follows_unkeys_team_and_name(database: Database) -> None:
    name = f"key_{uuid4().hex}"
    first = await database.resolve_api_key(name, "team_1", "Support line")
    assert await database.resolve_api_key(name, "team_1", "Support line") == first
    moved = await database.resolve_api_key(name, "team_2", None)
    assert (moved.id, moved.team_id, moved.name) == (first.id, "team_2", None)


async def test_one_row_for_a_key_that_many_requests_see_first(database: Database) -> None:
    name = f"key_{uuid4().hex}"
    keys = await asyncio.gather(*(database.resolve_api_key(name, "t", None) for _ in range(8)))
    assert len({key.id for key in keys}) == 1


async def test_a_join_creates_a_thread_with_an_empty_account(database: Database) -> None:
    key = await a_key(database)
    thread_id = uuid4()
    joined = await database.join_thread(
        key, thread_id, JOIN, billable=False, idempotency_key=None, fingerprint="f"
    )
    thread = joined.thread
    assert not joined.replayed
    assert (thread.id, thread.api_key_id, thread.team_id) == (thread_id, key.id, key.team_id)
    assert (thread.product, thread.billable) == ("voice_bot", False)
    assert thread.status is Status.CREATED
    assert (thread.join, thread.metadata) == (JOIN, {"order": 7})
    assert isinstance(thread.join.bot.llm.temperature, float)
    assert thread.usage_stats == account_of(thread_id, [])
    assert (thread.connected_at, thread.ended_at, thread.completed_at) == (None, None, None)
    assert await database.get_workflow_thread_data(thread_id, key.id) == thread


async def test_racing_joins_with_one_idempotency_key_make_one_thread(database: Database) -> None:
    key = await a_key(database)

    async def join() -> tuple[object, bool]:
        joined = await database.join_thread(
            key, uuid4(), JOIN, billable=True, idempotency_key="once", fingerprint="f"
        )
        return joined.thread.id, joined.replayed

    outcomes = await asyncio.gather(*(join() for _ in range(20)))
    assert len({thread_id for thread_id, _ in outcomes}) == 1
    assert sorted(replayed for _, replayed in outcomes) == [False] + [True] * 19


async def test_an_idempotency_key_is_one_customers_own(database: Database) -> None:
    ours, theirs = await a_key(database), await a_key(database)
    first = await a_thread(database, ours, idempotency_key="same")
    assert (await a_thread(database, theirs, idempotency_key="same")).id != first.id


async def test_another_request_under_the_same_idempotency_key_is_refused(
    database: Database,
) -> None:
    key = await a_key(database)
    await a_thread(database, key, idempotency_key="once")
    with pytest.raises(Conflict) as refusal:
        await database.join_thread(
            key, uuid4(), JOIN, billable=True, idempotency_key="once", fingerprint="other"
        )
    assert refusal.value.code == "idempotency_conflict"


async def test_the_same_join_sent_again_is_a_replay(database: Database) -> None:
    key, thread_id = await a_key(database), uuid4()
    sent = [
        await database.join_thread(
            key, thread_id, JOIN, billable=True, idempotency_key=None, fingerprint="f"
        )
        for _ in range(2)
    ]
    assert [joined.replayed for joined in sent] == [False, True]
    assert sent[0].thread == sent[1].thread


async def test_a_thread_id_of_another_key_is_taken(database: Database) -> None:
    thread = await a_thread(database, await a_key(database))
    with pytest.raises(Conflict):
        await database.join_thread(
            await a_key(database),
            thread.id,
            JOIN,
            billable=True,
            idempotency_key=None,
            fingerprint="same",
        )


@pytest.mark.parametrize("origin", Status)
async def test_only_the_legal_moves_are_made(database: Database, origin: Status) -> None:
    key = await a_key(database)
    for goal in Status:
        thread = await a_thread(database, key)
        for step in WAY_TO[origin]:
            await database.save_workflow_thread_data(thread.id, status=step)
        if goal is origin or (origin.value, goal.value) in LEGAL:
            moved = await database.save_workflow_thread_data(thread.id, status=goal)
            assert moved.status is goal
        else:
            with pytest.raises(IllegalTransition, match=f"{origin.value} to {goal.value}"):
                await database.save_workflow_thread_data(thread.id, status=goal)
            kept = await database.get_workflow_thread_data(thread.id)
            assert kept.status is origin


async def test_times_are_set_by_the_first_move_into_a_state(database: Database) -> None:
    thread = await a_thread(database, await a_key(database))
    for status in (Status.CONNECTING, Status.IN_CALL, Status.IN_CALL):
        thread = await database.save_workflow_thread_data(thread.id, status=status)
    connected_at = thread.connected_at
    assert connected_at is not None
    assert (thread.ended_at, thread.completed_at) == (None, None)
    thread = await database.save_workflow_thread_data(thread.id, status=Status.ENDED)
    assert (thread.connected_at, thread.completed_at) == (connected_at, None)
    done = await database.finish_thread(thread.id, Status.COMPLETED)
    assert (done.connected_at, done.ended_at) == (connected_at, thread.ended_at)
    assert done.ended_at is not None
    assert done.completed_at is not None
    assert connected_at <= done.ended_at <= done.completed_at


async def test_a_connected_call_that_fails_has_ended(database: Database) -> None:
    thread = await a_thread(database, await a_key(database))
    never_connected = await database.finish_thread(thread.id, Status.FAILED, error={"code": "x"})
    assert (never_connected.ended_at, never_connected.error) == (None, {"code": "x"})
    thread = await a_thread(database, await a_key(database))
    for status in (Status.CONNECTING, Status.IN_CALL, Status.FAILED):
        thread = await database.save_workflow_thread_data(thread.id, status=status)
    assert thread.ended_at is not None


async def test_saving_adds_what_is_new_and_leaves_the_rest(database: Database) -> None:
    thread = await a_thread(database, await a_key(database))
    hello = Turn(0, "user", "hello", T0)
    answer = Turn(1, "assistant", "hi th", T0 + timedelta(seconds=1), interrupted=True)
    await database.save_workflow_thread_data(thread.id, turns=[answer, hello])
    whole = Turn(1, "assistant", "hi there", answer.started_at)
    await database.save_workflow_thread_data(
        thread.id, turns=[whole], insights={"score": 0.5}, end_reason="hangup"
    )
    saved = await database.save_workflow_thread_data(thread.id, error={"code": "e"})
    assert saved.transcript == (hello, whole)
    assert (saved.insights, saved.end_reason, saved.error) == (
        {"score": 0.5},
        "hangup",
        {"code": "e"},
    )
    assert not saved.end_requested
    asked = await database.save_workflow_thread_data(thread.id, end_requested=True)
    assert asked.end_requested
    assert (await database.save_workflow_thread_data(thread.id)).end_requested
    assert await database.get_workflow_thread_data(thread.id) == asked


async def test_characters_postgres_cannot_hold_are_replaced(database: Database) -> None:
    thread = await a_thread(database, await a_key(database))
    saved = await database.save_workflow_thread_data(
        thread.id,
        turns=[Turn(0, "user", "a\0b 😀 é \ud800", T0)],
        insights={"note": "\0", "score": float("nan"), "k\0": [float("inf"), "\udfff"]},
        end_reason="x\0y",
    )
    assert saved.transcript[0].content == "a\ufffdb 😀 é \ufffd"
    assert saved.insights == {"note": "\ufffd", "score": None, "k\ufffd": [None, "\ufffd"]}
    assert saved.end_reason == "x\ufffdy"


async def test_a_call_is_claimed_by_one_alone(database: Database) -> None:
    thread = await a_thread(database, await a_key(database))

    async def claim(name: str) -> Thread:
        return await database.claim_thread(thread.id, name)

    outcomes = await asyncio.gather(
        *(claim(f"claim {n}") for n in range(8)), return_exceptions=True
    )
    (winner,) = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Thread)]
    refusals = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
    assert [refusal.code for refusal in refusals] == ["already_connected"] * 7
    assert (await claim(f"claim {winner}")).status is Status.CONNECTING


@pytest.mark.parametrize("status", Status)
async def test_ending_a_thread_cancels_it_or_asks_for_its_end(
    database: Database, status: Status
) -> None:
    key = await a_key(database)
    thread = await a_thread(database, key)
    for step in WAY_TO[status]:
        thread = await database.save_workflow_thread_data(thread.id, status=step)
    for _ in range(2):
        ended = await database.end_thread(thread.id, key.id)
        if status is Status.CREATED:
            assert (ended.status, ended.end_requested) == (Status.CANCELLED, False)
        else:
            is_running = status in {Status.CONNECTING, Status.IN_CALL}
            assert (ended.status, ended.end_requested) == (status, is_running)
        assert await database.get_workflow_thread_data(thread.id) == ended


async def test_asking_for_the_end_is_no_sign_of_life(
    direct: Database, sql: psycopg.Connection
) -> None:
    key = await a_key(direct)
    thread = await a_thread(direct, key)
    await direct.claim_thread(thread.id, "somebody")
    query = "select heartbeat_at, lease_until from workflow_threads"
    before = sql.execute(query).fetchall()
    assert (await direct.end_thread(thread.id, key.id)).end_requested
    assert sql.execute(query).fetchall() == before


async def test_a_thread_that_was_cancelled_is_connected_by_nobody(postgres_url: str) -> None:
    """However an end and a connect meet, the call is cancelled or is asked to end: never both."""
    database = Database(await PostgresTransport.open(postgres_url, max_size=20))
    key = await a_key(database)
    threads = [await a_thread(database, key) for _ in range(40)]

    async def race(n: int, thread: Thread) -> tuple[bool, Thread]:
        async def connect() -> bool:
            try:
                await database.claim_thread(thread.id, "somebody")
                await database.save_workflow_thread_data(thread.id, status=Status.IN_CALL)
            except Conflict:
                return False
            return True

        pair = connect(), database.end_thread(thread.id, key.id)
        if n % 2:
            ended, is_connected = await asyncio.gather(*pair[::-1])
        else:
            is_connected, ended = await asyncio.gather(*pair)
        return is_connected, ended

    outcomes = await asyncio.gather(*(race(n, thread) for n, thread in enumerate(threads)))
    for (is_connected, ended), thread in zip(outcomes, threads, strict=True):
        now = await database.get_workflow_thread_data(thread.id)
        if ended.status is Status.CANCELLED:
            assert (is_connected, now.status) == (False, Status.CANCELLED)
        else:
            assert (is_connected, now.status) == (True, Status.IN_CALL)
            assert ended.end_requested
            assert now.end_requested
    await database.close()


async def test_nothing_is_known_of_a_thread_that_does_not_exist(database: Database) -> None:
    nowhere, key = uuid4(), await a_key(database)
    for call in (
        database.get_workflow_thread_data(nowhere),
        database.get_thread_usage(nowhere),
        database.save_workflow_thread_data(nowhere),
        database.claim_thread(nowhere, "claim"),
        database.finish_thread(nowhere, Status.FAILED),
        database.end_thread(nowhere, key.id),
    ):
        with pytest.raises(NotFound):
            await call


async def test_another_keys_thread_does_not_exist(database: Database) -> None:
    thread = await a_thread(database, await a_key(database))
    other = await a_key(database)
    for call in (
        database.get_workflow_thread_data(thread.id, other.id),
        database.get_thread_usage(thread.id, other.id),
        database.end_thread(thread.id, other.id),
    ):
        with pytest.raises(NotFound):
            await call
    assert (await database.list_workflow_threads(other.id)).items == ()


async def test_finishing_needs_a_final_state_and_happens_once(database: Database) -> None:
    thread = await a_thread(database, await a_key(database))
    with pytest.raises(InvalidInput):
        await database.finish_thread(thread.id, Status.IN_CALL)
    done = await database.finish_thread(thread.id, Status.CANCELLED)
    assert await database.finish_thread(thread.id, Status.CANCELLED) == done
    with pytest.raises(IllegalTransition, match="cancelled to completed"):
        await database.finish_thread(thread.id, Status.COMPLETED)


async def test_only_threads_nobody_connected_to_expire(database: Database) -> None:
    key = await a_key(database)
    waiting, later = await a_thread(database, key), await a_thread(database, key)
    connecting = await a_thread(database, key)
    await database.save_workflow_thread_data(connecting.id, status=Status.CONNECTING)
    expired = await database.expire_threads(later.created_at)
    assert waiting.id in expired
    assert not {later.id, connecting.id} & set(expired)
    assert (await database.get_workflow_thread_data(waiting.id)).status is Status.EXPIRED
    assert waiting.id not in await database.expire_threads(later.created_at)


@pytest.mark.parametrize("limit", [1, 3, 50])
async def test_pages_hold_every_thread_once_newest_first(database: Database, limit: int) -> None:
    key = await a_key(database)
    threads = [await a_thread(database, key) for _ in range(7)]
    seen: list[Thread] = []
    cursor: str | None = None
    while True:
        page = await database.list_workflow_threads(key.id, limit=limit, cursor=cursor)
        assert len(page.items) <= limit
        seen += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    assert [thread.id for thread in seen] == [thread.id for thread in reversed(threads)]


async def test_a_list_can_be_of_one_status_or_product(database: Database) -> None:
    key = await a_key(database)
    ours = await a_thread(database, key, product="survey")
    other = await a_thread(database, key)
    await database.finish_thread(other.id, Status.CANCELLED)
    by_product = await database.list_workflow_threads(key.id, product="survey")
    by_status = await database.list_workflow_threads(key.id, status=Status.CANCELLED)
    assert [thread.id for thread in by_product.items] == [ours.id]
    assert [thread.id for thread in by_status.items] == [other.id]


async def test_a_list_can_be_of_running_calls_or_of_days(
    direct: Database, sql: psycopg.Connection
) -> None:
    key = await a_key(direct)
    waiting, connecting, running = [await a_thread(direct, key) for _ in range(3)]
    for thread in (connecting, running):
        await direct.claim_thread(thread.id, "a process")
    await direct.touch_thread(running.id, Status.IN_CALL)
    for thread, joined in ((waiting, "2026-03-01 00:00Z"), (connecting, "2026-03-02 23:59:59.9Z")):
        sql.execute(
            "update workflow_threads set created_at = %s where id = %s", [joined, thread.id]
        )

    async def listed(**which: Any) -> list[UUID]:
        found = await direct.list_workflow_threads(key.id, **which)
        return [thread.id for thread in found.items]

    assert await listed(running=True) == [running.id, connecting.id]
    assert await listed(running=True, status=Status.IN_CALL) == [running.id]
    days = {day: date(2026, 3, day) for day in (1, 2, 3)}
    assert await listed(from_=days[1], to=days[1]) == [waiting.id]
    assert await listed(from_=days[1], to=days[2]) == [connecting.id, waiting.id]
    assert await listed(from_=days[3]) == [running.id]
    assert await listed(to=days[1], running=True) == []


@pytest.mark.parametrize(
    "cursor", ["", "x", "bnVsbA==", "WyJhIiwiYiJd", "WzEsMl0=", "é", "WyIyMDI2LTExLTIxIl0="]
)
async def test_a_made_up_cursor_is_refused(database: Database, cursor: str) -> None:
    key = await a_key(database)
    with pytest.raises(InvalidInput) as refusal:
        await database.list_workflow_threads(key.id, cursor=cursor)
    assert [problem.field for problem in refusal.value.problems] == ["cursor"]


@pytest.mark.parametrize("limit", [0, -1, 201])
async def test_a_page_has_bounds(database: Database, limit: int) -> None:
    with pytest.raises(InvalidInput):
        await database.list_workflow_threads(uuid4(), limit=limit)
