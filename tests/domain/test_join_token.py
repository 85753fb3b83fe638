"""The token of a join opens its own thread, for its own time, and nothing else."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import product
from uuid import UUID, uuid4

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.calls.join_token import check, sign
from flow.domain.calls.trace_parent import TraceParent
from flow.errors import Refused

SECRET = b"a secret of at least 16 bytes"
THREAD = UUID("0b6d1a52-8a5e-4f0f-9d0f-5b8f3c0f2a11")
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SOON = NOW + timedelta(seconds=300)

moments = st.datetimes(
    min_value=datetime(2000, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC)
)


@given(secret=st.binary(min_size=1), thread=st.uuids(), expires_at=moments)
def test_a_token_opens_its_thread_until_it_expires(
    secret: bytes, thread: UUID, expires_at: datetime
) -> None:
    token = sign(secret, thread, expires_at)
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,512}", token)
    check(secret, token, thread, expires_at - timedelta(seconds=1))
    with pytest.raises(Refused) as refused:
        check(secret, token, thread, expires_at)
    assert refused.value.code == "expired_token"


def test_a_token_does_not_open_another_thread() -> None:
    assert code_of(sign(SECRET, uuid4(), SOON)) == "invalid_token"


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_token_made_for_a_bearer_opens_its_thread_for_no_other(mine: str, other: str) -> None:
    token = sign(SECRET, THREAD, SOON, bearer=mine)
    check(SECRET, token, THREAD, NOW, mine)
    if mine != other:
        with pytest.raises(Refused, match="not valid"):
            check(SECRET, token, THREAD, NOW, other)


def test_a_token_signed_with_another_secret_is_worth_nothing() -> None:
    assert code_of(sign(SECRET + b"!", THREAD, SOON)) == "invalid_token"


@given(place=st.integers(min_value=0, max_value=220), to=st.sampled_from("AZaz09-_=+/. \0é"))
def test_no_changed_character_goes_unnoticed(place: int, to: str) -> None:
    token = sign(SECRET, THREAD, SOON)
    changed = token[:place] + to + token[place + 1 :]
    assert changed == token or code_of(changed) == "invalid_token"


@pytest.mark.parametrize("length", [0, 1, 5, 6, 20, 50, 100, 150])
def test_a_shortened_token_is_invalid(length: int) -> None:
    assert code_of(sign(SECRET, THREAD, SOON)[:length]) == "invalid_token"


@given(st.text())
def test_no_other_text_is_a_token(text: str) -> None:
    assert code_of(text) == "invalid_token"


def code_of(token: str) -> str:
    with pytest.raises(Refused) as refused:
        check(SECRET, token, THREAD, NOW)
    return refused.value.code


CALL = "CA17"


@pytest.mark.parametrize(
    ("signed_for", "shown_by"),
    [("", CALL), (CALL, ""), (CALL, CALL + "0"), (CALL, CALL[:-1]), (CALL + ".", CALL)],
)
def test_a_bearer_is_no_part_of_anything_else(signed_for: str, shown_by: str) -> None:
    token = sign(SECRET, THREAD, SOON, bearer=signed_for)
    check(SECRET, token, THREAD, NOW, signed_for)
    with pytest.raises(Refused) as refused:
        check(SECRET, token, THREAD, NOW, shown_by)
    assert refused.value.code == "invalid_token"


def test_the_parts_of_two_tokens_make_no_third() -> None:
    """Whoever has a short token and a token of a trace gets no longer one out of them."""
    trace = TraceParent.from_header("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    later = NOW + timedelta(days=365)
    tokens = [
        sign(SECRET, THREAD, SOON),
        sign(SECRET, THREAD, SOON, trace=trace),
        sign(SECRET, THREAD, later, bearer=CALL),
        sign(SECRET, uuid4(), later),
        sign(b"a secret of somebody else's", THREAD, later),
    ]
    parts = [token.split(".") for token in tokens]
    for head, body, signature in product(*zip(*parts, strict=True)):
        token = f"{head}.{body}.{signature}"
        if token not in tokens:
            assert code_of(token) == "invalid_token"


@pytest.mark.parametrize("algorithm", ["none", "HS384", "HS512"])
def test_a_token_does_not_choose_how_it_is_checked(algorithm: str) -> None:
    claims = {"sub": str(THREAD), "exp": int(SOON.timestamp())}
    key = None if algorithm == "none" else SECRET
    assert code_of(jwt.encode(claims, key, algorithm)) == "invalid_token"


def test_a_token_of_the_same_secret_for_something_else_is_worth_nothing() -> None:
    claims = {"sub": str(THREAD), "exp": int(SOON.timestamp())}
    assert code_of(jwt.encode(claims, SECRET, "HS256")) == "invalid_token"


def test_a_token_brings_its_trace_back() -> None:
    trace = TraceParent.from_header("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    assert trace is not None
    assert check(SECRET, sign(SECRET, THREAD, SOON, trace=trace), THREAD, NOW) == trace
    assert check(SECRET, sign(SECRET, THREAD, SOON), THREAD, NOW) is None
