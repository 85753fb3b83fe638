"""A string that matches a regular expression, always the same one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

_CANDIDATES = [chr(code) for code in (*range(97, 123), *range(48, 58), *range(32, 127), 233)]


def matching(pattern: str, shortest: int = 0) -> str | None:
    """A string in which ``pattern`` is found, of at least ``shortest`` characters where its
    repetitions allow; ``None`` when it is no regular expression or needs lookarounds."""
    try:
        parsed = _parser.parse(pattern)
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return None
    for repeats in range(max(shortest, 1) + 1):
        text = _Writer(repeats).write(parsed)
        if len(text) >= shortest and compiled.search(text):
            return text
    return None


class _Writer:
    """Writes a parsed pattern out, with at least ``repeats`` of whatever may repeat so often."""

    def __init__(self, repeats: int) -> None:
        self._repeats = repeats
        self._groups: dict[int, str] = {}

    def write(self, parsed: Iterable[tuple[Any, Any]]) -> str:
        return "".join(self._one(what, argument) for what, argument in parsed)

    def _one(self, what: Any, argument: Any) -> str:
        if what is op.LITERAL:
            return chr(argument)
        if what in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
            least, most, repeated = argument
            times = min(max(least, self._repeats), int(most))
            return "".join(self.write(repeated) for _ in range(times))
        if what is op.SUBPATTERN:
            self._groups[argument[0]] = self.write(argument[3])
            return self._groups[argument[0]]
        if what is op.GROUPREF:
            return self._groups.get(argument, "")
        return self._choice(what, argument)

    def _choice(self, what: Any, argument: Any) -> str:
        if what is op.ANY:
            return "a"
        if what is op.NOT_LITERAL:
            return next(c for c in _CANDIDATES if ord(c) != argument)
        if what is op.IN:
            return next((c for c in [*_CANDIDATES, *_named(argument)] if _is_in(c, argument)), "")
        if what is op.BRANCH:
            return self.write(argument[1][0])
        if what is op.ATOMIC_GROUP:
            return self.write(argument)
        return ""


def _is_in(character: str, members: list[tuple[Any, Any]]) -> bool:
    negated = members[0][0] is op.NEGATE
    return negated != any(_is_member(character, what, argument) for what, argument in members)


def _is_member(character: str, what: Any, argument: Any) -> bool:
    if what is op.LITERAL:
        return ord(character) == int(argument)
    if what is op.RANGE:
        return bool(argument[0] <= ord(character) <= argument[1])
    if what is op.CATEGORY:
        return bool(re.match(_CLASSES[argument], character))
    return False


_CLASSES = {
    op.CATEGORY_DIGIT: r"\d",
    op.CATEGORY_NOT_DIGIT: r"\D",
    op.CATEGORY_SPACE: r"\s",
    op.CATEGORY_NOT_SPACE: r"\S",
    op.CATEGORY_WORD: r"\w",
    op.CATEGORY_NOT_WORD: r"\W",
}


def _named(members: list[tuple[Any, Any]]) -> list[str]:
    """The characters the class itself names."""
    return [
        chr(argument[0] if what is op.RANGE else argument)
        for what, argument in members
        if what in (op.LITERAL, op.RANGE)
    ]
