"""The form of an answer follows the caller's ranking."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.api.content_negotiation import preferred
from flow.errors import Refused

JSON, CSV = "application/json", "text/csv"


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("text/csv", CSV),
        ("TEXT/CSV", CSV),
        ("text/*", CSV),
        ("application/*", JSON),
        ("text/csv, application/json", JSON),
        ("text/csv, application/json;q=0.9", CSV),
        ("text/csv;q=0.1, */*;q=0.2", JSON),
        ("application/json;q=0, */*", CSV),
        ("text/csv;charset=utf-8", CSV),
        ("text/html, */*;q=0.1", JSON),
        ("text/csv;q=nonsense, application/json;q=0.001", JSON),
        (",,text/csv,,", CSV),
    ],
)
def test_the_highest_ranked_form_is_given(accept: str, form: str) -> None:
    assert preferred(accept, (JSON, CSV)) == form


@pytest.mark.parametrize(
    "accept", ["text/html", "image/*", "text/csv;q=0", "*/*;q=0", "text/csv;q=2", "text/csv;q=nan"]
)
def test_nothing_wanted_is_refused(accept: str) -> None:
    with pytest.raises(Refused) as refused:
        preferred(accept, (JSON, CSV))
    assert refused.value.code == "not_acceptable"


@given(st.text())
def test_no_header_breaks_it(accept: str) -> None:
    with contextlib.suppress(Refused):
        assert preferred(accept, (JSON, CSV)) in {JSON, CSV}
