"""Where somebody speaks in sound that streams in, told by its loudness."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

LOUD = 200
"""Quieter than this, on a scale to 32,767, nobody says anything."""
_WINDOW_SECS = 0.01
_LEAD_SECS = 0.1


@dataclass(frozen=True, slots=True)
class Started:
    """Somebody begins to speak, so many seconds after the beginning of the sound."""

    at: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """Somebody has spoken: from when to when, in seconds, and the 16-bit mono samples."""

    start: float
    end: float
    pcm16: bytes


class SpeechFinder:
    """Finds stretches of speech.

    Args:
        silence_secs: how long a pause ends a stretch.
    """

    def __init__(self, sample_rate: int, silence_secs: float) -> None:
        self._rate = sample_rate
        self._window = 2 * round(sample_rate * _WINDOW_SECS)
        self._lead = 2 * round(sample_rate * _LEAD_SECS)
        self._patience = 2 * round(sample_rate * silence_secs)
        self._pending = bytearray()
        """Less than a window."""
        self._kept = bytearray()
        """All since the stretch began, or a little of the silence before the next."""
        self._at = 0
        """Bytes up to here have been listened to."""
        self._last_loud = 0
        self._start: int | None = None

    @property
    def seconds(self) -> float:
        """How much sound there has been."""
        return self._secs(self._at + len(self._pending))

    @property
    def silent_secs(self) -> float:
        """How long nobody has spoken."""
        return self._secs(self._at - self._last_loud)

    @property
    def current(self) -> Stretch | None:
        """What is being said, as far as it goes."""
        if self._start is None:
            return None
        return Stretch(self._secs(self._start), self._secs(self._at), bytes(self._kept))

    def feed(self, pcm16: bytes) -> Iterator[Started | Stretch]:
        """More sound has come."""
        self._pending += pcm16
        while len(self._pending) >= self._window:
            window = bytes(self._pending[: self._window])
            del self._pending[: self._window]
            yield from self._listen(window)

    def cut(self) -> Stretch | None:
        """End what is being said here and now; ``None`` where nobody speaks."""
        found = self.current
        if found is not None:
            self._start = None
            self._kept.clear()
        return found

    def _listen(self, window: bytes) -> Iterator[Started | Stretch]:
        self._kept += window
        self._at += len(window)
        if _is_loud(window):
            self._last_loud = self._at
            if self._start is None:
                self._start = self._at - len(self._kept)
                yield Started(self._secs(self._at - len(window)))
        elif self._start is None:
            del self._kept[: -self._lead]
        elif self._at - self._last_loud >= self._patience and (found := self.cut()):
            yield found

    def _secs(self, size: int) -> float:
        return size / 2 / self._rate


def _is_loud(window: bytes) -> bool:
    return bool(np.abs(np.frombuffer(window, dtype=np.int16).astype(np.int32)).max() > LOUD)
