"""Webhook events and their deliveries, over both transports."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from flow.api.threads import ThreadSummary
from flow.db.database import Database
from flow.domain.calls.thread import Status, Thread
from flow.domain.calls.tool_call import ThreadToolCall, ToolCall, ToolOutcome
from flow.domain.limits.api_key import ApiKey
from flow.domain.usage.events import Cost
from flow.domain.webhooks.webhook import Claimed, Delivery, State
from flow.errors import Conflict, InvalidInput, NotFound
from flow.vendors.webhook_signing import new_secret
from tests.db.making import JOIN, a_key, a_thread, an_event

URL = "https://hooks.example.com/flow?to=me"
LEASE = timedelta(seconds=30)
T0 = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
# Nobody has come: of what is over without a call, its end alone is told.
TO_THE_END = (Status.CONNECTING, Status.ENDED, Status.EXTRACTING)
WITH_CALL = (Status.CONNECTING, Status.IN_CALL, Status.ENDED, Status.EXTRACTING)


async def told_thread(database: Database, key: ApiKey, url: str | None = URL) -> Thread:
    """A thread whose end somebody is to be told of."""
    join = JOIN.model_copy(update={"webhook_url": url})
    made = await database.join_thread(
        key, uuid4(), join, billable=True, idempotency_key=None, fingerprint="f"
    )
    return made.thread


async def finished(
    database: Database,
    key: ApiKey,
    url: str | None = URL,
    moves: Sequence[Status] = TO_THE_END,
) -> Thread:
    """A completed thread with usage and insights."""
    thread = await told_thread(database, key, url)
    await database.record_usage([an_event(thread)])
    for status in moves:
        await database.save_workflow_thread_data(thread.id, status=status)
    insights = {"status": "ok", "data": {"name": 'Zoë "Z" O\'Neill', "n": 1.5}}
    await database.save_workflow_thread_data(thread.id, insights=insights, end_reason="caller_left")
    return await database.finish_thread(thread.id, Status.COMPLETED)


async def claimed(database: Database, key: ApiKey, now: datetime | None = None) -> list[Claimed]:
    """What is due of the key. Others' deliveries in a shared database are claimed and let be."""
    found = await database.webhooks.claim(limit=10_000, per_key=1_000, lease=LEASE, now=now)
    return [one for one in found if one.api_key_id == key.id]


async def only(database: Database, key: ApiKey) -> Delivery:
    (delivery,) = (await database.webhooks.list(api_key_id=key.id)).items
    return delivery


async def test_a_completed_thread_is_told_once_as_the_api_shows_it(database: Database) -> None:
    key = await a_key(database)
    thread = await finished(database, key, moves=WITH_CALL)
    await database.finish_thread(thread.id, Status.COMPLETED)
    started, one = await claimed(database, key)
    assert started.type == "thread.started"
    assert (one.type, one.url, one.attempt) == ("thread.completed", URL, 1)
    assert one.workflow_thread_id == thread.id
    sent = json.loads(one.payload, parse_float=Decimal)
    assert list(sent) == ["type", "timestamp", "data"]
    assert sent["type"] == one.type
    data = sent["data"]
    assert set(data) == set(ThreadSummary.model_fields)
    assert data["workflow_thread_id"] == data["posthog_trace_id"] == str(thread.id)
    assert data["insights"]["data"] == {"name": 'Zoë "Z" O\'Neill', "n": Decimal("1.5")}
    assert (data["status"], data["end_reason"], data["error"]) == ("completed", "caller_left", None)
    for name in ("created_at", "connected_at", "ended_at", "completed_at"):
        assert datetime.fromisoformat(data[name]) == getattr(thread, name)
        assert data[name].endswith("Z")


async def test_a_call_is_told_when_its_caller_has_come_and_once(database: Database) -> None:
    key = await a_key(database)
    thread = await told_thread(database, key)
    await database.claim_thread(thread.id, "a/1")
    assert await claimed(database, key) == []
    for _ in range(2):
        # A bot that takes another's place says so again.
        await database.touch_thread(thread.id, Status.IN_CALL)
    (one,) = await claimed(database, key)
    data = json.loads(one.payload)["data"]
    assert (one.type, one.workflow_thread_id) == ("thread.started", thread.id)
    assert (data["status"], data["ended_at"], data["end_reason"]) == ("in_call", None, None)
    connected = (await database.get_workflow_thread_data(thread.id)).connected_at
    assert datetime.fromisoformat(data["connected_at"]) == connected


async def test_a_tool_that_went_wrong_is_told_once_and_without_content(database: Database) -> None:
    key = await a_key(database)
    thread, quiet = await told_thread(database, key), await told_thread(database, key, None)
    outcomes = [ToolOutcome.RUNNING, ToolOutcome.TIMEOUT, ToolOutcome.TIMEOUT]
    for one, kinds in ((thread, outcomes), (quiet, outcomes), (thread, [ToolOutcome.OK])):
        use = uuid4()
        for outcome in kinds:
            secs = None if outcome is ToolOutcome.RUNNING else 10.0
            call = ToolCall(use, "find", {"name": "Ada"}, T0, outcome, secs, 504)
            await database.save_tool_calls([ThreadToolCall(one.id, call)])
    (one,) = await claimed(database, key)
    data = json.loads(one.payload)["data"]
    assert (one.type, one.workflow_thread_id) == ("tool.failed", thread.id)
    assert (data["name"], data["outcome"], data["seconds"]) == ("find", "timeout", 10.0)
    assert (data["http_status"], data["started_at"]) == (504, "2026-11-21T12:00:00.000000Z")
    assert "Ada" not in one.payload


async def test_money_is_told_in_strings_to_the_last_digit(database: Database) -> None:
    key = await a_key(database)
    thread = await told_thread(database, key)
    cost = Cost(input_tokens=Decimal("0.00000000000000012345"), output_tokens=Decimal("1"))
    await database.record_usage([an_event(thread, model="odd_usd", cost=cost)])
    for status in TO_THE_END:
        await database.save_workflow_thread_data(thread.id, status=status)
    await database.finish_thread(thread.id, Status.COMPLETED)
    (one,) = await claimed(database, key)
    stats = json.loads(one.payload)["data"]["usage_stats"]
    total = "1.00000000000000012345"
    assert stats["total_cost_usd"] == stats["billable_cost_usd"] == total
    assert stats["models_used"]["openai/odd_usd"]["cost_usd"] == total
    assert stats["models_used"]["openai/odd_usd"]["output_tokens"] == 30
    assert stats["tts"]["cost_usd"] == stats["stt"]["cost_usd"] == "0"
    assert sum(map(Decimal, stats["cost_breakdown_usd"].values())) == Decimal(total)


async def test_a_lost_thread_is_told_as_failed_with_its_reason(database: Database) -> None:
    key = await a_key(database)
    thread = await told_thread(database, key)
    process = f"host_{uuid4().hex}"
    await database.claim_thread(thread.id, f"{process}/session")
    await database.save_workflow_thread_data(thread.id, status=Status.IN_CALL)
    assert await database.take_over_threads_of(process) == [thread.id]
    await database.finish_thread(thread.id, Status.FAILED)
    _, one = await claimed(database, key)
    data = json.loads(one.payload)["data"]
    assert one.type == "thread.failed"
    assert (data["end_reason"], data["error"]["code"]) == ("process_lost", "process_lost")
    shown = await database.get_workflow_thread_data(thread.id)
    assert shown.ended_at is not None
    assert datetime.fromisoformat(data["ended_at"]) == shown.ended_at


@pytest.mark.parametrize("how", ["no url", "cancelled", "expired"])
async def test_nobody_is_told_of_other_ends(database: Database, how: str) -> None:
    key = await a_key(database)
    if how == "no url":
        await finished(database, key, url=None)
    else:
        thread = await told_thread(database, key)
        await database.finish_thread(thread.id, Status(how))
    assert (await database.webhooks.list(api_key_id=key.id)).items == ()


async def test_budget_events_go_to_the_keys_url_before_the_threads(database: Database) -> None:
    key = await a_key(database)
    await database.webhooks.set_url(key.id, "https://key.example.com/")
    await database.operating.set_budget(key.id, Decimal("0.001"))
    thread = await told_thread(database, key)
    now = datetime.now(UTC)
    cost = Cost(input_tokens=Decimal("0.0009"))
    await database.record_usage([an_event(thread, cost=cost, occurred_at=now)])
    (warn,) = await claimed(database, key)
    assert (warn.type, warn.url) == ("budget.warn", "https://key.example.com/")
    assert json.loads(warn.payload)["data"]["spent_usd"] == "0.0009"


async def test_budget_events_go_to_the_thread_that_crossed_where_the_key_has_no_url(
    database: Database,
) -> None:
    key = await a_key(database)
    await database.operating.set_budget(key.id, Decimal("0.001"))
    quiet, thread = await a_thread(database, key), await told_thread(database, key)
    now = datetime.now(UTC)
    half = Cost(input_tokens=Decimal("0.0005"))
    await database.record_usage([an_event(quiet, cost=half, occurred_at=now)])
    await database.record_usage([an_event(thread, cost=half, occurred_at=now)])
    found = await claimed(database, key)
    assert {(one.type, one.url) for one in found} == {
        ("budget.warn", URL),
        ("budget.exceeded", URL),
    }


@pytest.mark.parametrize("url", ["https://key.example.com/", None])
async def test_a_budget_that_is_set_below_what_is_spent_is_told_once_to_somebody(
    database: Database, url: str | None
) -> None:
    """At once to the key's URL; without one by the next call that has one."""
    key = await a_key(database)
    if url is not None:
        await database.webhooks.set_url(key.id, url)
    thread, now = await told_thread(database, key), datetime.now(UTC)
    cost = Cost(input_tokens=Decimal("0.01"))
    await database.record_usage([an_event(thread, cost=cost, occurred_at=now)])
    for cap in ("0.005", None, "0.004"):
        await database.operating.set_budget(key.id, None if cap is None else Decimal(cap))
    assert len(await claimed(database, key)) == (0 if url is None else 2)
    await database.record_usage([an_event(thread, cost=cost, occurred_at=now)])
    assert len(await claimed(database, key)) == (2 if url is None else 0)


async def test_a_waiting_budget_event_follows_the_keys_url_and_a_threads_does_not(
    database: Database,
) -> None:
    key = await a_key(database)
    await database.webhooks.set_url(key.id, "https://old.example.com/")
    thread = await finished(database, key)
    await database.record_usage([an_event(thread, occurred_at=datetime.now(UTC))])
    await database.operating.set_budget(key.id, Decimal("0.0001"))
    await database.webhooks.set_url(key.id, "https://new.example.com/")
    urls = {one.type: one.url for one in await claimed(database, key)}
    assert urls == {
        "thread.completed": URL,
        "budget.warn": "https://new.example.com/",
        "budget.exceeded": "https://new.example.com/",
    }


async def test_a_claim_holds_for_its_lease_and_then_another_may_have_it(
    database: Database,
) -> None:
    key = await a_key(database)
    await finished(database, key)
    now = datetime.now(UTC)
    (first,) = await claimed(database, key, now)
    assert (await only(database, key)).state is State.SENDING
    assert await claimed(database, key, now + LEASE - timedelta(seconds=1)) == []
    (second,) = await claimed(database, key, now + LEASE)
    assert (second.event_id, second.payload) == (first.event_id, first.payload)
    assert (second.attempt, second.claim == first.claim) == (2, False)
    # The first's failure is no news any more; its success is.
    assert not await database.webhooks.note_failed(first, status=500, error="x", retry_in=None)
    assert await database.webhooks.note_delivered(first.event_id, 200)
    assert not await database.webhooks.note_delivered(first.event_id, 200)
    assert not await database.webhooks.note_failed(second, status=500, error="x", retry_in=LEASE)
    delivery = await only(database, key)
    assert (delivery.state, delivery.last_status) == (State.DELIVERED, 200)
    assert await claimed(database, key, now + timedelta(days=9)) == []


async def test_a_failure_waits_for_its_time_and_the_last_one_is_dead(database: Database) -> None:
    key = await a_key(database)
    await finished(database, key)
    now = datetime.now(UTC)
    (first,) = await claimed(database, key, now)
    note = database.webhooks.note_failed
    hour = timedelta(hours=1)
    assert await note(first, status=503, error="http 503", retry_in=hour, now=now)
    delivery = await only(database, key)
    assert (delivery.state, delivery.attempts) == (State.WAITING, 1)
    assert (delivery.next_attempt_at, delivery.last_error) == (now + hour, "http 503")
    assert await claimed(database, key, now + hour - timedelta(seconds=1)) == []
    (second,) = await claimed(database, key, now + hour)
    assert await note(second, status=None, error="timeout", retry_in=None, now=now + hour)
    delivery = await only(database, key)
    assert (delivery.state, delivery.dead_at) == (State.DEAD, now + hour)
    assert (delivery.last_status, delivery.next_attempt_at) == (None, None)
    assert (await database.webhooks.list(api_key_id=key.id, dead=True)).items == (delivery,)
    assert await claimed(database, key, now + timedelta(days=9)) == []


async def test_dead_and_delivered_ones_are_replayed_under_their_id(database: Database) -> None:
    key = await a_key(database)
    webhooks = database.webhooks
    threads = {(await finished(database, key)).id for _ in range(3)}
    dead, gone, delivered = await claimed(database, key)
    await webhooks.note_failed(dead, status=410, error="http 410", retry_in=None)
    await webhooks.note_failed(gone, status=410, error="http 410", retry_in=None)
    await webhooks.note_delivered(delivered.event_id, 204)
    assert (await webhooks.replay(dead.event_id)).state is State.WAITING
    assert (await webhooks.replay(dead.event_id)).attempts == 0
    await webhooks.replay(delivered.event_id)
    assert not await webhooks.note_delivered(delivered.event_id, 204), "that was before the replay"
    assert await webhooks.replay_dead(key.id) == 1
    assert await webhooks.replay_dead(key.id) == 0
    again = await claimed(database, key)
    assert {one.event_id for one in again} == {dead.event_id, gone.event_id, delivered.event_id}
    assert {one.workflow_thread_id for one in again} == threads
    assert {one.attempt for one in again} == {1}
    with pytest.raises(Conflict, match="still being delivered"):
        await webhooks.replay(dead.event_id)
    with pytest.raises(NotFound):
        await webhooks.replay(uuid4())
    with pytest.raises(NotFound):
        await webhooks.get(uuid4())


async def test_a_keys_secret_is_made_once_and_rotates_with_an_overlap(database: Database) -> None:
    key = await a_key(database)
    made = [new_secret() for _ in range(6)]
    answers = await asyncio.gather(*(database.webhooks.secrets(key.id, one) for one in made))
    (first,) = {one.current for one in answers}
    assert first in made
    await finished(database, key)
    (one,) = await claimed(database, key)
    assert one.secrets == (first,)
    fresh = new_secret()
    for _ in range(2):
        rotated = await database.webhooks.rotate_secret(key.id, fresh, timedelta(hours=24))
        assert rotated.signing == (fresh, first)
    now = datetime.now(UTC)
    for hours, signing in ((23, (fresh, first)), (25, (fresh,))):
        (one,) = await claimed(database, key, now + timedelta(hours=hours))
        assert one.secrets == signing
    assert first not in repr(rotated) + repr(one)


async def test_a_key_that_is_not_there_has_no_webhooks(database: Database) -> None:
    webhooks, nobody = database.webhooks, uuid4()
    for call in (
        lambda: webhooks.secrets(nobody, new_secret()),
        lambda: webhooks.rotate_secret(nobody, new_secret(), LEASE),
        lambda: webhooks.url(nobody),
        lambda: webhooks.set_url(nobody, None),
    ):
        with pytest.raises(NotFound):
            await call()


async def test_what_is_no_secret_is_refused(direct: Database) -> None:
    key = await a_key(direct)
    with pytest.raises(InvalidInput):
        await direct.webhooks.secrets(key.id, "password")


async def test_no_other_call_tells_a_secret(database: Database) -> None:
    key = await a_key(database)
    secret = (await database.webhooks.secrets(key.id, new_secret())).current
    await finished(database, key)
    told = [
        await database._transport.call("get_api_key", {"p_reference": str(key.id)}),
        await database._transport.call("list_api_keys", {}),
        await database._transport.call("list_webhook_deliveries", {"p_api_key_id": str(key.id)}),
        await database.resolve_api_key(key.unkey_key_id, key.team_id, key.name),
    ]
    assert secret not in repr(told)


async def test_a_slow_key_takes_only_its_share(direct: Database) -> None:
    slow, quick = await a_key(direct), await a_key(direct)
    for _ in range(6):
        await finished(direct, slow)
    await finished(direct, quick)
    first = await direct.webhooks.claim(limit=20, per_key=4, lease=LEASE)
    assert [one.api_key_id for one in first].count(slow.id) == 4
    assert [one.api_key_id for one in first].count(quick.id) == 1
    assert await direct.webhooks.claim(limit=20, per_key=4, lease=LEASE) == []
    await direct.webhooks.note_delivered(first[0].event_id, 200)
    (more,) = await direct.webhooks.claim(limit=20, per_key=4, lease=LEASE)
    assert more.api_key_id == first[0].api_key_id == slow.id
    assert await direct.webhooks.claim(limit=0, per_key=4, lease=LEASE) == []


async def test_many_claim_at_once_and_each_delivery_is_claimed_once(direct: Database) -> None:
    keys = [await a_key(direct) for _ in range(3)]
    ids: list[UUID] = [(await finished(direct, keys[n % 3])).id for n in range(30)]

    async def claim_all() -> list[Any]:
        mine: list[Any] = []
        idle = 0
        while idle < 3:
            found = await direct.webhooks.claim(limit=3, per_key=100, lease=LEASE)
            mine += found
            idle = 0 if found else idle + 1
        return mine

    got = [one for some in await asyncio.gather(*(claim_all() for _ in range(5))) for one in some]
    assert sorted(str(one.workflow_thread_id) for one in got) == sorted(map(str, ids))


async def test_a_thread_is_told_in_the_transaction_that_finishes_it(
    direct: Database, sql: psycopg.Connection
) -> None:
    key = await a_key(direct)
    thread = await told_thread(direct, key)
    with sql.transaction(force_rollback=True):
        sql.execute("select finish_thread(%s, 'failed')", (thread.id,))
    assert (await direct.webhooks.list()).items == ()
    await direct.finish_thread(thread.id, Status.FAILED)
    assert (await only(direct, key)).type == "thread.failed"


async def test_the_service_role_tells_and_claims(direct: Database, sql: psycopg.Connection) -> None:
    thread = await told_thread(direct, await a_key(direct))
    sql.execute("set role service_role")
    sql.execute("select finish_thread(%s, 'failed')", (thread.id,))
    found = sql.execute("select claim_webhook_deliveries(gen_random_uuid(), 5, 5, 30)").fetchone()
    assert found is not None
    assert found[0][0]["workflow_thread_id"] == str(thread.id)
