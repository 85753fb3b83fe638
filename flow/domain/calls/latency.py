"""How long callers wait for the bot: in one turn, and in a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import ceil
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class TurnLatency:
    """Seconds from the end of a caller's speech to the bot's first sound, by what was waited for.

    Each part lasts from where the one before it ends, so they add up to the whole wait; work that
    was done in the meantime is in none. In the order in which they usually follow each other:

    Args:
        turn_detection_secs: until the silence was noticed, and from the final transcript until
            the turn was taken to be over.
        stt_secs: from the silence noticed to the final transcript.
        llm_secs: to the first token of the reply.
        first_sentence_secs: to the first words that a voice can be given.
        tts_secs: to the first sound of the voice.
        output_secs: until that sound was sent to the caller.
    """

    turn_detection_secs: float = 0.0
    stt_secs: float = 0.0
    llm_secs: float = 0.0
    first_sentence_secs: float = 0.0
    tts_secs: float = 0.0
    output_secs: float = 0.0

    @property
    def total_secs(self) -> float:
        """The whole wait."""
        return round(sum(self.parts.values()), 6)

    @property
    def parts(self) -> dict[str, float]:
        """The seconds of each part, by its name without ``_secs``."""
        return {
            field.name.removesuffix("_secs"): getattr(self, field.name) for field in fields(self)
        }

    def to_json(self) -> dict[str, float]:
        """The parts as the database keeps them."""
        return {f"{name}_secs": secs for name, secs in self.parts.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(**{name: float(secs) for name, secs in data.items()})


@dataclass(frozen=True, slots=True)
class CallLatency:
    """The waits of a call: percentiles are waits that occurred, by the nearest rank."""

    p50_secs: float
    p95_secs: float
    max_secs: float

    @classmethod
    def of(cls, turns: Sequence[TurnLatency]) -> Self | None:
        """The summary of some turns; ``None`` of none."""
        if not turns:
            return None
        waits = sorted(turn.total_secs for turn in turns)
        return cls(_nearest_rank(waits, 50), _nearest_rank(waits, 95), waits[-1])


def _nearest_rank(ordered: Sequence[float], percent: int) -> float:
    return ordered[max(ceil(len(ordered) * percent / 100), 1) - 1]
