"""What quantities come to at given rates."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.pricing.rates import Multiple, Rate, Rates
from flow.domain.usage.events import Quantities
from flow.domain.usage.units import UNITS

TOKENS = {
    "input_tokens": Rate(Decimal(2), 1_000_000),
    "output_tokens": Rate(Decimal(8), 1_000_000),
}
PARTS = [name for name, unit in UNITS.items() if unit.part_of is not None]


def charged(rates: Rates, quantities: Quantities) -> dict[str, Any] | None:
    cost = rates.cost(quantities)
    return None if cost is None else dict(cost)


def usd(**per_token: str) -> dict[str, Rate]:
    return {name: Rate(Decimal(amount)) for name, amount in per_token.items()}


@pytest.mark.parametrize(
    ("rates", "quantities", "expected"),
    [
        # tokens go before characters, characters before seconds
        (
            usd(input_tokens="1", characters="10", audio_seconds="100"),
            {"input_tokens": 2, "characters": 3, "audio_seconds": Decimal(4)},
            {"input_tokens": 2},
        ),
        (
            usd(input_tokens="1", characters="10", audio_seconds="100"),
            {"characters": 3, "audio_seconds": Decimal(4)},
            {"characters": 30},
        ),
        (
            usd(audio_seconds="100"),
            {"input_tokens": 2, "characters": 3, "audio_seconds": Decimal(4)},
            {"audio_seconds": 400},
        ),
        # a disjoint unit without a rate: no price, unless it is priced as another
        (usd(input_tokens="1"), {"input_tokens": 2, "output_tokens": 1}, None),
        (usd(input_tokens="1"), {"cache_read_tokens": 2}, {"cache_read_tokens": 2}),
        (usd(input_tokens="1"), {"characters": 2}, None),
        (usd(input_tokens="1"), {}, None),
        # a part with a rate of its own has a cost of its own, another is in that of its whole
        (
            usd(output_tokens="1", reasoning_tokens="3"),
            {"output_tokens": 10, "reasoning_tokens": 4},
            {"output_tokens": 6, "reasoning_tokens": 12},
        ),
        (
            usd(output_tokens="1"),
            {"output_tokens": 10, "reasoning_tokens": 4},
            {"output_tokens": 10},
        ),
        (usd(reasoning_tokens="3"), {"output_tokens": 10, "reasoning_tokens": 10}, None),
        # reasoning is cut to what sound leaves of the output
        (
            usd(output_tokens="1", reasoning_tokens="3", output_audio_tokens="5"),
            {"output_tokens": 10, "reasoning_tokens": 4, "output_audio_tokens": 8},
            {"output_tokens": 0, "reasoning_tokens": 6, "output_audio_tokens": 40},
        ),
        # cached sound: its own rate, else the cache's, else that of sound, else that of input
        (
            usd(input_tokens="1", input_audio_tokens="7", cache_read_audio_tokens="3"),
            {"cache_read_tokens": 10, "cache_read_audio_tokens": 4},
            {"cache_read_tokens": 6, "cache_read_audio_tokens": 12},
        ),
        (
            usd(input_tokens="1", input_audio_tokens="7", cache_read_tokens="2"),
            {"cache_read_tokens": 10, "cache_read_audio_tokens": 4},
            {"cache_read_tokens": 20},
        ),
        (
            usd(input_tokens="1", input_audio_tokens="7"),
            {"cache_read_tokens": 10, "cache_read_audio_tokens": 4},
            {"cache_read_tokens": 6, "cache_read_audio_tokens": 28},
        ),
        (
            usd(input_tokens="1"),
            {"cache_read_tokens": 10, "cache_read_audio_tokens": 4},
            {"cache_read_tokens": 10},
        ),
    ],
)
def test_one_measure_is_charged_and_each_unit_once(
    rates: dict[str, Rate], quantities: dict[str, int | Decimal], expected: dict[str, int] | None
) -> None:
    assert charged(Rates(rates), Quantities(quantities)) == expected


def test_what_a_request_costs_is_in_its_first_unit() -> None:
    rates = Rates(TOKENS, per_request=Decimal("0.005"))
    both = charged(rates, Quantities(input_tokens=1, output_tokens=1))
    assert both == {"input_tokens": Decimal("0.005002"), "output_tokens": Decimal("0.000008")}
    cached = charged(rates, Quantities(cache_read_tokens=1, output_tokens=1))
    assert cached == {
        "cache_read_tokens": Decimal("0.005002"),
        "output_tokens": Decimal("0.000008"),
    }


def test_the_gross_input_decides_the_step_for_every_unit() -> None:
    step = ((100, Decimal(20)),)
    rates = Rates({"input_tokens": Rate(Decimal(10), 1, step), "output_tokens": Rate(Decimal(1))})
    at = charged(rates, Quantities(input_tokens=40, cache_read_tokens=60, output_tokens=500))
    above = charged(rates, Quantities(input_tokens=41, cache_read_tokens=60, output_tokens=500))
    assert at == {"input_tokens": 400, "cache_read_tokens": 600, "output_tokens": 500}
    assert above == {"input_tokens": 820, "cache_read_tokens": 1200, "output_tokens": 500}


def test_a_multiple_follows_the_steps_of_its_base_and_gives_way_to_a_rate() -> None:
    base = Rates({"input_tokens": Rate(Decimal(10), 1, ((100, Decimal(20)),))})
    double = {"cache_write_tokens": Multiple("input_tokens", Decimal(2))}
    extended = base.extended(double)
    assert charged(extended, Quantities(cache_write_tokens=100)) == {"cache_write_tokens": 2000}
    assert charged(extended, Quantities(cache_write_tokens=101)) == {"cache_write_tokens": 4040}
    assert extended.extended(double) is extended
    unknown = {"cache_write_tokens": Multiple("characters", Decimal(2))}
    assert base.extended(unknown) is base


@st.composite
def quantities_with_parts(draw: st.DrawFn) -> Quantities:
    amounts = {
        name: draw(st.integers(0, 1_000_000)) for name in ("input_tokens", "cache_read_tokens",
                                                          "cache_write_tokens", "output_tokens")
    }  # fmt: skip
    for name in PARTS:
        whole = UNITS[name].part_of
        assert whole is not None
        amounts[name] = draw(st.integers(0, amounts[whole]))
    return Quantities(amounts)


@given(
    quantities=quantities_with_parts(),
    per_million=st.dictionaries(st.sampled_from([*UNITS]), st.decimals(0, 1000, places=4)),
)
def test_costs_sum_to_the_total_and_stand_for_what_was_used(
    quantities: Quantities, per_million: dict[str, Decimal]
) -> None:
    rates = Rates({name: Rate(rate, 1_000_000) for name, rate in per_million.items()})
    cost = rates.cost(quantities)
    if cost is not None:
        assert sum(cost.values(), Decimal(0)) == cost.total
        assert set(cost) <= set(quantities)
        assert all(amount >= 0 for amount in cost.values())


@given(quantities=quantities_with_parts())
def test_parts_without_a_rate_change_no_total(quantities: Quantities) -> None:
    rates = Rates(TOKENS)
    wholes = Quantities(
        {name: amount for name, amount in quantities.items() if UNITS[name].part_of is None}
    )
    with_parts, without = rates.cost(quantities), rates.cost(wholes)
    assert with_parts == without


@given(
    quantities=quantities_with_parts(),
    parts=st.lists(st.sampled_from(PARTS), unique=True),
)
def test_a_part_at_the_rate_of_its_whole_changes_no_total(
    quantities: Quantities, parts: list[str]
) -> None:
    same = {
        name: TOKENS["output_tokens" if UNITS[name].part_of == "output_tokens" else "input_tokens"]
        for name in parts
    }
    split, whole = Rates({**TOKENS, **same}).cost(quantities), Rates(TOKENS).cost(quantities)
    assert (split and split.total) == (whole and whole.total)


def test_a_price_of_many_digits_is_charged_to_the_last_one() -> None:
    usd = Decimal("0.123456789012345678901234567")
    rates = Rates({"input_tokens": Rate(usd, 1_000_000)}, per_request=Decimal(10**9))
    cost = rates.cost(Quantities(input_tokens=987_654_321))
    assert cost is not None
    assert cost.total == Decimal("1000000121.932631124828532112482852332114007")
    assert Rate(usd).times(Decimal("1.1")).usd == Decimal("0.1358024679135802467913580237")
