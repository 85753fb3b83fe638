"""What becomes of a call when the database is away, or is back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.db.database import Database
from flow.db.postgres_json import storable, storable_text
from flow.db.postgres_transport import PostgresTransport
from flow.db.sqlstates import error_of
from flow.db.supabase_transport import SupabaseTransport
from flow.errors import (
    ConfigurationError,
    Conflict,
    DatabaseUnavailable,
    FlowError,
    IllegalTransition,
    InvalidInput,
    NotFound,
    UnpricedModel,
)
from tests.db.conftest import PUBLISHABLE_KEY
from tests.db.making import a_key, a_thread, an_event
from tests.ports import free_port


@pytest.mark.parametrize(
    ("code", "detail", "kind", "error_code"),
    [
        ("PT404", None, NotFound, "not_found"),
        ("PT409", None, Conflict, "conflict"),
        ("PT409", "idempotency_conflict", Conflict, "idempotency_conflict"),
        ("PT409", "illegal_transition", IllegalTransition, "illegal_transition"),
        ("PT422", None, InvalidInput, "invalid_request"),
        ("PT422", "model_unpriced", UnpricedModel, "model_unpriced"),
        ("22P02", None, InvalidInput, "invalid_request"),
        ("23514", None, InvalidInput, "invalid_request"),
        ("42883", None, DatabaseUnavailable, "database_unavailable"),
        ("PGRST202", None, DatabaseUnavailable, "database_unavailable"),
        ("PGRST003", None, DatabaseUnavailable, "database_unavailable"),
        ("08006", None, DatabaseUnavailable, "database_unavailable"),
        ("40P01", None, DatabaseUnavailable, "database_unavailable"),
        ("53300", None, DatabaseUnavailable, "database_unavailable"),
        ("57P03", None, DatabaseUnavailable, "database_unavailable"),
        ("25006", None, DatabaseUnavailable, "database_unavailable"),
        ("503", None, DatabaseUnavailable, "database_unavailable"),
        ("42501", None, ConfigurationError, "configuration_error"),
        ("PGRST301", None, ConfigurationError, "configuration_error"),
        ("XX000", None, FlowError, "internal_error"),
        (None, None, FlowError, "internal_error"),
    ],
)
def test_a_code_means_the_same_over_both_transports(
    code: str | None, detail: str | None, kind: type[FlowError], error_code: str
) -> None:
    error = error_of(code, "the message", detail)
    assert type(error) is kind
    assert error.code == error_code


async def test_a_postgres_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    url = f"postgresql://postgres@/x?host={tmp_path}"
    database = Database(await PostgresTransport.open(url, wait_secs=0.3))
    with pytest.raises(DatabaseUnavailable):
        await database.ping()
    await database.close()


async def test_a_supabase_that_is_not_there_is_unavailable() -> None:
    database = Database(await SupabaseTransport.open(f"http://127.0.0.1:{free_port()}", "key"))
    with pytest.raises(DatabaseUnavailable):
        await database.ping()
    await database.close()


@pytest.mark.parametrize("key", ["sb_secret_wrong", PUBLISHABLE_KEY])
async def test_a_key_without_the_right_is_a_wrong_setting(supabase_url: str, key: str) -> None:
    database = Database(await SupabaseTransport.open(supabase_url, key))
    with pytest.raises(ConfigurationError):
        await database.ping()
    await database.close()


async def test_the_publishable_key_reads_no_row(supabase_url: str) -> None:
    from supabase import acreate_client

    client = await acreate_client(supabase_url, PUBLISHABLE_KEY)
    found = await client.table("workflow_thread_moves").select("*").execute()
    assert found.data == []


def cut_all(sql: psycopg.Connection) -> None:
    """End every other connection of the database, as a restart does."""
    sql.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )


async def test_calls_go_on_after_every_connection_was_cut(
    direct: Database, sql: psycopg.Connection
) -> None:
    thread = await a_thread(direct, await a_key(direct))
    await asyncio.gather(*(direct.ping() for _ in range(20)))
    for _ in range(3):
        cut_all(sql)
        events = [an_event(thread) for _ in range(5)]
        outcomes = await asyncio.gather(*(direct.record_usage([event]) for event in events))
        assert [outcome.new | outcome.duplicates for outcome in outcomes] == [
            {event.id} for event in events
        ]


async def test_a_call_that_hangs_is_given_up(postgres_url: str, sql: psycopg.Connection) -> None:
    transport = await PostgresTransport.open(postgres_url, call_secs=0.2)
    database = Database(transport)
    thread = await a_thread(database, await a_key(database))
    with sql.transaction():
        sql.execute("lock table workflow_threads")
        with pytest.raises(DatabaseUnavailable):
            await database.get_workflow_thread_data(thread.id)
    assert (await database.get_workflow_thread_data(thread.id)).id == thread.id
    await database.close()


async def test_a_closed_database_is_unavailable(postgres_url: str) -> None:
    database = Database(await PostgresTransport.open(postgres_url))
    await database.close()
    with pytest.raises(DatabaseUnavailable):
        await database.ping()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=20,
)


def _characters(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from name
            yield from _characters(item)
    elif isinstance(value, list):
        for item in value:
            yield from _characters(item)


@given(JSON)
def test_what_is_sent_is_json_that_postgres_holds(value: Any) -> None:
    sent = json.loads(storable_text(value), parse_constant=pytest.fail)
    assert all(c != "\0" and not "\ud800" <= c <= "\udfff" for c in _characters(sent))
    assert sent == json.loads(json.dumps(storable(value)))


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_text_that_can_be_held_is_left_alone(text: str) -> None:
    assert storable(text) == text
    assert json.loads(storable_text([text])) == [text]
