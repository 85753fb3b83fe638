"""The sound that a client sends, and when somebody speaks in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

BYTES_PER_MS = 48
"""Of 16-bit mono PCM at 24 kHz."""
_WINDOW_MS = 20
_WINDOW = _WINDOW_MS * BYTES_PER_MS
_LOUD = 1_000
"""Loud enough for speech at the threshold that is the default, on a scale to 32,767."""
_ONSET_MS = 60


@dataclass(frozen=True, slots=True)
class SpeechEdge:
    """Somebody begins or stops to speak, ``at_ms`` after the beginning of all sound.

    ``sound`` is all of the speech, once it has stopped.
    """

    kind: Literal["started", "stopped"]
    at_ms: int
    sound: bytes = b""


class InputAudio:
    """The input buffer, with the server's detection of turns."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._begins_ms = 0
        self._judged = 0
        """How much of the buffer detection has seen, in bytes."""
        self._loud_ms = self._quiet_ms = 0
        self._is_speech = False

    @property
    def sound(self) -> bytes:
        """What is in the buffer."""
        return bytes(self._buffer)

    def append(self, sound: bytes, detection: Mapping[str, Any] | None) -> Iterator[SpeechEdge]:
        """Take in more sound, and tell where speech begins and stops in it."""
        self._buffer += sound
        if detection is None:
            return
        while len(self._buffer) - self._judged >= _WINDOW:
            window = self._buffer[self._judged : self._judged + _WINDOW]
            self._judged += _WINDOW
            yield from self._judge(bytes(window), detection)

    def clear(self) -> None:
        """Forget all that is in the buffer."""
        self._drop(len(self._buffer))
        self._is_speech = False

    def _judge(self, window: bytes, detection: Mapping[str, Any]) -> Iterator[SpeechEdge]:
        loud = _level(window) >= _LOUD * float(detection.get("threshold") or 0.5) * 2
        self._loud_ms = self._loud_ms + _WINDOW_MS if loud else 0
        self._quiet_ms = 0 if loud else self._quiet_ms + _WINDOW_MS
        if not self._is_speech:
            padding = int(detection.get("prefix_padding_ms") or 0)
            kept = (padding + self._loud_ms) * BYTES_PER_MS
            self._drop(max(self._judged - kept, 0))
            if self._loud_ms >= _ONSET_MS:
                self._is_speech = True
                yield SpeechEdge("started", self._begins_ms)
        elif self._quiet_ms >= int(detection.get("silence_duration_ms") or 500):
            self._is_speech = False
            spoken = bytes(self._buffer[: self._judged])
            self._drop(self._judged)
            yield SpeechEdge("stopped", self._begins_ms, spoken)

    def _drop(self, size: int) -> None:
        del self._buffer[:size]
        self._begins_ms += size // BYTES_PER_MS
        self._judged = max(self._judged - size, 0)


def _level(window: bytes) -> float:
    samples = np.frombuffer(window, dtype=np.int16).astype(np.float64)
    return float(np.sqrt(np.mean(samples * samples)))
