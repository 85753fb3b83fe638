"""Usage reports: the right days, exact sums, and safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.usage_report import COSTS, MEASURES, SECONDS, as_csv, grouping, period, total
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


@given(st.lists(st.fixed_dictionaries({"model": st.text(), "events": st.integers(0, 9)})))
def test_no_cell_of_a_spreadsheet_is_a_formula(rows: list[dict[str, object]]) -> None:
    read = list(csv.reader(io.StringIO(as_csv(rows, ["model", "events"]), newline="")))
    assert read[0] == ["model", "events"]
    assert len(read) == len(rows) + 1
    for cells, row in zip(read[1:], rows, strict=True):
        assert not cells[0].startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
        assert cells[0].removeprefix("'") == str(row["model"]).removeprefix("'")


AMOUNTS = st.decimals(0, 10**9, allow_nan=False, places=20).map(lambda amount: f"{amount:f}")
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            name: st.none() | AMOUNTS
            if name in COSTS
            else AMOUNTS
            if name in SECONDS
            else st.integers(0, 10**12)
            for name in MEASURES
        }
    ),
    max_size=5,
)


@given(ROWS)
def test_the_total_is_the_sum_of_the_rows_to_the_last_digit(rows: list[dict[str, Any]]) -> None:
    summed = total(rows)
    assert list(summed) == list(MEASURES)
    for name, value in summed.items():
        known = [row[name] for row in rows if row[name] is not None]
        if rows and not known:
            assert value is None
        elif isinstance(value, str):
            # Whole numbers of the smallest unit: no rounding anywhere.
            assert _units(value) == sum(map(_units, known))
        else:
            assert value == sum(known)


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
    return int(whole + fraction.ljust(20, "0"))
