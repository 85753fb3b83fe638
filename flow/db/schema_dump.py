"""Generates ``supabase/schema.sql``, the schema that all migrations make, as one readable text.

``python -m flow.db.schema_dump FILE`` writes it of a fresh database. It follows the migrations'
order of subjects; tables, types, triggers, settings and grants are those of the catalog. What the
catalog does not keep, the comments before a function and the original text of an expression, is
that of the last statement that made it.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from flow.db.embedded import running_postgres
from flow.db.migrations import migrate

_HEAD = """\
-- Everything in the database, as the migrations leave it. Written by `make schema`; to change
-- something, add a migration.
"""

_MAKES = re.compile(
    r"^create (?:or replace )?(?P<kind>table|type|view|function) (?P<name>(?:public|flow)\.\w+)",
    re.MULTILINE,
)

_HISTORY = """
select version, name, statements from supabase_migrations.schema_migrations order by version
"""

_RELATIONS = """
select c.oid, n.nspname || '.' || c.relname as name, c.relkind::text as kind,
  array_to_string(c.reloptions, ', ') as options, obj_description(c.oid, 'pg_class') as comment
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname in ('public', 'flow') and c.relkind in ('r', 'v', 'c')
"""

_COLUMNS = """
select a.attname as name, quote_ident(a.attname) as quoted,
  format_type(a.atttypid, a.atttypmod) as type, a.attnotnull as required,
  a.attgenerated = 's' as is_generated, a.attidentity <> '' as is_identity,
  pg_get_expr(d.adbin, d.adrelid) as value,
  case when a.attcollation <> t.typcollation then quote_ident(l.collname) end as collation,
  col_description(a.attrelid, a.attnum) as comment
from pg_attribute a
join pg_type t on t.oid = a.atttypid
left join pg_collation l on l.oid = a.attcollation
left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where a.attrelid = %s and a.attnum > 0 and not a.attisdropped
order by a.attnum
"""

_CONSTRAINTS = """
select quote_ident(conname) as name, pg_get_constraintdef(oid, true) as definition
from pg_constraint where conrelid = %s and contype in ('p', 'u', 'c', 'f')
order by position(contype::text in 'pufc'), conname
"""

_INDEXES = """
select pg_get_indexdef(i.indexrelid, 0, true) as definition
from pg_index i join pg_class c on c.oid = i.indexrelid
where i.indrelid = %s and not exists (select from pg_constraint where conindid = i.indexrelid)
order by c.relname
"""

_TRIGGERS = """
select pg_get_triggerdef(oid, true) as definition from pg_trigger
where tgrelid = %s and not tgisinternal order by tgname
"""

_FUNCTIONS = """
select p.oid, n.nspname || '.' || p.proname as name,
  pg_get_function_arguments(p.oid) as arguments,
  coalesce(pg_get_function_result(p.oid), 'void') as result,
  l.lanname as language, p.provolatile::text as volatility, p.proconfig as settings,
  p.prosrc as source, p.prosqlbody is not null as is_expression,
  obj_description(p.oid, 'pg_proc') as comment
from pg_proc p
join pg_namespace n on n.oid = p.pronamespace
join pg_language l on l.oid = p.prolang
where n.nspname in ('public', 'flow')
"""

# Who has what on each object, its owner aside: with nothing said, Postgres lets everybody execute
# a function.
_GRANTS = """
select o.kind, o.name, coalesce(r.rolname, 'public') as role,
  string_agg(lower(a.privilege_type), ', ' order by a.privilege_type) as privileges
from (
  select case c.relkind when 'S' then 'sequence' else 'table' end as kind,
    n.nspname || '.' || c.relname as name, c.relowner as owner,
    coalesce(
      c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner)
    ) as acl
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname in ('public', 'flow') and c.relkind in ('r', 'v', 'S')
  union all
  select 'function', n.nspname || '.' || p.proname, p.proowner,
    coalesce(p.proacl, acldefault('f', p.proowner))
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace
  where n.nspname in ('public', 'flow')
) o
cross join lateral aclexplode(o.acl) a
left join pg_roles r on r.oid = a.grantee
where a.grantee <> o.owner
group by 1, 2, 3
"""

_SECURED = """
select c.relname as name, c.relrowsecurity as is_secured,
  (select count(*) from pg_policy where polrelid = c.oid) as policies
from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' order by 1
"""

_VOLATILITY = {"i": " immutable", "s": " stable", "v": ""}

Row = dict[str, Any]
Ask = Callable[..., list[Row]]


def schema_of(url: str) -> str:
    """The text for the migrated database at ``url``."""
    with psycopg.connect(url, row_factory=dict_row) as connection:

        def ask(query: str, *values: Any) -> list[Row]:
            return connection.execute(query.encode(), values).fetchall()

        return "\n".join([_HEAD, *_subjects(ask), *_grants(ask)])


def _subjects(ask: Ask) -> Iterator[str]:
    """Each migration's subject, with what it was the first to make and is still there."""
    history = ask(_HISTORY)
    statements = [sql for migration in history for sql in migration["statements"]]
    made_by = {made["name"]: sql for sql in statements if (made := _MAKES.search(sql))}
    texts = {row["name"]: _relation(ask, row) for row in ask(_RELATIONS)}
    texts |= {row["name"]: _function(row, made_by[row["name"]]) for row in ask(_FUNCTIONS)}
    for migration in history:
        names = [made["name"] for sql in migration["statements"] if (made := _MAKES.search(sql))]
        # The first to make it has it; later ones find it gone.
        found = [texts.pop(name) for name in names if name in texts]
        if found:
            about = migration["statements"][0].partition("\n\n")[0]
            yield "\n".join([_title(migration["name"].replace("_", " ")), about, "", *found])


def _title(text: str) -> str:
    return f"-- {text.capitalize()} ".ljust(100, "-")


def _relation(ask: Ask, row: Row) -> str:
    oid, name = row["oid"], row["name"]
    columns = ask(_COLUMNS, oid)
    if row["kind"] == "v":
        (view,) = ask("select pg_get_viewdef(%s::oid, true) as definition", oid)
        options = f" with ({row['options']})" if row["options"] else ""
        return f"create view {name}{options} as\n{view['definition']}\n" + _comments(row, columns)
    lines = [f"  {column['quoted']} {column['type']}" + _column(column) for column in columns]
    if row["kind"] == "c":
        return f"create type {name} as (\n" + ",\n".join(lines) + "\n);\n" + _comments(row, [])
    lines += [f"  constraint {one['name']} {one['definition']}" for one in ask(_CONSTRAINTS, oid)]
    options = f" with ({row['options']})" if row["options"] else ""
    rest = "".join(f"{one['definition']};\n" for one in ask(_INDEXES, oid) + ask(_TRIGGERS, oid))
    body = ",\n".join(lines)
    return f"create table {name} (\n{body}\n){options};\n" + _comments(row, columns) + rest


def _column(column: Row) -> str:
    text = f" collate {column['collation']}" if column["collation"] else ""
    if column["required"]:
        text += " not null"
    if column["is_identity"]:
        text += " generated always as identity"
    elif column["is_generated"]:
        text += f" generated always as ({column['value']}) stored"
    elif column["value"]:
        text += f" default {column['value']}"
    return text


def _comments(row: Row, columns: Iterable[Row]) -> str:
    said = [row["comment"], *(f"{c['name']}: {c['comment']}" for c in columns if c["comment"])]
    return "".join(_comment(text) for text in said if text)


def _comment(text: str) -> str:
    return textwrap.fill(text, 100, initial_indent="-- ", subsequent_indent="--   ") + "\n"


def _function(row: Row, made_by: str) -> str:
    before, _, written = made_by.partition("create ")
    arguments = row["arguments"].replace(" DEFAULT ", " default ")
    if len(arguments) > 60:
        arguments = "\n  " + arguments.replace(", p_", ",\n  p_") + "\n"
    head = f"create function {row['name']}({arguments}) returns {row['result']}\n"
    settings = "".join(f"set {_setting(one)}\n" for one in row["settings"] or ())
    language = f"language {row['language']}{_VOLATILITY[row['volatility']]}\n"
    if row["is_expression"]:
        body = written[written.index("\nreturn ") + 1 :] + ";\n"
    else:
        body = f"as $${row['source']}$$;\n"
    # What comes with an empty line after it is of all that follows.
    reason = before.rpartition("\n\n")[2]
    return reason + head + language + settings + body + _comments(row, [])


def _setting(text: str) -> str:
    name, _, value = text.partition("=")
    return f"{name} = " + (value if value != '""' else "''")


def _grants(ask: Ask) -> Iterator[str]:
    """Who may do what, said of all objects at once where it is the same for all."""
    named: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for row in ask(_GRANTS):
        named[row["kind"], row["role"], row["privileges"]].append(row["name"])
    counts: dict[str, set[str]] = defaultdict(set)
    for row in ask(_FUNCTIONS):
        counts["function"].add(row["name"])
    for row in ask(_RELATIONS):
        if row["kind"] != "c":
            counts["table"].add(row["name"])
    yield _title("grants")
    for (kind, role, privileges), names in sorted(named.items()):
        which = "every" if set(names) == counts[kind] else ", ".join(sorted(names)) + ":"
        yield f"-- {privileges} on {which} {kind} to {role}"
    yield "-- nothing else to anybody but the owner"
    secured = ask(_SECURED)
    bare = [row["name"] for row in secured if not row["is_secured"]]
    open_ = [row["name"] for row in secured if row["policies"]]
    yield "-- row-level security on every table" + "".join(f", not {name}" for name in bare)
    yield f"-- policies on {', '.join(open_) or 'none'}\n"


def _main() -> None:
    with tempfile.TemporaryDirectory() as folder, running_postgres(Path(folder) / "pg") as url:
        asyncio.run(migrate(url))
        Path(sys.argv[1]).write_text(schema_of(url), "utf-8")


if __name__ == "__main__":
    _main()
