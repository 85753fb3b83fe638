"""How rows are found: a connection keeps its plans, however large the tables become."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from flow.db.database import Database
from flow.db.postgres_transport import PostgresTransport
from flow.domain.agents.agent import AgentDefinition
from flow.domain.calls.thread import Status, ThreadTurn, Turn
from flow.domain.calls.thread_overview import ThreadFilter
from flow.domain.limits.quota import Terms
from tests.db.making import a_join, a_key, a_request, an_event, spend

TERMS = Terms(buckets={"ai_credits": ["voice_bot"]}, concurrency={"voice_bot": 5})
GROWING = (
    "api_keys",
    "workflow_threads",
    "workflow_thread_turns",
    "usage_events",
    "usage_daily",
    "usage_daily_lines",
    "usage_monthly",
    "webhook_events",
    "webhook_deliveries",
    "agents",
    "agent_versions",
)


async def a_whole_call(database: Database, *, limited: bool) -> None:
    """All that is asked of the database for a call and its account."""
    key = await a_key(database)
    if limited:
        await database.operating.set_budget(key.id, Decimal(10))
    terms = TERMS if limited else None
    joined = await a_join(database, key, "1", terms=terms, idempotency_key="once")
    thread = joined.thread
    again = await a_join(database, key, "1", terms=terms, idempotency_key="once")
    assert again.thread.id == thread.id
    await database.find_join(key, "once", "same")
    await database.claim_thread(thread.id, "a process")
    await database.save_workflow_thread_data(thread.id, status=Status.IN_CALL)
    await database.touch_thread(thread.id)
    await database.save_turns([ThreadTurn(thread.id, Turn(0, "user", "Hello", datetime.now(UTC)))])
    await spend(database, thread, "9", occurred_at=datetime.now(UTC))
    await database.get_thread_standing(thread.id)
    await database.get_budget(key.id)
    await database.get_limits(key.id, TERMS)
    await database.save_workflow_thread_data(thread.id, status=Status.ENDED)
    await database.save_workflow_thread_data(thread.id, status=Status.EXTRACTING)
    await database.save_insights(thread.id, {"summary": "Hello"})
    await database.record_usage([an_event(thread, source="insights"), a_request(key)])
    await database.finish_thread(thread.id, Status.COMPLETED)
    await database.get_workflow_thread_data(thread.id, key.id)
    await database.get_thread_usage(thread.id, key.id)
    await database.end_thread(thread.id, key.id)
    other = await a_join(database, key, "0", terms=terms, override=True)
    await database.end_thread(other.thread.id, key.id)
    today = datetime.now(UTC).date()
    await database.get_usage_stats_by_api_key_id(key.id, from_=today, to=today, group_by=["model"])
    agent, _ = await database.agents.create(
        key.team_id, AgentDefinition(name=str(key.unkey_key_id))
    )
    for reference in (str(agent.id), agent.name):
        await database.agents.change(
            key.team_id, reference, AgentDefinition(name=agent.name), if_version=None
        )
        await database.agents.get(key.team_id, reference)
    await database.list_workflow_threads(key.id, agent_id=agent.id)
    await database.agents.list(key.team_id)
    await database.agents.archive(key.team_id, agent.name)
    await database.expire_threads(datetime(2020, 1, 1, tzinfo=UTC))
    await database.take_over_lost_threads(120, 600)
    await database.take_over_threads_of("a process that is gone")


def scans(sql: psycopg.Connection) -> dict[str, int]:
    """How often each table was read from its beginning to its end."""
    sql.execute("select pg_stat_clear_snapshot()")
    found = sql.execute("select relname, seq_scan from pg_stat_user_tables").fetchall()
    return {table: count for table, count in found if table in GROWING}


@pytest.mark.parametrize("limited", [False, True])
async def test_plans_made_for_empty_tables_read_no_table_whole(
    postgres_url: str, sql: psycopg.Connection, limited: bool
) -> None:
    # Now Postgres knows them to be empty, and that reading all of nothing costs nothing.
    sql.execute("vacuum analyze")
    before = scans(sql)
    database = Database(await PostgresTransport.open(postgres_url, max_size=1))
    for _ in range(6):  # Postgres keeps the plan of a statement from the sixth time on
        await a_whole_call(database, limited=limited)
    await database.close()  # its connection leaves what it counted
    assert scans(sql) == before


@pytest.mark.parametrize("limit", ["budget", "quota"])
async def test_a_join_asks_about_its_own_alone(
    postgres_url: str, sql: psycopg.Connection, limit: str
) -> None:
    """However many calls of other keys and teams are running."""
    sql.execute("vacuum analyze")
    database = Database(await PostgresTransport.open(postgres_url, max_size=1))
    for n in range(8):
        key = await a_key(database, f"team_{n}")
        if limit == "budget":
            await database.operating.set_budget(key.id, Decimal(10))
        else:
            await database.operating.set_team_quota(key.team_id, "ai_credits", Decimal(1000))
        await a_join(database, key, "1", terms=TERMS)
    await database.close()
    found = sql.execute(
        "select indexrelname, idx_tup_read from pg_stat_user_indexes"
        " where indexrelname like 'workflow_threads%live'"
    ).fetchall()
    assert dict(found) == {"workflow_threads_live": 0, "workflow_threads_team_live": 0}


def fill(sql: psycopg.Connection) -> None:
    """Thousands of completed threads, one a minute, few of acme's key and most of umbrella's, of
    which an early one failed."""
    sql.execute("set session_replication_role = replica")  # They are over from the beginning.
    sql.execute(
        """
        insert into workflow_threads (
          id, api_key_id, team_id, product, billable, status, "join", usage_stats, fingerprint,
          created_at
        )
        select gen_random_uuid(), k.id, k.team_id, 'voice_bot', true,
          case when n = 4999 then 'failed' else 'completed' end, '{}', '{}', 'same',
          now() - n * interval '1 minute'
        from generate_series(1, 5000) n
        join api_keys k on k.team_id = case when n % 100 = 0 then 'acme' else 'umbrella' end
        """
    )
    sql.execute("vacuum analyze workflow_threads")


def tuples_read(sql: psycopg.Connection) -> int:
    """How many entries of indexes of threads were read."""
    sql.execute("select pg_stat_clear_snapshot()")
    read = "select sum(idx_tup_read) from pg_stat_user_indexes where relname = 'workflow_threads'"
    ((count,),) = sql.execute(read).fetchall()
    return int(count)


async def test_a_list_of_a_keys_few_among_many_reads_only_those(
    postgres_url: str, sql: psycopg.Connection
) -> None:
    database = Database(await PostgresTransport.open(postgres_url, max_size=1))
    await a_key(database, "acme")
    key = await a_key(database, "umbrella")
    fill(sql)
    before, read = scans(sql)["workflow_threads"], tuples_read(sql)
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    lists = (
        await database.list_workflow_threads(key.id, status=Status.FAILED),
        await database.list_workflow_threads(key.id, running=True),
        await database.list_workflow_threads(key.id, to=yesterday, limit=10),
        await database.list_workflow_threads(key.id, from_=yesterday, to=yesterday, limit=10),
    )
    assert [len(page.items) for page in lists] == [1, 0, 10, 10]
    await database.close()
    assert scans(sql)["workflow_threads"] == before
    assert tuples_read(sql) - read < 100


async def test_a_list_over_all_keys_is_read_from_its_end(
    postgres_url: str, sql: psycopg.Connection
) -> None:
    """However old the service is."""
    database = Database(await PostgresTransport.open(postgres_url, max_size=1))
    key, other = await a_key(database, "acme"), await a_key(database, "umbrella")
    fill(sql)
    before = scans(sql)["workflow_threads"]
    for which in (
        ThreadFilter(),
        ThreadFilter(team_id="acme"),
        ThreadFilter(api_key_id=key.id),
        ThreadFilter(api_key_id=other.id, product="voice_bot"),
        ThreadFilter(running=True),
    ):
        page = await database.operating.list_threads(which, limit=10)
        assert len(page.items) == (0 if which.running else 10)
    await database.close()
    assert scans(sql)["workflow_threads"] == before
    assert tuples_read(sql) < 500
