"""Which of the forms on offer a caller wants, by its ``Accept`` header (RFC 9110, 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence

from flow.errors import Refused


def preferred(accept: str, offered: Sequence[str]) -> str:
    """The media type of ``offered`` that ``accept`` ranks highest; the first one on a tie.

    Raises:
        Refused: code ``not_acceptable``; none of them is wanted.
    """
    ranges = [_range(part) for part in accept.split(",") if part.strip()] or [("*/*", 1.0)]
    ranked = [(_quality(kind, ranges), kind) for kind in offered]
    best = max(quality for quality, _ in ranked)
    if best <= 0:
        raise Refused("not_acceptable", f"The answer comes as {' or '.join(offered)}.")
    return next(kind for quality, kind in ranked if quality == best)


def _range(part: str) -> tuple[str, float]:
    kind, *parameters = [piece.strip().lower() for piece in part.split(";")]
    for parameter in parameters:
        if parameter.startswith("q="):
            return kind, _weight(parameter[2:])
    return kind, 1.0


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0


def _quality(kind: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The weight of the most specific range that covers ``kind``."""
    for covering in (kind, kind.partition("/")[0] + "/*", "*/*"):
        weights = [weight for name, weight in ranges if name == covering]
        if weights:
            return max(weights)
    return 0.0
