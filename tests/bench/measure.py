"""What a benchmark says, and how it is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """How thorough a run is. ``quick`` only shows that everything works; its numbers say little."""

    quick: bool = False
    rounds: int = 3

    def pick(self, usual: T, quick: T) -> T:
        """One of two sizes."""
        return quick if self.quick else usual


@dataclass(frozen=True, slots=True)
class Measure:
    """One number and its bar. ``passed`` is `None` where this machine or run cannot tell.

    ``unit`` is ``x`` for a ratio of Flow's number to the baseline's, both of which are among
    ``details``.
    """

    id: str
    what: str
    value: float | None
    unit: str
    bar: str
    passed: bool | None
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The measure as one JSON object."""
        return asdict(self)


def at_most(name: str, what: str, value: float, bar: float, unit: str, **details: Any) -> Measure:
    """A number that must not be larger than its bar."""
    return Measure(name, what, value, unit, f"<= {bar:g} {unit}", value <= bar, details)


def at_least(name: str, what: str, value: float, bar: float, unit: str, **details: Any) -> Measure:
    """A number that must not be smaller than its bar."""
    return Measure(name, what, value, unit, f">= {bar:,g} {unit}", value >= bar, details)


def not_judged(name: str, what: str, why: str, **details: Any) -> Measure:
    """A benchmark that cannot be run or judged here, and why."""
    return Measure(name, what, None, "", why, None, details)


def middle(values: Sequence[float]) -> float:
    """The median."""
    return float(median(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that ``percent`` of the values do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0
