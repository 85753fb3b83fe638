"""What processes of the gateway hold of limits, whatever they do at once."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flow.db.database import Database
from flow.domain.calls.thread import Status, Thread
from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.budget import Tier
from flow.domain.limits.lease import LeaseAnswer, LeaseQuestion, Resource
from flow.domain.limits.quota import Terms
from flow.domain.usage.events import Cost
from flow.errors import Refused
from flow.gateway.cost_estimates import Hold
from flow.gateway.leased_slices import LeasedSlices
from tests.db.making import a_join, a_key, a_request, spend

BUCKETS = Terms({"ai_credits": ["gateway"]})
ONE = Hold(Decimal(1), 10)


@dataclass
class Process:
    """A process of the gateway, without its requests."""

    database: Database
    key: ApiKey
    terms: Terms = BUCKETS
    id: UUID = field(default_factory=uuid4)
    slices: LeasedSlices = field(default_factory=LeasedSlices)
    open: list[Hold] = field(default_factory=list)
    knows: bool = False

    async def renew(self, needed: Hold | None = None, *, is_leaving: bool = False) -> LeaseAnswer:
        question = self.slices.question(needed, is_leaving=is_leaving)
        answer = await self.ask(question)
        self.slices.granted(question, answer)
        self.knows = True
        return answer

    async def ask(self, question: LeaseQuestion) -> LeaseAnswer:
        return await self.database.gateway_leases.renew(
            self.id, self.key.id, "gateway", billable=True, question=question, terms=self.terms
        )

    async def request(self, hold: Hold) -> Refused | None:
        """Let a request in, or say why not."""
        if not self.knows:
            await self.renew()
        if not self.slices.fits(hold):
            answer = await self.renew(hold)
            if answer.refused is not None:
                return answer.refused
            hold = self.slices.fitting(hold)
        self.slices.take(hold)
        self.open.append(hold)
        return None

    async def settle(self, number: int, usd: Decimal, tokens: int = 10) -> Decimal:
        """One of its requests is over, and has cost so much; returns what was held for it."""
        hold = self.open.pop(number % len(self.open))
        event = a_request(self.key, cost=Cost(input_tokens=usd), occurred_at=datetime.now(UTC))
        await self.database.record_usage([event])
        self.slices.end()
        self.slices.settle(hold, usd, tokens)
        return hold.usd


async def a_capped_key(database: Database, cap: int | str) -> ApiKey:
    key = await a_key(database, f"team_{uuid4().hex}")
    await database.operating.set_budget(key.id, Decimal(cap))
    return key


def held(sql: psycopg.Connection, key: ApiKey) -> Decimal:
    """What all processes hold of the key's budget."""
    row = sql.execute(
        "select coalesce(sum(held_usd), 0) from gateway_leases where api_key_id = %s"
        " and heartbeat_at > now() - interval '60 s'",
        [key.id],
    ).fetchone()
    assert row is not None
    return Decimal(row[0])


def fall_silent(sql: psycopg.Connection, process: Process, secs: int) -> None:
    sql.execute(
        "update gateway_leases set heartbeat_at = heartbeat_at - make_interval(secs => %s)"
        " where process_id = %s",
        [secs, process.id],
    )


OPS = st.one_of(
    st.tuples(st.just("request"), st.integers(0, 2), st.integers(0, 5)),
    st.tuples(st.just("settle"), st.integers(0, 2), st.integers(0, 7)),
    st.tuples(st.sampled_from(["renew", "leave", "die"]), st.integers(0, 2), st.just(0)),
    st.tuples(st.just("join"), st.just(0), st.integers(0, 4)),
    st.tuples(st.sampled_from(["record", "finish"]), st.integers(0, 3), st.integers(1, 3)),
)


@given(cap=st.integers(1, 15), ops=st.lists(OPS, min_size=4, max_size=22))
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_what_is_spent_and_held_is_never_more_than_the_budget(
    direct: Database, sql: psycopg.Connection, cap: int, ops: list[tuple[str, int, int]]
) -> None:
    key = await a_capped_key(direct, cap)
    processes = [Process(direct, key) for _ in range(3)]
    threads: list[Thread] = []
    spent = excess = Decimal(0)
    for op, place, number in ops:
        process = processes[place % 3]
        if op == "request":
            refused = await process.request(Hold(Decimal(number), 1))
            budget = await direct.get_budget(key.id)
            assert budget is not None
            room = cap - budget.spent_usd - budget.reserved_usd
            # With room, or with nothing held at all, nobody is refused.
            if refused is not None:
                assert room <= 0 or (number > room and budget.reserved_usd > 0)
        elif op == "settle" and process.open:
            usd = Decimal(number)
            covered = await process.settle(number, usd)
            spent += usd
            excess += max(usd - covered, Decimal(0))
        elif op == "renew":
            await process.renew()
        elif op == "leave":
            await process.renew(is_leaving=True)
        elif op == "die":
            # What it had under way is still spent, and nobody holds anything for that.
            fall_silent(sql, process, 61)
            excess += sum((hold.usd for hold in process.open), Decimal(0))
            processes[place % 3] = Process(direct, key)
        elif op == "join":
            with suppress(Refused):
                threads.append((await a_join(direct, key, str(number))).thread)
        elif op == "record" and threads:
            before = await direct.get_budget(key.id)
            await spend(direct, threads[place % len(threads)], str(number))
            after = await direct.get_budget(key.id)
            assert before is not None
            assert after is not None
            spent += number
            excess += number - (before.reserved_usd - after.reserved_usd)
        elif op == "finish" and threads:
            thread = threads.pop(place % len(threads))
            await direct.finish_thread(thread.id, Status.CANCELLED)
        budget = await direct.get_budget(key.id)
        assert budget is not None
        assert budget.spent_usd == spent
        mine = sum((one.slices.held_usd for one in processes), Decimal(0))
        assert held(sql, key) >= mine - excess
        assert spent + mine <= cap + excess
    for process in processes:
        while process.open:
            await process.settle(0, Decimal(0))
        await process.renew(is_leaving=True)
    for thread in threads:
        await direct.finish_thread(thread.id, Status.CANCELLED)
    budget = await direct.get_budget(key.id)
    assert budget is not None
    assert budget.reserved_usd == 0
    count = "select count(*) from gateway_leases where api_key_id = %s"
    rows = sql.execute(count, [key.id]).fetchone()
    assert rows == (0,)


async def test_joins_and_processes_see_what_each_other_holds(direct: Database) -> None:
    key = await a_capped_key(direct, 10)
    one, other = Process(direct, key), Process(direct, key)
    assert await one.request(Hold(Decimal(6), 1)) is None
    await a_join(direct, key, "3")
    refused = await other.request(Hold(Decimal(2), 1))
    assert refused is not None
    assert (refused.code, refused.limit and refused.limit["reserved"]) == ("budget_exceeded", "9")
    with pytest.raises(Refused):
        await a_join(direct, key, "2")
    assert await other.request(Hold(Decimal(1), 1)) is None


async def test_a_request_alone_may_have_all_that_is_left(direct: Database) -> None:
    key = await a_capped_key(direct, 10)
    one, other = Process(direct, key), Process(direct, key)
    assert await one.request(Hold(Decimal(50), 1)) is None
    assert await other.request(Hold(Decimal("0.01"), 1)) is not None
    await one.settle(0, Decimal(9))
    await one.renew(is_leaving=True)
    assert await other.request(Hold(Decimal(50), 1)) is None


async def test_what_a_silent_process_held_is_usable_after_a_minute(
    direct: Database, sql: psycopg.Connection
) -> None:
    key = await a_capped_key(direct, 10)
    dead, other = Process(direct, key), Process(direct, key)
    await dead.request(Hold(Decimal(8), 1))
    fall_silent(sql, dead, 59)
    assert await other.request(Hold(Decimal(5), 1)) is not None
    fall_silent(sql, dead, 1)
    assert await other.request(Hold(Decimal(5), 1)) is None


async def test_what_is_over_is_forgotten(direct: Database, sql: psycopg.Connection) -> None:
    terms = Terms(rates={"gateway": {"requests_per_minute": 9}})
    key = await a_capped_key(direct, 100)
    dead, other = Process(direct, key, terms), Process(direct, key, terms)
    for process in (dead, other):
        await process.request(ONE)
        await process.renew()
    fall_silent(sql, dead, 601)
    sql.execute("update gateway_counts set second = second - interval '11 minutes'")
    await direct.gateway_leases.forget()
    left = "select (select count(*) from gateway_leases), (select count(*) from gateway_counts)"
    assert sql.execute(left).fetchone() == (1, 0)


async def test_what_a_process_wants_besides_is_a_tenth_of_what_is_left(
    database: Database,
) -> None:
    key = await a_capped_key(database, 100)
    process = Process(database, key)
    wanting = LeaseQuestion({}, {Resource.USD: Decimal(1)}, {Resource.USD: Decimal(90)})
    answer = await process.ask(wanting)
    assert answer.granted[Resource.USD] == 10
    assert answer.granted[Resource.REQUESTS] is None


@pytest.mark.parametrize(
    ("resource", "limit", "code"),
    [("budget_usd", "2", "budget_exceeded"), ("ai_credits", "200", "quota_exceeded")],
)
async def test_a_teams_limits_hold_for_all_of_its_keys(
    direct: Database, resource: str, limit: str, code: str
) -> None:
    key = await a_key(direct, f"team_{uuid4().hex}")
    other = await a_key(direct, key.team_id)
    await direct.operating.set_team_quota(key.team_id, resource, Decimal(limit))
    one, another = Process(direct, key), Process(direct, other)
    assert await one.request(ONE) is None
    assert await another.request(ONE) is None
    refused = await one.request(ONE)
    assert refused is not None
    assert (refused.code, refused.limit and refused.limit["scope"]) == (code, "team")
    assert refused.limit["reserved"] == limit


async def test_the_tighter_of_two_budgets_rules_and_is_shown(direct: Database) -> None:
    key = await a_capped_key(direct, 10)
    await direct.operating.set_team_quota(key.team_id, "budget_usd", Decimal(9))
    process = Process(direct, key)
    await process.request(Hold(Decimal(8), 1))
    await process.settle(0, Decimal(8))
    budget = (await process.renew()).budget
    assert budget is not None
    assert (budget.scope, budget.tier, budget.cap_usd) == ("team", Tier.WARN, 9)
    shown = await direct.get_budget(key.id)
    assert shown is not None
    assert (shown.scope, shown.spent_usd) == ("team", 8)
    await direct.operating.set_team_quota(key.team_id, "budget_usd", Decimal(100))
    budget = (await process.renew()).budget
    assert budget is not None
    assert (budget.scope, budget.tier) == ("key", Tier.OK)


RATES = st.lists(
    st.tuples(
        st.sampled_from(["request", "request", "settle", "renew", "leave", "later"]),
        st.integers(0, 2),
        st.integers(1, 8),
    ),
    min_size=5,
    max_size=30,
)


@given(limit=st.integers(1, 9), tokens=st.integers(8, 30), ops=RATES)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_no_more_is_let_in_a_minute_than_the_limit(
    direct: Database,
    sql: psycopg.Connection,
    limit: int,
    tokens: int,
    ops: list[tuple[str, int, int]],
) -> None:
    terms = Terms(rates={"gateway": {"requests_per_minute": limit, "tokens_per_minute": tokens}})
    key = await a_key(direct, f"team_{uuid4().hex}")
    processes = [Process(direct, key, terms) for _ in range(3)]
    let_in: list[int] = []
    settled: list[tuple[int, int]] = []
    now = 0
    for op, place, number in ops:
        process = processes[place]
        if op == "request":
            refused = await process.request(Hold(Decimal(0), number))
            if refused is None:
                let_in.append(now)
            else:
                assert refused.code == "rate_limited"
                assert refused.retry_after_secs is not None
                assert 1 <= refused.retry_after_secs <= 61
        elif op == "settle" and process.open:
            used = process.open[0].tokens
            await process.settle(0, Decimal(0), used)
            settled.append((now, used))
        elif op == "renew":
            await process.renew()
        elif op == "leave":
            await process.renew(is_leaving=True)
        elif op == "later":
            now += number * 4
            for table, column in (("gateway_counts", "second"), ("gateway_leases", "heartbeat_at")):
                # A process that lives shows it; what it has counted is so much older.
                if table == "gateway_counts":
                    sql.execute(
                        f"update {table} set {column} = {column} - make_interval(secs => %s)"
                        " where api_key_id = %s".encode(),
                        [number * 4, key.id],
                    )
        assert len([at for at in let_in if at > now - 60]) <= limit
        used_tokens = sum(used for at, used in settled if at > now - 60)
        assert used_tokens + sum(one.slices.held_tokens for one in processes) <= tokens + 8


async def test_requests_at_once_are_counted_over_all_processes(direct: Database) -> None:
    terms = Terms(rates={"gateway": {"concurrent_requests": 3}})
    key = await a_key(direct, f"team_{uuid4().hex}")
    one, other = Process(direct, key, terms), Process(direct, key, terms)
    for _ in range(2):
        assert await one.request(ONE) is None
    assert await other.request(ONE) is None
    refused = await other.request(ONE)
    assert refused is not None
    assert refused.code == "concurrency_exceeded"
    await one.settle(0, Decimal(0))
    await one.renew(is_leaving=True)
    assert await other.request(ONE) is None


async def test_a_keys_own_rate_is_about_all_products(direct: Database) -> None:
    key = await a_key(direct, f"team_{uuid4().hex}")
    account = await direct.operating.set_key_rates(key.id, {"requests_per_minute": 2})
    assert account.rates == {"requests_per_minute": 2}
    process = Process(direct, key)
    question = LeaseQuestion({}, {Resource.REQUESTS: Decimal(1)}, {})
    for product in ("gateway", "other"):
        answer = await direct.gateway_leases.renew(
            uuid4(), key.id, product, billable=True, question=question, terms=Terms()
        )
        assert answer.granted[Resource.REQUESTS] == 1
    refused = await process.request(ONE)
    assert refused is not None
    assert refused.code == "rate_limited"
    assert (await direct.operating.set_key_rates(key.id, {})).rates == {}
    assert await process.request(ONE) is None


async def test_processes_that_race_share_exactly_what_there_is(
    direct: Database, sql: psycopg.Connection
) -> None:
    key = await a_capped_key(direct, 20)
    processes = [Process(direct, key) for _ in range(60)]
    refused = await asyncio.gather(*(process.request(ONE) for process in processes))
    joins: list[Any] = await asyncio.gather(
        *(a_join(direct, key, "1") for _ in range(5)), return_exceptions=True
    )
    assert refused.count(None) == 20
    assert all(isinstance(join, Refused) for join in joins)
    assert held(sql, key) == 20


async def test_a_revoked_key_leases_nothing(direct: Database) -> None:
    key = await a_capped_key(direct, 10)
    await direct.operating.revoke_api_key(key.id)
    with pytest.raises(Refused) as refused:
        await Process(direct, key).request(ONE)
    assert refused.value.code == "disabled_api_key"
