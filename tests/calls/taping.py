"""A caller with a tape recorder: what it said and what sounded at its ear, by the world's clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
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

from flow.sandbox.callers.caller import Carrier
from flow.sandbox.callers.conversation import CallerEvent, Conversation
from flow.sandbox.callers.frames import Audio, Frame, Interruption
from flow.sandbox.callers.pipecat_phone import Phone

RATE = 24_000
TOLERANCE_SECS = 0.04
_PAUSE_SECS = 0.4
_STALL_SECS = 0.01
_WINDOW = RATE // 10
_AROUND = RATE // 8
_LOUD = 500.0
_ALIKE = 0.9

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


class _Taped:
    """A conversation that is taped as it goes."""

    def __init__(self, conversation: Conversation, tape: Tape, rate: int) -> None:
        self._conversation, self._tape, self._rate = conversation, tape, rate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conversation, name)

    def say(self, now: float) -> bytes | None:
        chunk = self._conversation.say(now)
        if chunk is not None:
            # A microphone has a piece when it has sounded, and each goes on where the last ended.
            said = self._tape.said
            said.put(said.end or time() - len(chunk) / 2 / self._rate, chunk, self._rate)
        return chunk

    def hear(self, frame: Frame, now: float) -> None:
        match frame:
            case Audio(pcm16, rate, _):
                self._tape.heard.play(time(), pcm16, rate)
            case Interruption():
                self._tape.heard.stop(time())
        self._conversation.hear(frame, now)


class Taped:
    """A carrier whose calls are taped at the caller's end."""

    def __init__(self, carrier: Carrier, tape: Tape) -> None:
        self._carrier, self._tape = carrier, tape
        self.transport = carrier.transport
        self.sample_rate = carrier.sample_rate
        self.chunk_bytes = carrier.chunk_bytes

    def phone(
        self,
        http: httpx.AsyncClient,
        connection: Mapping[str, Any],
        conversation: Conversation,
        on_event: Callable[[CallerEvent], None],
    ) -> AbstractAsyncContextManager[Phone]:
        taped: Any = _Taped(conversation, self._tape, self.sample_rate)
        return self._carrier.phone(http, connection, taped, on_event)


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


@dataclass
class Stalls:
    """When this loop was late, and by how much: what is played in it then sounds so much later."""

    found: list[tuple[float, float]] = field(default_factory=list)

    def between(self, start: float, end: float) -> float:
        """How much of the time between two times was lost in stalls, in seconds."""
        return sum(late for at, late in self.found if start <= at <= end and late > _STALL_SECS)


@asynccontextmanager
async def stalls() -> AsyncIterator[Stalls]:
    """The stalls of this loop, from now on."""
    seen = Stalls()
    loop = asyncio.get_running_loop()

    async def watch() -> None:
        while True:
            due = loop.time() + 0.005
            await asyncio.sleep(0.005)
            seen.found.append((time(), loop.time() - due))

    watching = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        watching.cancel()


@dataclass(frozen=True)
class Agreement:
    """How an utterance on the tape is in the recording.

    ``began_at`` is by the world's clock, ``alike`` is the share of its windows that are found
    there, ``lags_secs`` how much later the earliest and the latest of those sound, and
    ``ends_secs`` how much later the whole ends.
    """

    began_at: float
    seconds: float
    alike: float
    lags_secs: tuple[float, float]
    ends_secs: float


def compared(track: Track, started_at: datetime, channel: Sound) -> list[Agreement]:
    """Each utterance of a tape, held against a channel of the recording by cross-correlation."""
    tape = track.since(started_at.timestamp(), len(channel) / RATE)
    spoken = utterances(channel)
    found = []
    for first, last in utterances(tape):
        if last - first < 3 * _WINDOW:
            continue  # the scrap that an interruption or a stalled machine left says nothing
        lags = [
            _lag(tape[at : at + _WINDOW], channel, at)
            for at in range(first, last - _WINDOW, _WINDOW)
            if np.abs(tape[at : at + _WINDOW]).max() > _LOUD
        ]
        alike = [lag for lag in lags if lag is not None]
        ends = max((b for a, b in spoken if a < last and b > first), default=0)
        among = (min(alike, default=9.0), max(alike, default=9.0))
        share = len(alike) / max(len(lags), 1)
        began_at = started_at.timestamp() + first / RATE
        found.append(Agreement(began_at, (last - first) / RATE, share, among, (ends - last) / RATE))
    return found


def _lag(wanted: Sound, channel: Sound, at: int) -> float | None:
    """By how much later a window sounds in the channel; ``None``: nothing there is like it."""
    left = max(0, at - _AROUND)
    there = channel[left : at + len(wanted) + _AROUND]
    if len(there) < len(wanted):
        return None
    size = 1 << (len(there) + len(wanted)).bit_length()
    product = np.fft.irfft(np.fft.rfft(there, size) * np.conj(np.fft.rfft(wanted, size)), size)
    own = (wanted**2).sum()
    # Near silence everything is like everything.
    energy = np.maximum(np.convolve(there**2, np.ones(len(wanted)), "valid"), own / 10)
    likeness = product[: len(energy)] / np.sqrt(energy * own)
    best = int(np.argmax(likeness))
    return (left + best - at) / RATE if likeness[best] > _ALIKE else None
