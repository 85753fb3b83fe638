"""Where each piece of a call's sound belongs in time.

Positions are samples since the recording began, at the track's own rate, of 16-bit mono sound.
Pieces come with the time of the call's clock, and no piece says how old it is, so a place is found
by two rules that keep a track close to the clock however long a call is: sound that goes on is put
right behind what came before, and sound that has come too late for that leaves silence before it.
What is younger than `OPEN_SECS` can still be moved or cut; the rest is settled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

# Networks are seldom in time; a loudspeaker that is given sound late is silent meanwhile.
HEARD_TOLERANCE_SECS = 0.03
PLAYED_TOLERANCE_SECS = 0.01
OPEN_SECS = 2.0
SAMPLE_BYTES = 2


@dataclass(frozen=True, slots=True)
class Piece:
    """Sound without a gap, and the sample at which it begins."""

    start: int
    pcm: bytes

    @property
    def end(self) -> int:
        """The first sample after it."""
        return self.start + len(self.pcm) // SAMPLE_BYTES


@dataclass(slots=True)
class _Run:
    """Sound without a gap that may still grow, move or be cut."""

    start: int
    pcm: bytearray = field(default_factory=bytearray)

    @property
    def end(self) -> int:
        return self.start + len(self.pcm) // SAMPLE_BYTES


class _Track:
    """Runs of sound that are not settled yet, behind what is."""

    tolerance_secs = 0.0

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._tolerance = round(self.tolerance_secs * rate)
        self._settled = 0
        self._runs: deque[_Run] = deque()

    @property
    def end(self) -> int:
        """The first sample after all there is."""
        return self._runs[-1].end if self._runs else self._settled

    def settle(self, until_secs: float | None = None) -> Iterator[Piece]:
        """Take out what lies before a time, or everything: it does not change any more."""
        until = self.end if until_secs is None else self._sample(until_secs)
        while self._runs and self._runs[0].start < until:
            run = self._runs[0]
            length = SAMPLE_BYTES * (min(run.end, until) - run.start)
            yield Piece(run.start, bytes(run.pcm[:length]))
            if length == len(run.pcm):
                self._runs.popleft()
            else:
                del run.pcm[:length]
                run.start = until
        self._settled = max(self._settled, until)

    def _sample(self, secs: float) -> int:
        return round(secs * self.rate)

    def _append(self, start: int, pcm: bytes) -> None:
        """Put sound at ``start``, which is not before `end`."""
        if not self._runs or self._runs[-1].end != start:
            self._runs.append(_Run(start))
        self._runs[-1].pcm += pcm


class HeardTrack(_Track):
    """What the bot hears: a piece ends when it arrives.

    Networks deliver late and then all at once. A gap that a delay seemed to be is closed again when
    what follows comes sooner than it could have been spoken.
    """

    tolerance_secs = HEARD_TOLERANCE_SECS

    def add(self, now_secs: float, pcm: bytes) -> None:
        """Take a piece that arrives now.

        Where there is no place for all that came, the oldest of it is dropped: after a stall that
        was too long, and at a clock that runs faster than ours.
        """
        belongs = self._sample(now_secs) - len(pcm) // SAMPLE_BYTES
        if belongs - self.end > self._tolerance:
            self._append(belongs, pcm)
            return
        lead = self.end - belongs
        if lead > 0:
            lead -= self._close_gaps(lead)
        if lead > self._tolerance:
            lead -= self._drop_oldest(lead)
            pcm = pcm[SAMPLE_BYTES * lead :]
        self._append(self.end, pcm)

    def _drop_oldest(self, lead: int) -> int:
        """Drop so many of the samples that can still be moved, which no gap is between; what comes
        after them is sooner by that. How many they were."""
        if not self._runs:
            return 0
        oldest = self._runs[0]
        dropped = min(lead, oldest.end - oldest.start)
        del oldest.pcm[: SAMPLE_BYTES * dropped]
        if not oldest.pcm:
            self._runs.popleft()
        return dropped

    def _close_gaps(self, lead: int) -> int:
        """Move the last sound back by up to ``lead`` samples; by how many it was."""
        moved = 0
        while moved < lead and self._runs:
            last = self._runs.pop()
            by = min(lead - moved, last.start - self.end)
            moved += by
            # At its new place it may go on where the run before it ends.
            joined = last.start - by == self.end and bool(self._runs)
            self._append(last.start - by, bytes(last.pcm))
            if not joined:
                break
        return moved


class PlayedTrack(_Track):
    """What the caller hears of the bot: a piece sounds when what was sent before it has sounded."""

    tolerance_secs = PLAYED_TOLERANCE_SECS

    def add(self, now_secs: float, pcm: bytes) -> None:
        """Take a piece that is sent now."""
        now = self._sample(now_secs)
        self._append(self.end if now - self.end <= self._tolerance else now, pcm)

    def cut(self, now_secs: float) -> None:
        """Drop what has been sent and has not sounded by now."""
        now = max(self._sample(now_secs), self._settled)
        while self._runs and self._runs[-1].start >= now:
            self._runs.pop()
        if self._runs and self._runs[-1].end > now:
            run = self._runs[-1]
            del run.pcm[SAMPLE_BYTES * (now - run.start) :]
