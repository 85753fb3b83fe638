"""What the plain fields of a product file may hold.

A check takes a value and the place where it stands. It returns what the value means, or notes at
that place, or below it, what is wrong and returns ``None``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from typing import Any

from flow.kit.toml_lines import Path

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_BUCKET = re.compile(r"[a-z][a-z0-9_]{0,63}")
# Quotas of their own, so no bucket of money may go by these names.
_RESERVED_BUCKETS = ("call_seconds", "concurrent_calls")
_MOST_USD = 1_000_000
_MOST_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a file. ``note_at`` takes a path and what is wrong there."""

    note_at: Callable[[Path, str], None]
    path: Path = ()

    def at(self, key: str | int) -> Place:
        """The place of a key or an element within this one."""
        return Place(self.note_at, (*self.path, key))

    def note(self, wrong: str) -> None:
        """Note what is wrong here: a sentence without its subject and full stop."""
        self.note_at(self.path, wrong)


Check = Callable[[Any, Place], Any]


def fields(value: Any, place: Place, checks: Mapping[str, Check]) -> dict[str, Any]:
    """What ``checks`` make of a table's values, without those that are wrong."""
    if not isinstance(value, Mapping):
        place.note(f"must be a table, not {shown(value)}")
        return {}
    read = {}
    for name, given in value.items():
        if name not in checks:
            place.at(name).note(_unknown(name, checks))
        elif (meant := checks[name](given, place.at(name))) is not None:
            read[name] = meant
    return read


def shown(value: Any) -> str:
    """A value as a sentence about it shows it, which is never long."""
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if isinstance(value, str | list | Mapping) else str(value)
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."


def flag(value: Any, place: Place) -> bool | None:
    """True or false."""
    if isinstance(value, bool):
        return value
    place.note(f"must be true or false, not {shown(value)}")
    return None


def whole(least: int, most: int) -> Check:
    """A whole number within bounds."""

    def check(value: Any, place: Place) -> int | None:
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        place.note(f"must be a whole number from {least} to {most}, not {shown(value)}")
        return None

    return check


def usd(value: Any, place: Place) -> Decimal | None:
    """An amount of USD, as text or as a number."""
    if isinstance(value, str | int | Decimal) and not isinstance(value, bool):
        try:
            amount = Decimal(value)
        except InvalidOperation:
            amount = Decimal("NaN")
        if amount.is_finite() and 0 <= amount <= _MOST_USD:
            return amount.copy_abs()
    place.note(f"must be a number of USD from 0 to {_MOST_USD}, not {shown(value)}")
    return None


def text(most: int) -> Check:
    """Text that says something, of at most so many characters."""

    def check(value: Any, place: Place) -> str | None:
        # Postgres text cannot hold NUL.
        if isinstance(value, str) and value.strip() and "\0" not in value and len(value) <= most:
            return value
        place.note(f"must be text of 1 to {most} characters, not {shown(value)}")
        return None

    return check


def choice(*known: str, of: Callable[[str], Any] = str) -> Check:
    """One of a few words; ``of`` makes of it what it means."""

    def check(value: Any, place: Place) -> Any:
        if isinstance(value, str) and value in known:
            return of(value)
        place.note(f"must be one of {', '.join(known)}, not {shown(value)}")
        return None

    return check


def name(value: Any, place: Place) -> str | None:
    """A name of a product."""
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    place.note(
        f"{shown(value)} is no name for a product:"
        " use up to 64 of a-z, 0-9, _ and -, with a letter first"
    )
    return None


def names(value: Any, place: Place) -> tuple[str, ...] | None:
    """Names, each once."""
    found: list[str] = []
    for index, given in enumerate(listed(value, place)):
        one = name(given, place.at(index))
        if one in found:
            place.at(index).note(f"{shown(one)} is there twice")
        elif one is not None:
            found.append(one)
    return tuple(found)


def listed(value: Any, place: Place) -> list[Any]:
    """A list, or an empty one in its place."""
    if isinstance(value, list):
        return value
    place.note(f"must be a list of texts, not {shown(value)}")
    return []


def bucket(value: Any, place: Place) -> str | None:
    """The name of a team's quota of money."""
    if not (isinstance(value, str) and _BUCKET.fullmatch(value)):
        place.note(
            f"{shown(value)} is no name for a quota:"
            " use up to 64 of a-z, 0-9 and _, with a letter first"
        )
    elif value in _RESERVED_BUCKETS:
        place.note(f"{value!r} is a quota of another kind: use another name, such as ai_credits")
    else:
        return value
    return None


def _unknown(name: str, known: Iterable[str]) -> str:
    if near := get_close_matches(name, known, 1):
        return f"is not known: did you mean {near[0]}?"
    return f"is not known: use {', '.join(known)}"
