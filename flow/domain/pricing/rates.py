"""What units of work cost, and what an event's quantities come to.

Amounts are exact: a price times a count, moved by powers of ten. Only a price per minute or hour
need not end; such a quotient is cut to `PLACES` decimal places, half to even.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from types import MappingProxyType
from typing import NamedTuple, Protocol

from flow.domain.usage.events import EXACT_DIGITS, Amount, Cost, Quantities
from flow.domain.usage.units import UNITS, Measure, Unit

PLACES = Decimal("1e-18")

_POWERS = {10**power: -power for power in range(10)}


@dataclass(frozen=True, slots=True)
class Rate:
    """USD for ``per`` of a unit.

    ``above`` holds (tokens, USD) steps: where the gross input is *more* than that many tokens,
    every unit of the request costs that. Of several, the highest step that is passed counts.
    """

    usd: Decimal
    per: int = 1
    above: tuple[tuple[int, Decimal], ...] = ()

    def of(self, amount: Amount, gross_input: int = 0) -> Decimal:
        """The price of so much in a request with so large an input."""
        usd = self.usd
        for start, higher in self.above:
            if gross_input > start:
                usd = higher
        power = _POWERS.get(self.per)
        return shortened(usd * amount / self.per) if power is None else (usd * amount).scaleb(power)

    def times(self, factor: Decimal) -> Rate:
        """The rate that is ``factor`` times this one."""
        with localcontext(prec=EXACT_DIGITS):
            steps = tuple((start, usd * factor) for start, usd in self.above)
            return Rate(self.usd * factor, self.per, steps)


@dataclass(frozen=True, slots=True)
class Multiple:
    """A rate given as so many times the rate of the unit ``of``."""

    of: str
    factor: Decimal


class Rates:
    """The rates of one model by unit.

    Tokens, characters and seconds are alternative measures of the same work, and one of them is
    charged: the first in which the work has quantities and there are rates. Each disjoint unit of
    that measure needs a rate: its own, or that of the unit which it is ``priced_as``.

    A part with a rate of its own has a cost of its own, and its whole costs the rest; without one
    its cost is in that of its whole, at the whole's rate. A part that is ``priced_as`` another
    unit has that one's rate where neither it nor its whole has one. Where parts of one whole
    overlap, the one later in the registry counts in full and the other with what is left:
    reasoning is cut to what sound leaves of the output.

    Args:
        by_unit: the rates that are known.
        per_request: USD for each request, whatever its size; it is in the cost of its first unit,
            which is ``input_tokens`` where there are any.
    """

    __slots__ = ("_measures", "_parts", "_wholes", "by_unit", "per_request")

    def __init__(self, by_unit: Mapping[str, Rate], per_request: Decimal = Decimal(0)) -> None:
        self.by_unit: Mapping[str, Rate] = MappingProxyType(dict(by_unit))
        self.per_request = per_request
        self._measures = {UNITS[name].measure for name in by_unit if UNITS[name].part_of is None}
        self._wholes: dict[str, Rate] = {}
        self._parts: dict[str, list[tuple[str, Rate]]] = {}
        for unit in reversed(tuple(UNITS.values())):
            rate = self._rate(unit)
            if rate is not None and unit.part_of is None:
                self._wholes[unit.name] = rate
            elif rate is not None and unit.part_of is not None:
                self._parts.setdefault(unit.part_of, []).append((unit.name, rate))

    def cost(self, quantities: Quantities) -> Cost | None:
        """What that much costs by unit, or ``None``: the rates are not for all of it."""
        for measure in Measure:
            if measure in self._measures:
                wholes = [
                    name
                    for name in quantities
                    if UNITS[name].measure is measure and UNITS[name].part_of is None
                ]
                if wholes:
                    with localcontext(prec=EXACT_DIGITS):
                        return self._charge(wholes, quantities)
        return None

    def extended(self, multiples: Mapping[str, Multiple]) -> Rates:
        """These rates, and for units without one the multiple of a rate that is known."""
        known = {**self.by_unit, **self._wholes}
        added = {
            name: known[multiple.of].times(multiple.factor)
            for name, multiple in multiples.items()
            if name not in self.by_unit and multiple.of in known
        }
        return Rates({**self.by_unit, **added}, self.per_request) if added else self

    def _rate(self, unit: Unit) -> Rate | None:
        if unit.name in self.by_unit:
            return self.by_unit[unit.name]
        if unit.priced_as is None or unit.part_of in self.by_unit:
            return None
        return self.by_unit.get(unit.priced_as)

    def _charge(self, wholes: list[str], quantities: Quantities) -> Cost | None:
        gross = sum(int(quantities[name]) for name in wholes if UNITS[name].side == "input")
        costs: dict[str, Decimal] = {}
        for name in wholes:
            rate = self._wholes.get(name)
            if rate is None:
                return None
            rest = quantities[name]
            for part, rate_of_part in self._parts.get(name, ()):
                if part in quantities:
                    charged = min(quantities[part], rest)
                    costs[part] = rate_of_part.of(charged, gross)
                    rest -= charged
            costs[name] = rate.of(rest, gross)
        if self.per_request:
            costs[wholes[0]] += self.per_request
        return Cost(costs)


class Charges(Protocol):
    """What gives quantities their cost: `Rates`, or somebody else's calculator."""

    def cost(self, quantities: Quantities) -> Cost | None:
        """What that much costs by unit, or ``None``: there is no price for all of it."""


class Price(NamedTuple):
    """A price, and the version by which it is found again."""

    charges: Charges
    version: str


def shortened(usd: Decimal) -> Decimal:
    """An amount cut to `PLACES` where it has more places, as quotients that do not end have."""
    exponent = usd.as_tuple().exponent
    return usd.quantize(PLACES) if isinstance(exponent, int) and exponent < -18 else usd
