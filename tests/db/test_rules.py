"""What the database itself refuses, whoever asks."""

from __future__ import annotations

import json
from dataclasses import replace
from uuid import uuid4

import psycopg
import pytest

from flow.db.database import Database
from flow.domain.calls.thread import Thread
from flow.domain.usage.events import UsageEvent
from tests.db.making import a_key, a_thread, an_event

TABLES = [
    "api_keys",
    "workflow_threads",
    "workflow_thread_turns",
    "workflow_thread_moves",
    "workflow_thread_tool_calls",
    "usage_events",
    "usage_daily",
    "usage_daily_lines",
    "rejected_usage_events",
    "team_quotas",
    "usage_monthly",
    "webhook_events",
    "webhook_deliveries",
    "workflow_executors",
    "room_calls",
    "call_commands",
    "gateway_leases",
    "gateway_counts",
    "agents",
    "agent_versions",
    "phone_numbers",
    "phone_calls",
    "call_recordings",
    "call_recording_parts",
    "call_recording_removals",
]
OURS = "n.nspname = 'flow' or (n.nspname = 'public' and p.prokind = 'f')"


@pytest.fixture
async def thread(direct: Database) -> Thread:
    """A thread with one row in the ledger, and one of its key's without a thread."""
    thread = await a_thread(direct, await a_key(direct))
    await direct.record_usage([an_event(thread), a_request(thread)])
    return thread


def a_request(thread: Thread) -> UsageEvent:
    """An event of the thread's key that belongs to no thread."""
    return an_event(thread, owner=replace(thread.owner, workflow_thread_id=None))


def refused(sql: psycopg.Connection, statement: str) -> str:
    """The message of the refusal of a statement."""
    with pytest.raises(psycopg.Error) as refusal:
        sql.execute(statement.encode())
    return str(refusal.value)


@pytest.mark.parametrize(
    "statement",
    [
        "update usage_events set lines = '[]'",
        "update usage_events set note = 'x'",
        "delete from usage_events",
        "truncate usage_events",
        "truncate workflow_threads cascade",
        "delete from workflow_threads",
    ],
)
async def test_the_ledger_is_immutable(
    sql: psycopg.Connection, thread: Thread, statement: str
) -> None:
    assert "immutable" in refused(sql, statement)
    assert sql.execute("select count(*) from usage_events").fetchone() == (2,)


async def test_everything_of_a_key_goes_with_the_key(
    sql: psycopg.Connection, direct: Database, thread: Thread
) -> None:
    other = await a_thread(direct, await a_key(direct))
    await direct.record_usage([an_event(other), a_request(other)])
    sql.execute("delete from api_keys where id = %s", (thread.api_key_id,))
    for table in ("api_keys", "workflow_threads", "usage_daily", "usage_monthly"):
        assert sql.execute(f"select count(*) from {table}".encode()).fetchone() == (1,), table
    for table, rows in (("usage_events", 2), ("usage_daily_lines", 3)):
        assert sql.execute(f"select count(*) from {table}".encode()).fetchone() == (rows,), table


@pytest.mark.parametrize(
    ("column", "refusal"),
    [
        ("api_key_id = gen_random_uuid()", "foreign key"),
        ("team_id = 'x'", "foreign key"),
        ("product = 'x'", "foreign key"),
        ("billable = false", "billable stays"),
    ],
)
async def test_a_thread_with_usage_keeps_its_owner(
    sql: psycopg.Connection, thread: Thread, column: str, refusal: str
) -> None:
    assert refusal in refused(sql, f"update workflow_threads set {column}")


async def test_a_thread_starts_as_created(sql: psycopg.Connection, thread: Thread) -> None:
    insert = (
        "insert into workflow_threads (id, api_key_id, team_id, product, billable, status,"
        ' "join", usage_stats, fingerprint)'
        f" values ('{uuid4()}', '{thread.api_key_id}', 't', 'p', true, 'completed',"
        " '{}', '{}', '')"
    )
    assert "starts as created" in refused(sql, insert)


def test_a_move_made_legal_in_the_table_is_legal(sql: psycopg.Connection) -> None:
    legal = sql.execute("select from_status, to_status from workflow_thread_moves").fetchall()
    finals = {"completed", "failed", "expired", "cancelled"}
    assert not {origin for origin, _ in legal} & finals
    assert {"created", "in_call", "extracting"} < {origin for origin, _ in legal}


@pytest.mark.parametrize("role", ["anon", "authenticated"])
@pytest.mark.parametrize("table", [*TABLES, "workflow_thread_usage"])
async def test_no_caller_of_the_api_can_use_a_table(
    sql: psycopg.Connection, thread: Thread, role: str, table: str
) -> None:
    sql.execute(f"set role {role}".encode())
    for statement in (f"select * from {table}", f"delete from {table}"):
        assert "permission denied" in refused(sql, statement)


@pytest.mark.parametrize("role", ["anon", "authenticated"])
@pytest.mark.parametrize("table", [*TABLES, "workflow_thread_usage"])
async def test_no_caller_of_the_api_sees_a_row_even_where_grants_were_given(
    sql: psycopg.Connection, thread: Thread, role: str, table: str
) -> None:
    sql.execute("grant all on all tables in schema public to anon, authenticated")
    sql.execute(f"set role {role}".encode())
    assert sql.execute(f"select count(*) from {table}".encode()).fetchone() == (0,)


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_no_caller_of_the_api_can_call_a_function(sql: psycopg.Connection, role: str) -> None:
    allowed = sql.execute(
        "select p.oid::regprocedure::text from pg_proc p join pg_namespace n"
        f" on n.oid = p.pronamespace where ({OURS})"
        " and has_function_privilege(%s, p.oid, 'execute')",
        (role,),
    ).fetchall()
    assert allowed == []
    sql.execute(f"set role {role}".encode())
    assert "permission denied" in refused(sql, "select flow_ping()")


def test_every_table_has_row_level_security_and_no_policy(sql: psycopg.Connection) -> None:
    tables = sql.execute(
        "select relname, relrowsecurity from pg_class"
        " where relnamespace = 'public'::regnamespace and relkind = 'r'"
    ).fetchall()
    assert sorted(tables) == sorted((name, True) for name in TABLES)
    assert sql.execute("select * from pg_policies").fetchall() == []


def test_no_function_depends_on_a_callers_search_path(sql: psycopg.Connection) -> None:
    """Functions with a string for a body set their own; the others are bound when made."""
    loose = sql.execute(
        "select p.oid::regprocedure::text from pg_proc p join pg_namespace n"
        f" on n.oid = p.pronamespace where ({OURS}) and p.prosqlbody is null"
        " and not coalesce(p.proconfig, '{}') @> array['search_path=\"\"']"
    ).fetchall()
    assert loose == []


def test_no_function_runs_with_its_owners_rights(sql: psycopg.Connection) -> None:
    definers = sql.execute(
        "select p.oid::regprocedure::text from pg_proc p join pg_namespace n"
        f" on n.oid = p.pronamespace where ({OURS}) and p.prosecdef"
    ).fetchall()
    assert definers == []


async def test_the_service_role_can_do_all_that_flow_does(
    sql: psycopg.Connection, thread: Thread
) -> None:
    sql.execute("set role service_role")
    key = sql.execute("select resolve_api_key('k', 't', 'n') ->> 'id'").fetchone()
    assert key is not None
    joined = sql.execute(
        "select join_thread(%s, gen_random_uuid(), '{\"product\": \"p\"}', true, 'i', 'f')", key
    )
    assert joined.fetchone() is not None
    again = an_event(thread)
    recorded = sql.execute(
        "select record_usage(jsonb_build_array(%s::jsonb))", (json.dumps(again.to_json()),)
    )
    assert (recorded.fetchone() or [{}])[0]["new"] == [str(again.id)]
    finished = sql.execute("select finish_thread(%s, 'failed')", (thread.id,)).fetchone()
    assert finished is not None


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
async def test_pages_hold_every_thread_once_when_all_were_made_at_one_time(
    sql: psycopg.Connection, direct: Database, limit: int
) -> None:
    key = await a_key(direct)
    threads = [await a_thread(direct, key) for _ in range(6)]
    sql.execute("update workflow_threads set created_at = '2026-11-21 12:00:00.000001+00'")
    page = await direct.list_workflow_threads(key.id, limit=limit)
    seen = [*page.items]
    while page.next_cursor is not None:
        page = await direct.list_workflow_threads(key.id, limit=limit, cursor=page.next_cursor)
        seen += page.items
    assert sorted(thread.id for thread in seen) == sorted(thread.id for thread in threads)


def test_threads_of_a_key_are_found_by_an_index(sql: psycopg.Connection) -> None:
    columns = sql.execute(
        "select pg_get_indexdef('idx_workflow_threads_api_key_id'::regclass)"
    ).fetchone()
    assert "(api_key_id, created_at DESC, id DESC)" in (columns or [""])[0]
