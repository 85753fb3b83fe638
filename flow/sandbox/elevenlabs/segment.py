"""Sound that is being listened to: its format, and the part that has not been made final."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Self

import numpy as np

from flow.sandbox.callers import mulaw
from flow.sandbox.elevenlabs.connection import sample_rate

QUIET = 200
"""Less than this, on a scale to 32,767, is no speech."""
LEAD_SECS = 0.5
"""How much quiet before speech is kept."""


@dataclass(frozen=True, slots=True)
class SoundFormat:
    """Such as ``pcm_16000`` or ``ulaw_8000``."""

    name: str
    sample_rate: int
    is_mulaw: bool

    @classmethod
    def named(cls, name: str) -> Self | None:
        """The format of a name; ``None`` if there is no such format."""
        is_mulaw = name == "ulaw_8000"
        rate = sample_rate(name, "ulaw" if is_mulaw else "pcm")
        return None if rate is None else cls(name, rate, is_mulaw)

    def seconds(self, size: int) -> Decimal:
        """How long so many bytes are heard, to the microsecond."""
        samples = size if self.is_mulaw else size // 2
        return (Decimal(samples) / self.sample_rate).quantize(Decimal("0.000001"))

    def pcm16(self, sound: bytes) -> bytes:
        """The samples of 16 bits."""
        return mulaw.decode(sound) if self.is_mulaw else sound[: len(sound) // 2 * 2]


class Segment:
    """Samples of 16 bits since the last commit, without the quiet before them."""

    def __init__(self, sample_rate: int) -> None:
        self._lead = 2 * int(LEAD_SECS * sample_rate)
        self.pcm16 = b""
        self.has_speech = False

    def add(self, pcm16: bytes) -> None:
        """More sound."""
        samples = np.frombuffer(pcm16, dtype="<i2").astype(np.int32)
        self.has_speech = self.has_speech or bool((np.abs(samples) > QUIET).any())
        whole = self.pcm16 + pcm16
        self.pcm16 = whole if self.has_speech else whole[-self._lead :]
