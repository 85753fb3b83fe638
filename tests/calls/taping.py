"""A caller with a tape recorder: what it said and what sounded at its ear, by the world's clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from time import time
from typing import Any

import av
import httpx
import numpy as np
import numpy.typing as npt
import soxr

from flow.sandbox.callers.caller import Internet, open_socket
from flow.sandbox.callers.conversation import CallerEvent, Conversation
from flow.sandbox.callers.frames import Audio, Frame, Interruption
from flow.sandbox.callers.pipecat_phone import SAMPLE_RATE, Phone

RATE = 24_000
TOLERANCE_SECS = 0.04
_PAUSE_SECS = 0.4
_AROUND_SECS = 0.5

Sound = npt.NDArray[np.float32]


@dataclass
class Track:
    """Sound as it was, piece by piece, with the times that the pieces began."""

    pieces: list[tuple[float, Sound]] = field(default_factory=list)
    end: float = 0.0

    def put(self, start: float, pcm: bytes, rate: int) -> None:
        samples = np.frombuffer(pcm, np.int16).astype(np.float32)
        self.pieces.append((start, samples if rate == RATE else soxr.resample(samples, rate, RATE)))
        self.end = start + len(samples) / rate

    def play(self, now: float, pcm: bytes, rate: int) -> None:
        """After what is still to be played."""
        self.put(max(now, self.end), pcm, rate)

    def stop(self, now: float) -> None:
        """What has not sounded does not."""
        kept = [(at, s[: max(0, round((now - at) * RATE))]) for at, s in self.pieces]
        self.pieces = [(at, s) for at, s in kept if len(s)]
        self.end = min(self.end, now)

    def since(self, start: float, seconds: float) -> Sound:
        whole = np.zeros(round(seconds * RATE), np.float32)
        for at, samples in self.pieces:
            first = round((at - start) * RATE)
            there = samples[max(0, -first) : max(0, len(whole) - first)]
            whole[max(0, first) : max(0, first) + len(there)] = there
        return whole


@dataclass
class Tape:
    said: Track = field(default_factory=Track)
    heard: Track = field(default_factory=Track)


class TapingPhone(Phone):
    tape: Tape

    def _wire(self, chunk: bytes) -> Iterable[str | bytes]:
        # A microphone has a piece when it has sounded, and each goes on where the last ended.
        said = self.tape.said
        said.put(said.end or time() - len(chunk) / 2 / SAMPLE_RATE, chunk, SAMPLE_RATE)
        return super()._wire(chunk)

    def _frames(self, wire: str | bytes) -> Iterable[Frame]:
        for frame in super()._frames(wire):
            match frame:
                case Audio(pcm16, rate, _):
                    self.tape.heard.play(time(), pcm16, rate)
                case Interruption():
                    self.tape.heard.stop(time())
            yield frame


@dataclass(frozen=True)
class TapedInternet(Internet):
    """A `TapingPhone` on the service's WebSocket."""

    tape: Tape = field(default_factory=Tape)

    @asynccontextmanager
    async def phone(
        self,
        http: httpx.AsyncClient,
        connection: Mapping[str, Any],
        conversation: Conversation,
        on_event: Callable[[CallerEvent], None],
    ) -> AsyncIterator[Phone]:
        async with open_socket(connection["url"]) as socket:
            made = TapingPhone(socket, conversation, on_event)
            made.tape = self.tape
            async with made as phone:
                yield phone


def decoded(path: Path) -> tuple[Sound, Sound]:
    """The two channels of a recording."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray().reshape(-1, 2) for frame in container.decode(audio=0)]
    both = np.concatenate(frames).astype(np.float32)
    return both[:, 0], both[:, 1]


def utterances(sound: Sound) -> list[tuple[int, int]]:
    """Where somebody speaks: first sample and the one after the last."""
    loud = np.flatnonzero(np.abs(sound) > 40)
    if not len(loud):
        return []
    breaks = np.flatnonzero(np.diff(loud) > _PAUSE_SECS * RATE)
    firsts = [loud[0], *loud[breaks + 1]]
    lasts = [*loud[breaks], loud[-1]]
    return [(int(a), int(b) + 1) for a, b in zip(firsts, lasts, strict=True)]


@dataclass(frozen=True)
class Agreement:
    """How an utterance on the tape is in the recording: later by so much, and how alike."""

    seconds: float
    lag_secs: float
    likeness: float
    ends_later_secs: float


def compared(track: Track, started_at: datetime, channel: Sound) -> list[Agreement]:
    """Each utterance of a tape, held against a channel of the recording by cross-correlation."""
    tape = track.since(started_at.timestamp(), len(channel) / RATE)
    around = round(_AROUND_SECS * RATE)
    found = []
    for first, last in utterances(tape):
        wanted = tape[first:last]
        left = max(0, first - around)
        there = channel[left : last + around]
        size = 1 << (len(there) + len(wanted)).bit_length()
        product = np.fft.irfft(np.fft.rfft(there, size) * np.conj(np.fft.rfft(wanted, size)), size)[
            : len(there) - len(wanted) + 1
        ]
        at = int(np.argmax(product))
        match = there[at : at + len(wanted)]
        likeness = float(product[at] / np.sqrt((match**2).sum() * (wanted**2).sum()))
        ends = [b for a, b in utterances(channel) if a < last and b > first]
        found.append(
            Agreement(
                (last - first) / RATE,
                (left + at - first) / RATE,
                likeness,
                (max(ends, default=0) - last) / RATE,
            )
        )
    return found
