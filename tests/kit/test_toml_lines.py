"""Where the keys of a TOML text stand."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flow.kit.toml_lines import KeyLines

TRICKY = '''\
# [comment]
top = """
[not_a_table]
fake = 1 \\"""
"""""
[ a . "b.c" ]   # ] = [
x.y = 1
'q' = { inner = [ "]", '}', {deep = 2}], other = 07:32:00 }  # } ]
list = [   # [
  "one", # two = 2
  [ 3,
    4 ],
]
[[many]]
path = 'C:\\'
when = 1979-05-27 07:32:00
empty = ""
none = []
"esc\\u0061ped" = \'\'\'
last = 1\'\'\'
[a]
late = -inf
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("a",), 6),
        (("a", "b.c"), 6),
        (("a", "b.c", "x"), 7),
        (("a", "b.c", "x", "y"), 7),
        (("a", "b.c", "q"), 8),
        (("a", "b.c", "q", "inner"), 8),
        (("a", "b.c", "q", "inner", 2, "deep"), 8),
        (("a", "b.c", "q", "other"), 8),
        (("a", "b.c", "list"), 9),
        (("a", "b.c", "list", 0), 10),
        (("a", "b.c", "list", 1), 11),
        (("a", "b.c", "list", 1, 1), 12),
        (("many",), 14),
        (("many", "path"), 15),
        (("many", "when"), 16),
        (("many", "empty"), 17),
        (("many", "none"), 18),
        (("many", "escaped"), 19),
        (("a", "late"), 22),
        # what is not written stands where the table around it does
        (("a", "b.c", "missing", "further"), 6),
        (("a", "b.c", "list", 7), 9),
        (("not_a_table",), None),
        (("fake",), None),
        (("last",), None),
        ((), None),
    ],
)
def test_a_key_stands_where_it_was_first_written(
    path: tuple[str | int, ...], line: int | None
) -> None:
    assert tomllib.loads(TRICKY)
    assert KeyLines(TRICKY).line(path) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", None),
        ("\n", None),
        ("# a = 1", None),
        ("a = 1", 1),
        ("\na = 1 # end", 2),
        ("\n\n[a]", 3),
    ],
)
def test_a_text_may_be_short_and_end_anywhere(text: str, line: int | None) -> None:
    assert KeyLines(text).line(("a",)) == line


def test_windows_line_ends_count_once() -> None:
    assert KeyLines("a = 1\r\n\r\n[b]\r\nc = 2\r\n").line(("b", "c")) == 4


KEYS = st.sampled_from(["a", "b-1", "7", "dotted.key", "x = 1", "[h]", "#", "", "é", 'say "so"'])
STRINGS = st.sampled_from(["plain", "", "[x]\ny = 1", "# no", "'", '"""', "'''", "\\", "}],{"])
LEAVES = st.integers() | st.booleans() | STRINGS
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
TABLES = st.recursive(
    st.dictionaries(KEYS, VALUES, max_size=4),
    lambda inner: st.dictionaries(KEYS, VALUES | inner.map(lambda table: ("table", table))),
    max_leaves=4,
)


class Writer:
    """Writes data as TOML and keeps, apart from the text, where each key went."""

    def __init__(self, gaps: st.DataObject) -> None:
        self._gaps = gaps
        self.lines: list[str] = []
        self.expected: dict[tuple[str | int, ...], int] = {}

    def table(self, path: tuple[str, ...], table: dict[str, Any]) -> None:
        for key, value in table.items():
            if not isinstance(value, tuple):
                self.gap()
                self.expected[*path, key] = len(self.lines) + 1
                self.lines += f"{quoted(key)} = {self.value(value)}".split("\n")
        for key, value in table.items():
            if isinstance(value, tuple):
                self.gap()
                self.expected[*path, key] = len(self.lines) + 1
                self.lines.append(f"[{'.'.join(map(quoted, (*path, key)))}]")
                self.table((*path, key), value[1])

    def gap(self) -> None:
        self.lines += self._gaps.draw(st.sampled_from([[], [""], ["# [c] = 1", "\t"]]))

    def value(self, value: Any) -> str:
        if isinstance(value, list):
            return "[" + "".join(f"\n {self.value(one)}," for one in value) + "]"
        if isinstance(value, dict):
            inner = (f"{quoted(key)} = {self.value(one)}" for key, one in value.items())
            return "{" + ", ".join(inner) + "}"
        if isinstance(value, str) and self._gaps.draw(st.booleans()):
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"""\n{escaped}"""'
        return quoted(value) if isinstance(value, str) else json.dumps(value)


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


@settings(max_examples=50)
@given(TABLES, st.data())
def test_whatever_is_written_is_found_where_it_was_written(
    table: dict[str, Any], gaps: st.DataObject
) -> None:
    writer = Writer(gaps)
    writer.table((), table)
    text = "\n".join(writer.lines)
    tomllib.loads(text)
    lines = KeyLines(text)
    assert {path: lines.line(path) for path in writer.expected} == writer.expected


@settings(max_examples=50)
@given(TABLES, st.data())
def test_every_key_that_tomllib_finds_has_a_line_of_its_own(
    table: dict[str, Any], gaps: st.DataObject
) -> None:
    writer = Writer(gaps)
    writer.table((), table)
    text = "\n".join(writer.lines)
    lines = KeyLines(text)
    rows = text.split("\n")

    def check(path: tuple[str | int, ...], value: Any) -> None:
        if path and isinstance(path[-1], str):
            line = lines.line(path)
            assert line is not None
            assert quoted(path[-1]) in rows[line - 1]
        inner = value.items() if isinstance(value, dict) else ()
        for key, one in enumerate(value) if isinstance(value, list) else inner:
            check((*path, key), one)

    check((), tomllib.loads(text))
