"""A vendor's own bill: one line per piece of work it served, whoever else was counting."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, Self

WorkKind = Literal["llm", "embedding", "tts", "stt"]
Outcome = Literal["complete", "disconnected", "failed"]


@dataclass(slots=True)
class Amounts:
    """What was served, in the vendor's own terms.

    ``prompt_tokens`` is gross: ``cached_tokens``, ``cache_write_tokens`` and
    ``prompt_audio_tokens`` are parts of it (``cached_audio_tokens`` are in both the first and the
    last), as ``reasoning_tokens`` and ``completion_audio_tokens`` are of ``completion_tokens``;
    ``cache_write_1h_tokens`` are those written to the cache for an hour. ``audio_seconds`` is sound
    made (tts) or heard (stt), exact to the sample.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    prompt_audio_tokens: int = 0
    cached_audio_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    completion_audio_tokens: int = 0
    characters: int = 0
    audio_seconds: Decimal = Decimal(0)

    def __add__(self, other: Self) -> Self:
        both = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return type(self)(**both)

    def to_json(self) -> dict[str, Any]:
        """Tokens and characters as numbers, seconds as an exact string."""
        return asdict(self) | {"audio_seconds": format(self.audio_seconds, "f")}


@dataclass(slots=True)
class Line:
    """One request the vendor did work for. ``outcome`` is ``None`` while it is at it.

    ``model`` is the one that served. ``headers`` are those that attribute usage; credentials
    are never kept. ``billed_by`` are the amounts that cost something, where not all of them do.
    """

    request_id: str
    kind: WorkKind
    model: str
    requested_model: str
    headers: Mapping[str, str]
    response_id: str | None = None
    service_tier: str | None = None
    stream: bool = False
    amounts: Amounts = field(default_factory=Amounts)
    billed_by: tuple[str, ...] | None = None
    outcome: Outcome | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def to_json(self) -> dict[str, Any]:
        """The line as ``/_sandbox/bill`` shows it."""
        return asdict(self) | {
            "amounts": self.amounts.to_json(),
            "started_at": self.started_at.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class Total:
    """The sum of the lines of one kind and model."""

    kind: WorkKind
    model: str
    requests: int
    amounts: Amounts


class Bill:
    """Everything served so far. Lines appear when their work ends, and never change again."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._open: set[int] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def open(self) -> int:
        """How many requests are being served now."""
        return len(self._open)

    def start(self, line: Line) -> None:
        """Work on this request has begun: it will be billed, however it ends."""
        self._open.add(id(line))
        self._idle.clear()

    def close(self, line: Line, outcome: Outcome) -> None:
        """The work has ended; what its ``amounts`` say now is billed. A second end is ignored."""
        if id(line) not in self._open:
            return
        self._open.discard(id(line))
        line.outcome = outcome
        self.lines.append(line)
        if not self._open:
            self._idle.set()

    async def settled(self) -> list[Line]:
        """The lines, once nothing is being served (a client's leaving takes a moment to see)."""
        await self._idle.wait()
        return list(self.lines)

    def totals(self) -> list[Total]:
        """The sums by kind and model, in that order."""
        return totals(self.lines)

    def to_json(self) -> dict[str, Any]:
        """The whole bill: ``lines``, ``totals`` and how many requests are still ``open``."""
        return {
            "open": self.open,
            "lines": [line.to_json() for line in self.lines],
            "totals": [asdict(t) | {"amounts": t.amounts.to_json()} for t in self.totals()],
        }


def totals(lines: Iterable[Line]) -> list[Total]:
    """The sums of some lines by kind and model, in that order."""
    groups: dict[tuple[WorkKind, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.kind, line.model), []).append(line)
    return [
        Total(kind, model, len(group), sum((line.amounts for line in group), Amounts()))
        for (kind, model), group in sorted(groups.items())
    ]
