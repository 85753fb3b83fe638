"""Commands for the bots of running calls: each is taken once, by whoever has the call."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from flow.db.database import Database
from flow.domain.calls.command import MOST_COMMANDS, Command, MessageRequest, Order, SayRequest
from flow.domain.calls.thread import Status, Thread
from flow.errors import Conflict, NotFound, Refused
from tests.db.making import a_key, a_thread

HELLO = SayRequest(text="Hello!")


async def a_call(database: Database, claim: str = "a/1") -> Thread:
    """A call that runs."""
    thread = await a_thread(database, await a_key(database))
    await database.claim_thread(thread.id, claim)
    await database.touch_thread(thread.id, Status.IN_CALL)
    return thread


async def sent(
    database: Database,
    thread: Thread,
    order: Order = HELLO,
    key: str | None = None,
    command_id: UUID | None = None,
) -> Command:
    return await database.during_calls.send_command(
        command_id or uuid4(), thread.id, thread.api_key_id, order, key
    )


async def test_commands_are_taken_in_order_and_once(database: Database) -> None:
    thread = await a_call(database)
    orders = [HELLO, MessageRequest(text="Be brief.", respond=True), SayRequest(text="And bye.")]
    ids = [(await sent(database, thread, order)).id for order in orders]
    take, claims = uuid4(), {thread.id: "a/1"}
    taken = await database.during_calls.take_commands(claims, take)
    assert [(one.id, one.order) for one in taken] == list(zip(ids, orders, strict=True))
    # The answer may be lost on its way: who took them is given them again, and nobody else.
    assert await database.during_calls.take_commands(claims, take) == taken
    assert await database.during_calls.take_commands(claims, uuid4()) == []
    found = await database.during_calls.get_command(ids[0])
    assert found is not None
    assert (found.is_taken, found.refusal) == (True, None)
    await database.during_calls.refuse_command(ids[0], "No voice.")
    found = await database.during_calls.get_command(ids[0])
    assert found is not None
    assert found.refusal == "No voice."


async def test_only_who_has_the_call_takes_its_commands(database: Database) -> None:
    thread, other = await a_call(database), await a_call(database, "b/1")
    mine, theirs = await sent(database, thread), await sent(database, other)
    take = database.during_calls.take_commands
    assert await take({thread.id: "b/1", other.id: "a/1"}, uuid4()) == []
    assert [one.id for one in await take({other.id: "b/1"}, uuid4())] == [theirs.id]
    both = {thread.id: "a/1", other.id: "b/1", uuid4(): "a/2"}
    assert [one.id for one in await take(both, uuid4())] == [mine.id]
    assert await take({}, uuid4()) == []


async def test_many_take_at_once_and_each_command_is_taken_once(direct: Database) -> None:
    thread = await a_call(direct)
    ids = [(await sent(direct, thread)).id for _ in range(10)]
    takes = [direct.during_calls.take_commands({thread.id: "a/1"}, uuid4()) for _ in range(8)]
    taken = [one.id for some in await asyncio.gather(*takes) for one in some]
    assert sorted(taken) == sorted(ids)


async def test_a_command_is_sent_once_under_its_key_or_id(direct: Database) -> None:
    thread = await a_call(direct)
    many = await asyncio.gather(*(sent(direct, thread, key="once") for _ in range(10)))
    (command_id,) = {one.id for one in many}
    assert sorted(one.is_replayed for one in many) == [False] + 9 * [True]
    again = await sent(direct, thread, key="once", command_id=command_id)
    assert not again.is_replayed, "a transport that sends it twice is one that sent it once"
    with pytest.raises(Conflict, match="another request") as conflict:
        await sent(direct, thread, SayRequest(text="Hello!", interrupt=True), key="once")
    assert conflict.value.code == "idempotency_conflict"
    taken = await direct.during_calls.take_commands({thread.id: "a/1"}, uuid4())
    assert [one.id for one in taken] == [command_id]
    await direct.save_workflow_thread_data(thread.id, status=Status.ENDED)
    assert (await sent(direct, thread, key="once")).is_taken, "a repeat outlives the call"


async def test_a_call_that_does_not_run_takes_none(database: Database) -> None:
    key = await a_key(database)
    thread = await a_thread(database, key)
    refusals = []
    for status in (None, Status.CONNECTING, "end", Status.ENDED):
        if status == "end":
            await database.touch_thread(thread.id, Status.IN_CALL)
            await database.end_thread(thread.id)
        elif status is not None:
            await database.touch_thread(thread.id, Status(status))
        with pytest.raises(Conflict) as conflict:
            await sent(database, thread)
        refusals.append((conflict.value.code, str(conflict.value).rpartition(" is ")[2]))
    assert refusals == [
        ("not_in_call", "created."),
        ("not_in_call", "connecting."),
        ("not_in_call", "about to end."),
        ("not_in_call", "ended."),
    ]
    stranger = await a_key(database)
    with pytest.raises(NotFound):
        await database.during_calls.send_command(uuid4(), thread.id, stranger.id, HELLO, None)


async def test_too_many_commands_of_a_call_are_refused(direct: Database) -> None:
    thread, other = await a_call(direct), await a_call(direct)
    for _ in range(MOST_COMMANDS):
        await sent(direct, thread)
    with pytest.raises(Refused) as refused:
        await sent(direct, thread)
    assert refused.value.code == "rate_limited"
    await sent(direct, other)
