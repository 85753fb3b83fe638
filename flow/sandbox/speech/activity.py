"""Hearing when somebody speaks, as vendors do that end turns by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

FRAME_SECS = 0.02
# On a scale to 32,767; what is quieter is silence.
_LOUD = 300
_ONSET_FRAMES = 3


@dataclass(frozen=True, slots=True)
class Started:
    """Somebody has begun to speak."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """Somebody has spoken: 16-bit mono sound from the onset on, with the silence that ended it."""

    pcm16: bytes


class SpeechActivity:
    """Tells speech from silence by how loud it is.

    Args:
        sample_rate: of the sound, in Hz.
        silence_secs: how long it has to be quiet for somebody to have finished.
    """

    def __init__(self, sample_rate: int, silence_secs: float) -> None:
        self._frame_bytes = int(sample_rate * FRAME_SECS) * 2
        self._frames_to_stop = max(round(silence_secs / FRAME_SECS), 1)
        self._rest = b""
        self._speech = bytearray()
        self._loud = 0
        self._quiet = 0
        self._is_speaking = False

    def feed(self, pcm16: bytes) -> Iterator[Started | Stopped]:
        """More sound has come."""
        self._rest += pcm16
        while len(self._rest) >= self._frame_bytes:
            frame, self._rest = self._rest[: self._frame_bytes], self._rest[self._frame_bytes :]
            yield from self._frame(frame)

    def _frame(self, frame: bytes) -> Iterator[Started | Stopped]:
        samples = np.frombuffer(frame, dtype=np.int16).astype(np.int32)
        is_loud = int(np.abs(samples).max()) > _LOUD
        self._loud = self._loud + 1 if is_loud else 0
        self._quiet = 0 if is_loud else self._quiet + 1
        if is_loud or self._is_speaking:
            self._speech += frame
        else:
            self._speech.clear()
        if not self._is_speaking and self._loud >= _ONSET_FRAMES:
            self._is_speaking = True
            yield Started()
        elif self._is_speaking and self._quiet >= self._frames_to_stop:
            spoken = bytes(self._speech)
            self._is_speaking = False
            self._speech.clear()
            yield Stopped(spoken)
