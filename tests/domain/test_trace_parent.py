"""The traceparent header of W3C Trace Context, and its place in a join's token."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.calls.join_token import check, sign
from flow.domain.calls.trace_parent import TraceParent
from flow.errors import Refused

ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
SECRET = b"a secret of at least 16 bytes"
THREAD = UUID("0b6d1a52-8a5e-4f0f-9d0f-5b8f3c0f2a11")
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SOON = NOW + timedelta(seconds=300)

parents = st.builds(
    TraceParent,
    st.integers(min_value=1, max_value=2**128 - 1),
    st.integers(min_value=1, max_value=2**64 - 1),
    st.booleans(),
)


@given(parents)
def test_a_place_is_the_same_after_any_journey(parent: TraceParent) -> None:
    assert TraceParent.from_header(parent.to_header()) == parent
    assert TraceParent.from_bytes(parent.to_bytes()) == parent
    token = sign(SECRET, THREAD, SOON, trace=parent)
    assert check(SECRET, token, THREAD, NOW) == parent
    assert check(SECRET, sign(SECRET, THREAD, SOON), THREAD, NOW) is None


@pytest.mark.parametrize(
    ("header", "is_sampled"),
    [
        (f"00-{ID}-{SPAN}-01", True),
        (f"00-{ID}-{SPAN}-00", False),
        (f"00-{ID}-{SPAN}-03", True),
        (f"01-{ID}-{SPAN}-01-what-a-later-version-adds", True),
    ],
)
def test_a_header_is_read_as_the_standard_says(header: str, is_sampled: bool) -> None:
    parent = TraceParent.from_header(header)
    assert parent == TraceParent(int(ID, 16), int(SPAN, 16), is_sampled)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"00-{ID}-{SPAN}",
        f"00-{ID}-{SPAN}-01-more",
        f"00-{ID.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{ID}-{'0' * 16}-01",
        f"ff-{ID}-{SPAN}-01",
        f"00-{ID}-{SPAN}-01\n",
        f"00-{ID[:-1]}g-{SPAN}-01",
    ],
)
def test_a_header_that_is_none_is_as_if_it_were_not_there(header: str) -> None:
    assert TraceParent.from_header(header) is None


@given(parents, st.integers(min_value=0, max_value=83), st.sampled_from("AZaz09-_"))
def test_nobody_can_move_a_call_into_another_trace(
    parent: TraceParent, place: int, to: str
) -> None:
    token = sign(SECRET, THREAD, SOON, trace=parent)
    changed = token[:place] + to + token[place + 1 :]
    if changed != token:
        with pytest.raises(Refused):
            check(SECRET, changed, THREAD, NOW)
