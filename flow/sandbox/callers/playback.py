"""A loudspeaker: what of the bot's audio has sounded by now, and when the bot was speaking.

Audio may arrive faster than it sounds; it is then played one piece after another. All times are
seconds on the caller's clock.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flow.sandbox.callers.frames import Audio

_LOUD = 100.0
_JOINS_SECS = 0.06
_SPEAKING_SECS = 0.3
_OVERLAP_SECS = 1.0


@dataclass(frozen=True, slots=True)
class Turn:
    """The bot's turn so far: when it began to speak, and for how long it has been silent.

    ``silent_secs`` is 0 while more of its speech has arrived than has sounded; ``spoken_secs`` is
    how much of it has sounded, without the gaps of a machine that did not keep up.
    """

    started: float
    silent_secs: float
    spoken_secs: float

    @property
    def is_speaking(self) -> bool:
        """Whether the bot is speaking, or pausing as one does between words."""
        return self.silent_secs < _SPEAKING_SECS


class Playback:
    """Plays frames as they come."""

    def __init__(self) -> None:
        self._spoken: list[tuple[float, float]] = []
        self._end = 0.0
        self._queued_secs = 0.0

    def play(self, audio: Audio, now: float) -> None:
        """Play `audio` after what is still to be played."""
        start = max(now, self._end)
        self._end = start + audio.seconds
        self._queued_secs += audio.seconds
        if not _is_loud(audio):
            return
        if self._spoken and start - self._spoken[-1][1] < _JOINS_SECS:
            start = self._spoken.pop()[0]
        self._spoken.append((start, self._end))

    def stop(self, now: float) -> None:
        """Throw away what has not sounded yet."""
        self._queued_secs = self.heard_secs(now)
        self._end = min(self._end, now)
        self._spoken = [(start, min(end, now)) for start, end in self._spoken if start < now]

    def heard_secs(self, now: float) -> float:
        """How much audio has sounded."""
        return self._queued_secs - max(self._end - now, 0.0)

    def ends_at(self, now: float) -> float:
        """When all that has arrived will have sounded."""
        return max(self._end, now)

    def turn(self, since: float, now: float) -> Turn | None:
        """The bot's turn that began after `since`, if one has.

        Speech that goes on from before counts only once it has gone on for a while: it is then
        the beginning of the turn, and not the end of the one before.
        """
        spoken = [
            (max(start, since), end)
            for start, end in self._spoken
            if start <= now and (start >= since or min(end, now) - since >= _OVERLAP_SECS)
        ]
        if not spoken:
            return None
        sounded = sum(min(end, now) - start for start, end in spoken)
        return Turn(spoken[0][0], max(now - self._spoken[-1][1], 0.0), sounded)


def _is_loud(audio: Audio) -> bool:
    samples = np.frombuffer(audio.pcm16[: len(audio.pcm16) // 2 * 2], dtype=np.int16)
    if not samples.size:
        return False
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) > _LOUD
