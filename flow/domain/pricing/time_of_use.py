"""The times of the week at which a price holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import pairwise
from typing import Self

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_DAY, _WEEK = 24 * 60, 7 * 24 * 60
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|24:00)")


@dataclass(frozen=True, slots=True)
class PriceTimes:
    """Times of the week in UTC, and days on which they do not count.

    ``spans`` are half-open spans of minutes since Monday 00:00, sorted; ``except_on`` are days in
    UTC; ``text`` is what they were parsed from, for a price's version.
    """

    spans: tuple[tuple[int, int], ...]
    except_on: frozenset[date]
    text: str

    @classmethod
    def parse(
        cls,
        weekdays: Sequence[str] | None,
        hours: Sequence[str] | None,
        except_on: Sequence[date] = (),
    ) -> Self:
        """The times of ``hours`` (``"00:30-16:30"``) on ``weekdays`` (``"mon"``).

        Without one of them every day, or the whole day, is meant. A window that ends before it
        begins goes on after midnight and belongs to the day on which it begins.

        Raises:
            ValueError: one of them is not a weekday, not a window of hours, or meets another.
        """
        if unknown := [day for day in weekdays or () if day not in WEEKDAYS]:
            raise ValueError(f"{unknown[0]!r} is not one of {', '.join(WEEKDAYS)}")
        windows = [_window(window) for window in hours or ("00:00-24:00",)]
        spans = sorted(
            span
            for day in weekdays or WEEKDAYS
            for start, end in windows
            for span in _spans(WEEKDAYS.index(day) * _DAY + start, end - start)
        )
        if any(first[1] > second[0] for first, second in pairwise(spans)):
            raise ValueError("some of the hours meet others")
        text = " ".join([",".join(weekdays or ()), ",".join(hours or ())]).strip()
        return cls(tuple(spans), frozenset(except_on), text)

    def hold(self, at: datetime) -> bool:
        """Whether ``at``, in UTC, is one of the times."""
        minute = at.weekday() * _DAY + at.hour * 60 + at.minute
        return at.date() not in self.except_on and any(
            start <= minute < end for start, end in self.spans
        )

    def meet(self, other: Self) -> bool:
        """Whether some time of the week belongs to both."""
        return any(
            start < end_ and start_ < end
            for start, end in self.spans
            for start_, end_ in other.spans
        )


def _window(text: str) -> tuple[int, int]:
    """Minutes of the day; the end is later than the start, and past midnight where it wraps."""
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a window of hours such as 00:30-16:30")
    start = int(found[1]) * 60 + int(found[2])
    end = _DAY if found[3] is None else int(found[3]) * 60 + int(found[4])
    return start, end if end > start else end + _DAY


def _spans(start: int, length: int) -> Iterator[tuple[int, int]]:
    """A span of the week, in two where it goes on after Sunday."""
    end = start + length
    yield start, min(end, _WEEK)
    if end > _WEEK:
        yield 0, end - _WEEK
