"""What an experiment is, how much of it is done, and what it found."""

from __future__ import annotations

import pkgutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib import import_module
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

import tests.chaos

if TYPE_CHECKING:
    from tests.chaos.world import World

T = TypeVar("T")

LONGEST_SECS = 900.0
LONGEST_SHORT_SECS = 120.0


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done. ``seed`` decides whatever is left to chance, so that it can be repeated."""

    short: bool = False
    seed: int = 0

    def pick(self, long: T, short: T) -> T:
        """One of two sizes."""
        return short if self.short else long

    def random(self) -> Random:
        """The experiment's own chance, from its start."""
        return Random(self.seed)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that had to be so. ``expected`` and ``seen`` are what JSON can say, or text."""

    what: str
    expected: Any
    seen: Any
    held: bool

    def to_json(self) -> dict[str, Any]:
        """The check as one JSON object."""
        return {
            "what": self.what,
            "expected": _plain(self.expected),
            "seen": _plain(self.seen),
            "held": self.held,
        }


@dataclass(slots=True)
class Findings:
    """What an experiment found, in order."""

    checks: list[Check] = field(default_factory=list)

    def holds(self, what: str, expected: Any, seen: Any) -> bool:
        """Note whether what was seen equals what was expected, and say so."""
        return self._note(what, expected, seen, held=bool(expected == seen))

    def within(self, what: str, limit: float, seen: float) -> bool:
        """Note whether a number is at most its limit, and say so."""
        return self._note(what, f"<= {limit:g}", seen, held=seen <= limit)

    def none(self, what: str, seen: list[Any]) -> bool:
        """Note that there must be none of something; those there are say what is wrong."""
        return self.holds(what, [], seen)

    @property
    def held(self) -> bool:
        """Whether something was checked, and all of it held."""
        return bool(self.checks) and all(check.held for check in self.checks)

    def _note(self, what: str, expected: Any, seen: Any, *, held: bool) -> bool:
        self.checks.append(Check(what, expected, seen, held))
        return held


@dataclass(frozen=True, slots=True)
class Experiment:
    """A module of this package: its ``FAULT`` in one line, and its ``run``.

    It may give ``LONGEST_SECS`` and ``LONGEST_SHORT_SECS``: when it is cut off.
    """

    id: str
    fault: str
    run: Callable[[World, Scale, Findings], Awaitable[None]]
    longest_secs: float
    longest_short_secs: float


def names() -> dict[str, str]:
    """The experiments there are, in order: their module by their id."""
    modules = sorted(one.name for one in pkgutil.iter_modules(tests.chaos.__path__))
    numbered = ((name, name.partition("_")[0]) for name in modules)
    return {
        f"r{int(number[1:])}": name
        for name, number in numbered
        if number[:1] == "r" and number[1:].isdecimal()
    }


def load(name: str) -> Experiment:
    """Import one of `names`."""
    module = import_module(f"tests.chaos.{names()[name]}")
    return Experiment(
        id=name.upper(),
        fault=module.FAULT,
        run=module.run,
        longest_secs=getattr(module, "LONGEST_SECS", LONGEST_SECS),
        longest_short_secs=getattr(module, "LONGEST_SHORT_SECS", LONGEST_SHORT_SECS),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    return value if isinstance(value, str | int | float | bool | None) else str(value)
