"""Which joins a budget lets in: what calls hold of it, for how long, and what happens at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flow.db.database import Database
from flow.db.postgres_transport import PostgresTransport
from flow.domain.calls.thread import Status, Thread
from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.budget import Tier
from flow.domain.limits.quota import Admission, Terms
from flow.domain.usage.events import Cost
from flow.errors import Conflict, FlowError, Refused, UnpricedModel
from tests.db.making import JOIN, a_join, a_key, a_thread, an_event, move, spend


async def with_budget(database: Database, cap: str | None, spent: str = "0") -> ApiKey:
    """A key with this budget that has spent so much, and has no running call."""
    key = await a_key(database, f"team_{uuid4().hex}")
    if Decimal(spent):
        thread = await a_thread(database, key)
        await spend(database, thread, spent)
        await database.finish_thread(thread.id, Status.CANCELLED)
    await database.operating.set_budget(key.id, None if cap is None else Decimal(cap))
    return key


async def reserved(database: Database, key: ApiKey) -> Decimal:
    """What the key's running calls hold."""
    budget = await database.get_budget(key.id)
    assert budget is not None
    return budget.reserved_usd


async def refusal(database: Database, key: ApiKey, *args: Any, **given: Any) -> Refused:
    """Why a join is refused; it made no thread."""
    before = await database.list_workflow_threads(key.id, limit=200)
    with pytest.raises(Refused) as refused:
        await a_join(database, key, *args, **given)
    assert await database.list_workflow_threads(key.id, limit=200) == before
    return refused.value


@pytest.mark.parametrize(
    ("cap", "spent", "held", "reserve", "then_held"),
    [
        ("10", "0", [], "1", "1"),
        ("10", "0", ["4", "5"], "1", "10"),
        ("10", "0", ["4", "5"], "1.000000000001", None),
        ("10", "8", ["1"], "1", "2"),
        ("10", "8", ["2"], "0.000000000001", None),
        ("10", "8", ["2"], "0", None),
        ("10", "8", ["1.99"], "0", "1.99"),
        ("10", "9.999999999999", [], "1", "0.000000000001"),
        ("10", "0", [], "50", "10"),
        ("10", "9", ["0", "0"], "5", "1"),
        ("10", "10", [], "0", None),
        ("10", "10.5", [], "1", None),
    ],
)
async def test_a_join_fits_beside_what_is_spent_and_held(
    direct: Database, cap: str, spent: str, held: list[str], reserve: str, then_held: str | None
) -> None:
    key = await with_budget(direct, cap, spent)
    for usd in held:
        await a_join(direct, key, usd)
    if then_held is None:
        assert (await refusal(direct, key, reserve)).code == "budget_exceeded"
    else:
        joined = await a_join(direct, key, reserve)
        assert joined.budget == await direct.get_budget(key.id)
        assert await reserved(direct, key) == Decimal(then_held)


@pytest.mark.parametrize("cap", [None, "0", "-1"])
async def test_without_a_budget_every_join_is_let_in(direct: Database, cap: str | None) -> None:
    key = await with_budget(direct, cap, "1000")
    for _ in range(3):
        assert (await a_join(direct, key, "1000000")).budget is None


async def test_a_refusal_says_what_is_used_up_and_until_when(database: Database) -> None:
    key = await with_budget(database, "2.50")
    thread = await a_thread(database, key)
    await spend(database, thread, "2.50", occurred_at=datetime(2026, 1, 31, 23, tzinfo=UTC))
    now = datetime(2026, 1, 31, 23, 59, 59, 250_000, tzinfo=UTC)
    refused = await refusal(database, key, "1", now=now)
    assert (refused.code, refused.retry_after_secs) == ("budget_exceeded", 1)
    resets_at = datetime(2026, 2, 1, tzinfo=UTC)
    assert refused.limit == {
        "resource": "budget_usd",
        "scope": "key",
        "product": None,
        "used": "2.5",
        "reserved": "0",
        "limit": "2.5",
        "limited": True,
        "resets_at": resets_at,
    }
    assert "$2.50" in str(refused)
    assert "2026-02-01T00:00:00Z" in str(refused)
    assert (await a_join(database, key, "1", now=resets_at)).thread.status is Status.CREATED


async def test_a_join_that_running_calls_hold_up_may_come_again_soon(database: Database) -> None:
    key = await with_budget(database, "1")
    first = (await a_join(database, key, "0.9")).thread
    refused = await refusal(database, key, "0.2")
    assert (refused.code, refused.retry_after_secs) == ("budget_exceeded", 5)
    assert refused.limit is not None
    assert (refused.limit["used"], refused.limit["reserved"]) == ("0", "0.9")
    await database.finish_thread(first.id, Status.CANCELLED)
    await a_join(database, key, "0.2")


async def test_a_join_made_before_is_found_whatever_the_limits_are(database: Database) -> None:
    key = await with_budget(database, "1")
    terms = Terms({"ai_credits": ["voice_bot"]}, {"voice_bot": 1})
    first = await a_join(database, key, "1", idempotency_key="once", terms=terms)
    await spend(database, first.thread, "5")
    for resource in ("ai_credits", "call_seconds", "concurrent_calls"):
        await database.operating.set_team_quota(key.team_id, resource, Decimal(0))
    again = await a_join(database, key, "1", idempotency_key="once", terms=terms)
    assert (again.thread.id, again.replayed) == (first.thread.id, True)
    assert again.budget is not None
    assert again.budget.tier is Tier.EXCEEDED
    with pytest.raises(Refused):
        await a_join(database, key, "1", idempotency_key="another", terms=terms)
    with pytest.raises(Conflict, match="different request"):
        await database.join_thread(
            key, uuid4(), JOIN, billable=True, idempotency_key="once", fingerprint="other"
        )


ODD = ("openai/gpt-9-ultra", 'a "b", {c}\\d/e')


async def test_a_budget_lets_no_model_in_whose_price_is_not_known(database: Database) -> None:
    key = await with_budget(database, "10")
    before = await database.list_workflow_threads(key.id)
    with pytest.raises(UnpricedModel) as refused:
        await a_join(database, key, "1", unpriced=ODD)
    assert refused.value.code == "model_unpriced"
    assert all(model in str(refused.value) for model in ODD)
    assert await database.list_workflow_threads(key.id) == before
    assert await reserved(database, key) == 0
    await a_join(database, key, "1", unpriced=())


@pytest.mark.parametrize("cap", [None, "0", "-1"])
async def test_without_a_budget_a_model_needs_no_price(database: Database, cap: str | None) -> None:
    key = await with_budget(database, cap)
    terms = Terms(concurrency={"voice_bot": 5})
    for limits in ({}, {"terms": terms}):
        joined = await a_join(database, key, "1", unpriced=ODD, **limits)
        assert joined.budget is None


@pytest.mark.parametrize("whose", ["the call's", "the key's"])
async def test_a_budget_that_is_overridden_asks_for_no_price(direct: Database, whose: str) -> None:
    key = await with_budget(direct, "10")
    if whose == "the key's":
        until = datetime.now(UTC) + timedelta(hours=1)
        await direct.operating.set_budget_override(key.id, until)
    joined = await a_join(direct, key, "1", unpriced=ODD, override=whose == "the call's")
    assert not joined.replayed


async def test_a_join_made_before_gets_its_thread_whatever_its_models_cost(
    database: Database,
) -> None:
    key = await with_budget(database, None)
    first = await a_join(database, key, "1", unpriced=ODD, idempotency_key="once")
    await database.operating.set_budget(key.id, Decimal(10))
    again = await a_join(database, key, "1", unpriced=ODD, idempotency_key="once")
    assert (again.thread.id, again.replayed) == (first.thread.id, True)
    with pytest.raises(UnpricedModel):
        await a_join(database, key, "1", unpriced=ODD, idempotency_key="another")


async def test_the_same_call_of_the_function_sent_again_is_one_join(direct: Database) -> None:
    key, thread_id = await with_budget(direct, "1"), uuid4()

    async def send() -> bool:
        joined = await direct.join_thread(
            key,
            thread_id,
            JOIN,
            billable=True,
            idempotency_key=None,
            fingerprint="",
            admission=Admission(Decimal(1)),
        )
        return joined.replayed

    assert [await send(), await send()] == [False, True]
    assert await reserved(direct, key) == 1


HOLDING = {
    Status.CREATED: True,
    Status.CONNECTING: True,
    Status.IN_CALL: True,
    Status.ENDED: True,
    Status.EXTRACTING: True,
    Status.COMPLETED: False,
    Status.FAILED: False,
    Status.EXPIRED: False,
    Status.CANCELLED: False,
}


@pytest.mark.parametrize("status", Status)
async def test_a_call_holds_its_reservation_until_it_is_over(
    direct: Database, sql: psycopg.Connection, status: Status
) -> None:
    key = await with_budget(direct, "10")
    thread = (await a_join(direct, key, "2")).thread
    await move(direct, thread, status)
    assert await reserved(direct, key) == (2 if HOLDING[status] else 0)
    sql.execute("update workflow_threads set lease_until = now()")
    assert await reserved(direct, key) == 0


@pytest.mark.parametrize(
    ("recorded", "held"),
    [([], "2"), (["0.5"], "1.5"), (["0.5", "1.5"], "0"), (["0.5", "9"], "0"), (["2"], "0")],
)
async def test_a_reservation_shrinks_by_what_is_recorded(
    direct: Database, recorded: list[str], held: str
) -> None:
    key = await with_budget(direct, "50")
    thread = (await a_join(direct, key, "2")).thread
    for usd in recorded:
        await spend(direct, thread, usd)
    assert await reserved(direct, key) == Decimal(held)


async def test_a_call_over_the_end_of_a_month_holds_no_more_than_is_left(direct: Database) -> None:
    key = await with_budget(direct, "10")
    last = datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC)
    thread = (await a_join(direct, key, "2", waiting_secs=60, now=last)).thread
    await spend(direct, thread, "1.5", occurred_at=last)
    budget = await direct.get_budget(key.id, datetime(2026, 1, 1, tzinfo=UTC))
    assert budget is not None
    assert (budget.spent_usd, budget.reserved_usd) == (0, Decimal("0.5"))


@pytest.mark.parametrize(
    ("waiting_secs", "after", "held"), [(60, 59, 2), (60, 60, 0), (360, 60, 2)]
)
async def test_a_caller_is_waited_for_as_long_as_asked(
    direct: Database, waiting_secs: int, after: int, held: int
) -> None:
    key, now = await with_budget(direct, "10"), datetime(2026, 5, 5, tzinfo=UTC)
    await a_join(direct, key, "2", waiting_secs=waiting_secs, now=now)
    budget = await direct.get_budget(key.id, now + timedelta(seconds=after))
    assert budget is not None
    assert budget.reserved_usd == held


@pytest.mark.parametrize(
    ("status", "lease_secs"),
    [("connecting", 45), ("in_call", 45), ("ended", 300), ("extracting", 300)],
)
async def test_every_sign_of_life_extends_the_lease(
    direct: Database, sql: psycopg.Connection, status: str, lease_secs: int
) -> None:
    key = await with_budget(direct, "10")
    thread = (await a_join(direct, key, "2", waiting_secs=1)).thread
    if status == "connecting":
        await direct.claim_thread(thread.id, "session_1")
    else:
        await move(direct, thread, Status(status))
    left = "extract(epoch from lease_until - heartbeat_at), lease_until > now() + interval '1 min'"
    query = f"select {left} from workflow_threads".encode()
    for _ in range(2):
        assert sql.execute(query).fetchone() == (lease_secs, lease_secs > 60)
        sql.execute("update workflow_threads set lease_until = now() - interval '1 second'")
        assert await reserved(direct, key) == 0
        await direct.save_workflow_thread_data(thread.id)
        assert await reserved(direct, key) == 2


@pytest.mark.parametrize(("connects", "held"), [(False, 2), (True, 0)])
async def test_a_hold_outlasts_the_wait_for_a_caller_but_not_the_silence_of_a_call(
    direct: Database, connects: bool, held: int
) -> None:
    key = await with_budget(direct, "10")
    thread = (await a_join(direct, key, "2", waiting_secs=360)).thread
    await direct.save_workflow_thread_data(thread.id, end_requested=True)
    if connects:
        await direct.claim_thread(thread.id, "session_1")
    budget = await direct.get_budget(key.id, thread.created_at + timedelta(seconds=350))
    assert budget is not None
    assert budget.reserved_usd == held


async def test_a_lifted_budget_refuses_nothing_until_then(direct: Database) -> None:
    key = await with_budget(direct, "1", "3")
    now = datetime.now(UTC)
    until = now + timedelta(minutes=1)
    await direct.operating.set_budget_override(key.id, until)
    joined = await a_join(direct, key, "5", now=until - timedelta(microseconds=1))
    assert joined.budget is not None
    assert joined.budget.tier is Tier.OVERRIDE
    assert (await refusal(direct, key, "5", now=until)).code == "budget_exceeded"
    await direct.operating.set_budget_override(key.id, None)
    await refusal(direct, key, "5")


async def test_a_single_join_may_be_exempt_from_the_budget(direct: Database) -> None:
    key = await with_budget(direct, "1", "3")
    joined = await a_join(direct, key, "5", override=True)
    assert joined.budget is not None
    assert (joined.budget.tier, joined.budget.spent_usd) == (Tier.OVERRIDE, 3)
    assert (await refusal(direct, key, "5")).code == "budget_exceeded"


@pytest.mark.parametrize(
    ("resource", "code"),
    [
        ("ai_credits", "quota_exceeded"),
        ("call_seconds", "quota_exceeded"),
        ("concurrent_calls", "concurrency_exceeded"),
    ],
)
async def test_no_override_helps_against_a_teams_quota(
    direct: Database, resource: str, code: str
) -> None:
    key = await with_budget(direct, "1", "3")
    await direct.operating.set_budget_override(key.id, datetime.now(UTC) + timedelta(hours=1))
    await direct.operating.set_team_quota(key.team_id, resource, Decimal(0))
    terms = Terms({"ai_credits": ["voice_bot"]})
    assert (await refusal(direct, key, "1", override=True, terms=terms)).code == code


async def test_calls_of_a_product_at_once_are_counted_for_each_key(direct: Database) -> None:
    terms = Terms(concurrency={"voice_bot": 2, "playground": 1})
    key, other = await with_budget(direct, None), await with_budget(direct, None)
    threads = [(await a_join(direct, key, terms=terms)).thread for _ in range(2)]
    refused = await refusal(direct, key, terms=terms, override=True)
    assert (refused.code, refused.retry_after_secs) == ("concurrency_exceeded", 5)
    assert refused.limit is not None
    facts = ("resource", "scope", "product", "used", "limit", "resets_at")
    assert [refused.limit[name] for name in facts] == [
        *("concurrent_calls", "key", "voice_bot"),
        *("2", "2", None),
    ]
    await a_join(direct, key, terms=terms, product="playground")
    await a_join(direct, other, terms=terms)
    await move(direct, threads[0], Status.ENDED)
    await a_join(direct, key, terms=terms)


OPS = st.one_of(
    st.tuples(st.just("join"), st.integers(0, 6)),
    st.tuples(st.sampled_from(["record", "finish", "lapse"]), st.integers(0, 5)),
)


class Model:
    """What a key with a budget must be let do, kept without a database."""

    def __init__(self, cap: int) -> None:
        self.cap, self.spent, self.excess = cap, Decimal(0), Decimal(0)
        self.left: dict[int, Decimal] = {}
        """Of each call admitted and live, by its number, what it still holds."""

    @property
    def held(self) -> Decimal:
        return sum(self.left.values(), Decimal(0))

    def share(self, need: int) -> Decimal | None:
        """What a join is given to hold; ``None``: it is refused."""
        room = self.cap - self.spent - self.held
        if room <= 0 or (self.held and need > room):
            return None
        return min(Decimal(need), room)

    def record(self, call: int, usd: Decimal) -> None:
        covered = min(usd, self.left.get(call, Decimal(0)))
        if call in self.left:
            self.left[call] -= covered
        self.spent += usd
        self.excess += usd - covered


@given(cap=st.integers(1, 12), ops=st.lists(OPS, min_size=3, max_size=14))
@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_what_is_admitted_is_covered_and_what_has_room_is_admitted(
    direct: Database, sql: psycopg.Connection, cap: int, ops: list[tuple[str, int]]
) -> None:
    key, model = await with_budget(direct, str(cap)), Model(cap)
    threads: list[Thread] = []
    for op, number in ops:
        if op == "join":
            share = model.share(number)
            if share is None:
                await refusal(direct, key, str(number))
            else:
                model.left[len(threads)] = share
                threads.append((await a_join(direct, key, str(number))).thread)
                assert model.spent + model.held <= cap
        elif threads:
            call = number % len(threads)
            await _do(direct, sql, op, threads[call])
            if op == "record":
                model.record(call, Decimal("1.25"))
            else:
                model.left.pop(call, None)
        budget = await direct.get_budget(key.id)
        assert budget is not None
        assert (budget.spent_usd, budget.reserved_usd) == (model.spent, model.held)
        assert budget.spent_usd + budget.reserved_usd <= cap + model.excess


async def _do(database: Database, sql: psycopg.Connection, op: str, thread: Thread) -> None:
    if op == "record":
        await spend(database, thread, "1.25")
    elif op == "finish":
        now = await database.get_workflow_thread_data(thread.id)
        if not now.status.is_final:
            await database.finish_thread(thread.id, Status.CANCELLED)
    else:
        sql.execute("update workflow_threads set lease_until = now() where id = %s", [thread.id])


@pytest.fixture
async def crowd(postgres_url: str) -> AsyncIterator[Database]:
    """The database of `direct` over many connections, for which a crowd waits its turn."""
    transport = await PostgresTransport.open(postgres_url, max_size=24, wait_secs=60, call_secs=60)
    database = Database(transport)
    yield database
    await database.close()


async def at_once(
    database: Database, keys: list[ApiKey], joins: int, *args: Any, **given: Any
) -> list[Thread]:
    """The threads of the joins, sent all at once by the keys in turn, that were admitted."""

    async def send(n: int) -> Thread | None:
        try:
            return (await a_join(database, keys[n % len(keys)], *args, **given)).thread
        except Refused:
            return None

    sent = await asyncio.gather(*(send(n) for n in range(joins)))
    return [thread for thread in sent if thread is not None]


async def test_of_two_hundred_joins_at_once_just_those_with_room_are_admitted(
    crowd: Database,
) -> None:
    key = await with_budget(crowd, "1.75")
    first = await at_once(crowd, [key], 200, "0.25")
    assert len(first) == 7
    # Two spend less than they held, three are never connected to: 1.15 is free again.
    for thread in first[:2]:
        await spend(crowd, thread, "0.05")
    for thread in first[:5]:
        await crowd.finish_thread(thread.id, Status.CANCELLED)
    second = await at_once(crowd, [key], 200, "0.25")
    assert len(second) == 4
    budget = await crowd.get_budget(key.id)
    assert budget is not None
    assert (budget.spent_usd, budget.reserved_usd) == (Decimal("0.1"), Decimal("1.5"))


@pytest.mark.parametrize("limit", ["budget", "concurrency", "quota", "nothing"])
async def test_a_hundred_equal_joins_at_once_are_one(crowd: Database, limit: str) -> None:
    key = await with_budget(crowd, "1" if limit == "budget" else None)
    terms = Terms(concurrency={"voice_bot": 1} if limit == "concurrency" else {})
    if limit == "quota":
        await crowd.operating.set_team_quota(key.team_id, "concurrent_calls", Decimal(1))
    equal = {"idempotency_key": "once", "terms": terms}
    joins = (a_join(crowd, key, "1", **equal) for _ in range(100))
    joined = await asyncio.gather(*joins)
    assert sorted(one.replayed for one in joined) == [False] + [True] * 99
    assert len({one.thread.id for one in joined}) == 1


@pytest.mark.parametrize("limit", ["quota", "key"])
async def test_calls_at_once_are_never_more_than_allowed(crowd: Database, limit: str) -> None:
    keys = [await a_key(crowd, "team_of_two") for _ in range(2)]
    terms = Terms(concurrency={"voice_bot": 4} if limit == "key" else {})
    if limit == "quota":
        await crowd.operating.set_team_quota("team_of_two", "concurrent_calls", Decimal(9))
    most = 8 if limit == "key" else 9
    first = await at_once(crowd, keys, 100, terms=terms)
    assert len(first) == most
    for thread in first[:5]:
        await crowd.finish_thread(thread.id, Status.CANCELLED)
    assert len(await at_once(crowd, keys, 100, terms=terms)) == 5


async def test_joins_recordings_and_operators_at_once_never_deadlock(
    crowd: Database, sql: psycopg.Connection
) -> None:
    keys = [await a_key(crowd, f"team_{n % 2}") for n in range(4)]
    threads = [await a_thread(crowd, key) for key in keys for _ in range(2)]
    terms = Terms({"ai_credits": ["voice_bot"]}, {"voice_bot": 40})
    now = datetime.now(UTC)

    async def record(turn: int) -> None:
        order = threads[turn % 8 :] + threads[: turn % 8]
        when = [now, now - timedelta(days=31)]
        events = [
            an_event(
                t, model=f"m{turn % 3}", occurred_at=when[n % 2], cost=Cost(input_tokens=Decimal(1))
            )
            for n, t in enumerate(order * 2)
        ]
        await crowd.record_usage(events)

    async def operate(turn: int) -> None:
        for key in keys[turn % 4 :] + keys[: turn % 4]:
            await crowd.operating.set_budget(key.id, Decimal(5 + turn))
            await crowd.operating.set_team_quota(
                key.team_id, "concurrent_calls", Decimal(30 + turn)
            )
            await crowd.resolve_api_key(key.unkey_key_id, key.team_id, f"name {turn}")

    async def call(turn: int) -> None:
        try:
            thread = (await a_join(crowd, keys[turn % 4], "1", terms=terms)).thread
        except Refused:
            return
        await crowd.claim_thread(thread.id, "session")
        await spend(crowd, thread, "0.5")
        await crowd.finish_thread(thread.id, Status.FAILED)

    failures: list[FlowError] = []

    async def watched(work: Any) -> None:
        try:
            await work
        except FlowError as error:
            failures.append(error)

    for turn in range(6):
        works = [work(turn + n) for n in range(6) for work in (record, operate, call, call)]
        works += [
            crowd.take_over_lost_threads(75, 300),
            crowd.expire_threads(now - timedelta(days=1)),
        ]
        await asyncio.gather(*(watched(work) for work in works))
    assert failures == []
    for table in ("usage_daily", "usage_events"):
        sums = f"select api_key_id, sum(total_cost_usd) from {table} group by 1 order by 1"
        months = "select api_key_id, sum(total_cost_usd) from usage_monthly group by 1 order by 1"
        assert sql.execute(sums.encode()).fetchall() == sql.execute(months).fetchall()
