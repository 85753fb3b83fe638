"""``supabase/schema.sql`` is what the migrations come to."""

from __future__ import annotations

import re

import psycopg

from flow.db.schema_dump import schema_of
from tests.db.conftest import ROOT

FILE = ROOT / "supabase" / "schema.sql"


def test_the_schema_file_is_what_the_migrations_leave(postgres_url: str) -> None:
    assert FILE.read_text("utf-8") == schema_of(postgres_url), "run `make schema`"


def test_the_schema_file_has_everything_once(sql: psycopg.Connection) -> None:
    made = re.findall(r"^create (\w+) ((?:public|flow)\.\w+)", FILE.read_text("utf-8"), re.M)
    kinds = {"r": "table", "v": "view", "c": "type"}
    relations = sql.execute(
        "select relkind::text, n.nspname || '.' || relname from pg_class c"
        " join pg_namespace n on n.oid = relnamespace"
        " where n.nspname in ('public', 'flow') and relkind in ('r', 'v', 'c')"
    ).fetchall()
    functions = sql.execute(
        "select n.nspname || '.' || proname from pg_proc"
        " join pg_namespace n on n.oid = pronamespace where n.nspname in ('public', 'flow')"
    ).fetchall()
    expected = [(kinds[kind], name) for kind, name in relations]
    expected += [("function", name) for (name,) in functions]
    assert sorted(made) == sorted(expected)


def test_what_is_changed_in_the_database_is_changed_in_the_text(
    sql: psycopg.Connection, postgres_url: str
) -> None:
    sql.execute("alter table api_keys add column colour text collate \"C\" default 'red'")
    sql.execute("alter function get_budget set enable_seqscan = on")
    sql.execute("grant select on team_quotas to anon")
    sql.execute("alter table team_quotas disable row level security")
    before = FILE.read_text("utf-8").splitlines()
    added = [line for line in schema_of(postgres_url).splitlines() if line not in before]
    assert added == [
        "  colour text collate \"C\" default 'red'::text,",
        "set enable_seqscan = on",
        "-- select on public.team_quotas: table to anon",
        "-- row-level security on every table, not team_quotas",
    ]
