"""What a limit says of itself, and what somebody who was refused is told."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.limits.quota import LimitState, Terms, dollars, plain, refused

RESETS_AT = datetime(2027, 1, 1, tzinfo=UTC)


def state(
    resource: str, used: str, held: str, limit: str | None, scope: str = "team"
) -> LimitState:
    """One limit and how far it is used."""
    return LimitState(
        resource=resource,
        scope=scope,
        product="voice_bot" if scope == "key" and resource != "budget_usd" else None,
        used=Decimal(used),
        reserved=Decimal(held),
        limit=None if limit is None else Decimal(limit),
        resets_at=None if resource == "concurrent_calls" else RESETS_AT,
    )


@pytest.mark.parametrize(
    ("used", "held", "limit", "is_reached"),
    [
        ("9.99", "0", "10", False),
        ("9.99", "0.01", "10", True),
        ("10", "0", "10", True),
        ("11", "0", "10", True),
        ("0", "0", "0", True),
        ("1000", "1000", None, False),
    ],
)
def test_a_limit_is_reached_when_nothing_is_left_for_another_call(
    used: str, held: str, limit: str | None, is_reached: bool
) -> None:
    one = state("ai_credits", used, held, limit)
    assert one.is_reached is is_reached
    assert one.to_json()["limited"] is is_reached


REFUSALS = [
    (
        state("budget_usd", "50.0100", "0", "50", "key"),
        "This key's monthly budget of $50.00 is used up: $50.01 spent. It starts anew at"
        " 2027-01-01T00:00:00Z; whoever issued the key can raise it.",
    ),
    (
        state("budget_usd", "49.5", "0.5", "50"),
        "This team's monthly budget of $50.00 has no room for more now: $49.50 spent, and"
        " running calls and requests hold $0.50. Try again when one of them has ended; whoever"
        " issued the key can raise it.",
    ),
    (
        state("ai_credits", "0", "0", "0"),
        "This team's monthly quota of 0 ai credits is used up: 0 used. It starts anew at"
        " 2027-01-01T00:00:00Z; whoever issued the key can raise it.",
    ),
    (
        state("call_seconds", "3000.250", "600", "3600"),
        "This team's monthly quota of 3600 call seconds has no room for more now: 3000.25"
        " used, and running calls and requests hold 600. Try again when one of them has ended;"
        " whoever issued the key can raise it.",
    ),
    (
        state("concurrent_calls", "5", "0", "5"),
        "This team may have 5 calls at once and has 5. Try again when one of them has ended;"
        " whoever issued the key can raise the limit.",
    ),
    (
        state("concurrent_requests", "2", "1", "3", "key"),
        "This key may have 3 requests of voice_bot at once and has 3. Try again when one of them"
        " has ended; whoever issued the key can raise the limit.",
    ),
    (
        state("tokens_per_minute", "900", "100", "1000", "key"),
        "This key may use 1000 tokens of voice_bot a minute and has used 900 in the last one;"
        " whoever issued the key can raise the limit.",
    ),
]


@pytest.mark.parametrize(("limit", "sentence"), REFUSALS)
def test_a_refusal_says_what_was_reached_and_what_to_do(limit: LimitState, sentence: str) -> None:
    error = refused("some_code", limit, 7)
    assert str(error) == sentence
    assert (error.code, error.retry_after_secs, error.limit) == ("some_code", 7, limit.to_json())


@pytest.mark.parametrize(
    ("resource", "scope", "means"),
    [
        ("budget_usd", "key", "flow keys budget"),
        ("budget_usd", "team", "flow teams budget"),
        ("ai_credits", "team", "flow keys quota"),
        ("concurrent_calls", "team", "flow keys quota"),
        ("concurrent_calls", "key", "FLOW_PRODUCTS_FILE"),
    ],
)
def test_the_hint_of_a_refusal_tells_the_operator_how_to_raise_the_limit(
    resource: str, scope: str, means: str
) -> None:
    assert means in str(refused("some_code", state(resource, "5", "0", "5", scope), 7).hint)


@pytest.mark.parametrize(
    ("amount", "shown", "in_dollars"),
    [
        ("0", "0", "0.00"),
        ("0E-10", "0", "0.00"),
        ("1E+3", "1000", "1000.00"),
        ("1E-9", "0.000000001", "0.000000001"),
        ("12.50", "12.5", "12.50"),
        ("100", "100", "100.00"),
        ("0.125", "0.125", "0.125"),
    ],
)
def test_amounts_are_written_out(amount: str, shown: str, in_dollars: str) -> None:
    assert (plain(Decimal(amount)), dollars(Decimal(amount))) == (shown, in_dollars)


@given(
    st.decimals(0, 10**12, allow_nan=False)
    | st.integers(0, 10**30).map(lambda n: Decimal(n).scaleb(-25))
)
def test_an_amount_keeps_every_digit(amount: Decimal) -> None:
    for text in (plain(amount), dollars(amount)):
        assert Decimal(text) == amount
        assert set(text) <= set("0123456789.")
    assert len(dollars(amount).partition(".")[2]) >= 2


def test_terms_are_plain_json() -> None:
    rates = {"gateway": {"requests_per_minute": 60}}
    assert Terms({"ai_credits": ("voice_bot",)}, {"voice_bot": 2}, rates).to_json() == {
        "buckets": {"ai_credits": ["voice_bot"]},
        "concurrency": {"voice_bot": 2},
        "rates": rates,
    }
    assert Terms().to_json() == {"buckets": {}, "concurrency": {}, "rates": {}}
