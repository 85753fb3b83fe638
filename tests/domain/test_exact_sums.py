"""Money adds up to the last digit, however long it is, whatever the context of decimals says."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.usage.events import Cost, Kind, exact_sum

usd = st.integers(0, 10**40).map(lambda units: Decimal(f"{units}e-20"))


def in_fractions(amounts: Iterable[Decimal]) -> Fraction:
    return sum(map(Fraction, amounts), Fraction(0))


@given(st.lists(usd, max_size=20))
def test_a_sum_is_exact_in_any_order(amounts: list[Decimal]) -> None:
    assert Fraction(exact_sum(amounts)) == in_fractions(amounts)
    assert exact_sum(reversed(amounts)) == exact_sum(amounts)


@pytest.mark.parametrize("digits", [29, 41, 61, 99])
def test_the_last_digit_of_a_long_sum_is_there(digits: int) -> None:
    large, small = Decimal("1"), Decimal(f"1e-{digits - 1}")
    with localcontext() as narrow:
        narrow.prec = 5
        total = exact_sum([large, small])
        cost = Cost(input_tokens=large, output_tokens=small)
        assert Fraction(total) == Fraction(cost.total) == in_fractions([large, small])


@given(st.lists(usd, min_size=4, max_size=4))
def test_the_components_of_a_cost_add_up_to_its_total(amounts: list[Decimal]) -> None:
    units = ("input_tokens", "cache_read_tokens", "output_tokens", "reasoning_tokens")
    cost = Cost(dict(zip(units, amounts, strict=True)))
    parts = cost.by_component(Kind.LLM)
    assert in_fractions(parts.values()) == Fraction(cost.total) == in_fractions(amounts)
