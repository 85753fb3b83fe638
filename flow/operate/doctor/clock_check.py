"""This machine's clock, against those of everybody who has answered."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from flow.operate.doctor.answers import ClockReading
from flow.operate.doctor.finding import Finding, ok, skipped, warning

NAME = "clock"
MOST_SECS = 2.0
CURE = "Have NTP set this machine's clock: tokens and signatures of webhooks go by it."


def clock_finding(readings: Sequence[ClockReading]) -> Finding:
    """Whether the clock is off by more than two seconds, by the word of most of the others."""
    if not readings:
        return skipped(NAME, "nobody was there to compare it with")
    # One that is wrong by itself does not make this one wrong.
    if median(one.least_secs for one in readings) <= MOST_SECS:
        return ok(NAME, f"in step with {_names(readings)}")
    ahead = median(one.ahead_secs for one in readings)
    how = "behind" if ahead > 0 else "ahead of"
    return warning(NAME, f"about {abs(ahead):.0f} s {how} {_names(readings)}", CURE)


def _names(readings: Sequence[ClockReading]) -> str:
    names = sorted({one.whose for one in readings})
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
