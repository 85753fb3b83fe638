"""Usage reports: the right days, exact sums, and safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flow.domain.usage.reports import MEASURES, UsageTable, as_csv, grouping, period
from flow.domain.usage.units import COMPONENTS, UNITS, Kind, Measure, component_of
from flow.errors import InvalidInput

TODAY = date(2026, 11, 21)


@pytest.mark.parametrize(
    ("from_", "to", "expected"),
    [
        (None, None, ("2026-11-01", "2026-11-30")),
        ("2026-02-10", None, ("2026-02-10", "2026-02-28")),
        (None, "2024-02-29", ("2024-02-01", "2024-02-29")),
        ("2025-01-01", "2026-01-01", ("2025-01-01", "2026-01-01")),
        ("2026-11-21", "2026-11-21", ("2026-11-21", "2026-11-21")),
    ],
)
def test_the_days_of_a_report(from_: str | None, to: str | None, expected: tuple[str, str]) -> None:
    first, last = period(_day(from_), _day(to), TODAY)
    assert (str(first), str(last)) == expected


@given(st.none() | st.dates(), st.none() | st.dates(), st.dates())
def test_a_report_never_ends_before_it_begins(
    from_: date | None, to: date | None, today: date
) -> None:
    try:
        first, last = period(from_, to, today)
    except InvalidInput:
        assert from_ is not None
        assert to is not None
        assert from_ > to
    else:
        assert first <= last
        assert first == (from_ or first)
        assert last == (to or last)


STARTERS = "=+-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212"
CELLS = st.lists(st.sampled_from([*STARTERS, *"; \t|\r\n\"',a1\u200b\ufeff"])).map("".join)


@given(
    st.lists(
        st.fixed_dictionaries({"model": st.text() | CELLS, "events": st.integers(0, 9)}),
    )
)
def test_no_cell_of_a_spreadsheet_is_a_formula(rows: list[dict[str, object]]) -> None:
    read = list(csv.reader(io.StringIO(as_csv(rows, ["model", "events"]), newline="")))
    assert read[0] == ["model", "events"]
    assert len(read) == len(rows) + 1
    for cells, row in zip(read[1:], rows, strict=True):
        assert not cells[0].startswith((*STARTERS, "\t", "\r", "\n"))
        assert cells[0].replace("'", "") == str(row["model"]).replace("'", "")


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("gpt-4.1", "gpt-4.1"),
        ("o3 + tools", "o3 + tools"),
        ("me@example.com", "me@example.com"),
        ("'quoted", "'quoted"),
        ("'=1", "'=1"),
        ("\tx", "'\tx"),
        ("=1", "'=1"),
        ("  =1", "'  =1"),
        ("\ufeff=1", "'\ufeff=1"),
        ('"=1', "'\"=1"),
        *((f"{starter}1", f"'{starter}1") for starter in STARTERS),
        # Where a semicolon or a tab separates cells, or a line ends, a new cell begins.
        ("a;=1", "a;'=1"),
        ('a; "\uff1d1', "a;' \"\uff1d1"),
        ("a\n@x", "a\n'@x"),
    ],
)
def test_what_would_be_a_formula_somewhere_is_text(cell: str, written: str) -> None:
    (_, (read,)) = csv.reader(io.StringIO(as_csv([{"model": cell}], ["model"]), newline=""))
    assert read == written


def test_every_form_of_the_characters_that_start_a_formula_is_known() -> None:
    forms = {c for c in map(chr, range(0x10000)) if unicodedata.normalize("NFKC", c) in set("=+-@")}
    # Superscripts, subscripts and a Hebrew letter are text to every spreadsheet.
    assert forms - set(STARTERS) <= set("⁺⁻⁼₊₋₌﬩")


COUNTS = ("events", "llm_calls", "total_tokens")
OUTCOMES = tuple(name for name in MEASURES if name.endswith("_events"))
TOTALS = ("total_cost_usd", "billable_cost_usd")
SMALLEST = 20
AMOUNTS = st.decimals(0, 10**9, allow_nan=False, places=SMALLEST).map(lambda a: f"{a:f}")
WHOLE = st.integers(0, 10**12)


def _line(kind: Kind, unit: str) -> st.SearchStrategy[dict[str, Any]]:
    has_fractions = UNITS[unit].measure is Measure.SECONDS
    return st.fixed_dictionaries(
        {
            "kind": st.just(kind.value),
            "unit": st.just(unit),
            "component": st.just(component_of(kind, unit)),
            "part_of": st.just(UNITS[unit].part_of),
            "quantity": AMOUNTS if has_fractions else WHOLE.map(str),
            "cost_usd": st.none() | AMOUNTS,
        }
    )


USED = [
    *((Kind.LLM, unit) for unit in UNITS if unit.endswith("_tokens")),
    *((kind, unit) for kind in (Kind.TTS, Kind.STT) for unit in ("input_tokens", "audio_seconds")),
    *((Kind.TTS, "characters"), (Kind.CALL, "call_seconds")),
]
LINES = st.lists(st.sampled_from(USED), unique=True).flatmap(
    lambda used: st.tuples(*(_line(*each) for each in used)).map(list)
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "model": st.text(max_size=3),
            **dict.fromkeys((*COUNTS, *OUTCOMES), WHOLE),
            **dict.fromkeys(TOTALS, st.none() | AMOUNTS),
            "lines": LINES,
        }
    ),
    max_size=5,
)


@settings(max_examples=25)  # each is a whole table
@given(ROWS)
def test_every_unit_and_every_component_is_a_column(rows: list[dict[str, Any]]) -> None:
    table = UsageTable.of(rows)
    assert table.measures == MEASURES
    for flat, row in zip(table.rows, rows, strict=True):
        assert list(flat) == ["model", *MEASURES]
        for name in (*COUNTS, *OUTCOMES, *TOTALS, "model"):
            assert flat[name] == row[name]
        lines = row["lines"]
        for unit in UNITS:
            of_unit = [line for line in lines if line["unit"] == unit]
            columns = [name for name in MEASURES if name == unit or name.endswith(f"_{unit}")]
            shown = [flat[name] for name in columns if name == unit or unit == "audio_seconds"]
            assert _total(shown) == _total(line["quantity"] for line in of_unit)
        for component in COMPONENTS:
            spent = [line["cost_usd"] for line in lines if line["component"] == component]
            cost = flat[f"{component}_cost_usd"]
            if row["total_cost_usd"] is None:
                assert cost is None
            else:
                assert _units(cost) == _total(spent)


def test_sound_has_a_column_for_each_kind_of_work() -> None:
    lines = [
        {"kind": kind, "unit": "audio_seconds", "component": kind, "part_of": None,
         "quantity": seconds, "cost_usd": None}
        for kind, seconds in (("tts", "61.2"), ("stt", "70.4"))
    ]  # fmt: skip
    (row,) = UsageTable.of([a_row(lines)]).rows
    assert (row["tts_audio_seconds"], row["stt_audio_seconds"]) == ("61.2", "70.4")
    assert "audio_seconds" not in row


def test_what_only_a_newer_flow_knows_is_a_column_too() -> None:
    newer = [
        {"kind": "llm", "unit": "thought_tokens", "component": "llm_thought", "part_of": None,
         "quantity": "7", "cost_usd": "0.5"},
        {"kind": "fax", "unit": "line_seconds", "component": "fax", "part_of": None,
         "quantity": "1.5", "cost_usd": "0.25"},
    ]  # fmt: skip
    table = UsageTable.of([a_row(newer), a_row([])])
    assert set(table.measures) - set(MEASURES) == {
        *("thought_tokens", "line_seconds"),
        *("llm_thought_cost_usd", "fax_cost_usd"),
    }
    assert all(list(row) == list(table.measures) for row in table.rows)
    total = table.total()
    assert (total["thought_tokens"], total["line_seconds"]) == (7, "1.5")
    assert (total["llm_thought_cost_usd"], total["fax_cost_usd"]) == ("0.5", "0.25")


@settings(max_examples=25)  # each is a whole table
@given(ROWS)
def test_the_total_is_the_sum_of_the_rows_to_the_last_digit(rows: list[dict[str, Any]]) -> None:
    table = UsageTable.of(rows)
    summed = table.total()
    assert list(summed) == list(MEASURES)
    for name, value in summed.items():
        known = [row[name] for row in table.rows if row[name] is not None]
        if rows and not known:
            assert value is None
        elif name.endswith(("_seconds", "_cost_usd")):
            # Whole numbers of the smallest unit: no rounding anywhere.
            assert _units(value) == sum(map(_units, known))
        else:
            assert type(value) is int
            assert value == sum(known)


def a_row(lines: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        **dict.fromkeys((*COUNTS, *OUTCOMES), 1),
        **dict.fromkeys(TOTALS, "0.75" if lines else "0"),
        "lines": lines,
    }


@pytest.mark.parametrize(
    ("names", "groups"), [("", []), (" model , day,model,", ["model", "day"]), ("key", ["key"])]
)
def test_groups_are_taken_once_and_in_order(names: str, groups: list[str]) -> None:
    assert grouping(names, ("day", "model", "key")) == groups


def test_a_group_that_is_none_is_named_with_those_there_are() -> None:
    with pytest.raises(InvalidInput) as refused:
        grouping("day,colour", ("day", "model"), field="by")
    (problem,) = refused.value.problems
    assert (problem.field, problem.message) == ("by", "'colour' is not one of day, model")


def _day(text: str | None) -> date | None:
    return date.fromisoformat(text) if text else None


def _units(amount: str) -> int:
    whole, _, fraction = amount.partition(".")
    return int(whole + fraction.ljust(SMALLEST, "0"))


def _total(amounts: Iterable[Any]) -> int:
    return sum(_units(str(amount)) for amount in amounts if amount is not None)
