"""Answers carry an account's numbers as they are."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.api.exact_json import ExactJSONResponse, dumps

plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False)
)
numbers = st.decimals(-(10**15), 10**15, allow_nan=False) | st.decimals(-1, 1, places=40)
values = st.recursive(
    plain | numbers,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(numbers)
def test_a_decimal_keeps_every_digit(number: Decimal) -> None:
    text = dumps({"usd": number})
    assert "E" not in text
    assert "e" not in text
    assert json.loads(text, parse_float=Decimal, parse_int=Decimal)["usd"] == number


@given(values)
def test_what_is_written_reads_back_the_same(value: Any) -> None:
    read = json.loads(dumps({"value": value}), parse_float=Decimal, parse_int=Decimal)
    assert read == {"value": _decimals(value)}


@pytest.mark.parametrize("bad", [Decimal("NaN"), Decimal("Infinity"), float("nan"), float("inf")])
def test_what_is_no_number_is_not_written_as_one(bad: object) -> None:
    with pytest.raises(ValueError, match=r"JSON|nan|inf"):
        dumps({"usd": bad, "other": Decimal(1)})


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 11, 21, 12, 30, tzinfo=UTC),
        datetime(2026, 11, 21, 14, 30, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_times_are_in_utc(moment: datetime) -> None:
    assert dumps({"at": moment}) == '{"at":"2026-11-21T12:30:00Z"}'


def test_ids_are_strings_also_beside_a_decimal() -> None:
    thread = UUID(int=1)
    assert dumps([thread, Decimal("0.10")]) == f'["{thread}",0.10]'


def test_answers_are_not_cached_and_not_sniffed() -> None:
    headers = ExactJSONResponse({}).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"


def test_half_a_surrogate_pair_does_not_break_an_answer() -> None:
    assert json.loads(bytes(ExactJSONResponse({"name": "\ud800"}).body)) == {"name": "?"}


def _decimals(value: Any) -> Any:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return Decimal(repr(value))
    if isinstance(value, list):
        return [_decimals(item) for item in value]
    if isinstance(value, dict):
        return {name: _decimals(item) for name, item in value.items()}
    return value
