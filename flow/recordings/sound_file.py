"""The sound file that is made of a journal, or of the files of several parts.

FLAC: it keeps every sample, so what was heard can be shown to the sample; every browser and player
reads it, Safari too, which does not read Opus in Ogg everywhere; parts can be put together without
a second loss; and a minute of it takes some 60 ms of a processor to make. Silence takes no room, so
that two who take turns need far less than the 5.8 MB a minute of WAV. The caller is left, the bot
right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from flow.recordings import journal
from flow.recordings.journal import CALLER, PartHeader, Settled

RATE = 24_000
"""Samples a second of every recording: those of what bots say."""
CHANNELS = 2
CONTENT_TYPE = "audio/flac"
SUFFIX = ".flac"
_BLOCK = RATE  # samples that are encoded at once

Samples = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class SoundFile:
    """A written file of ``size`` bytes. ``whole``: nothing that sounded is missing."""

    path: Path
    seconds: float
    size: int
    whole: bool


class _Channel:
    """One channel as it grows: it takes sound at its own rate, and gives samples at `RATE`."""

    def __init__(self, rate: int) -> None:
        import soxr

        self._rate = rate
        self._end = 0
        self._out: list[Samples] = []
        # In floats: of integers it would make faint noise of silence, which takes room.
        self._stream = None if rate == RATE else soxr.ResampleStream(rate, RATE, 1, "float32")
        self.ready = 0

    def add(self, start: int, pcm: bytes) -> None:
        """Sound that begins at sample ``start``; silence is put before it."""
        self.silence_until(start)
        sound = np.frombuffer(pcm, dtype="<i2")[max(0, self._end - start) :]
        self._feed(sound)

    def silence_until(self, sample: int) -> None:
        """Fill up with silence to this sample, at the channel's rate."""
        if (missing := sample - self._end) > 0:
            self._feed(np.zeros(missing, np.int16))

    def mark(self, secs: float) -> None:
        """Nothing more comes before this time."""
        self.silence_until(round(secs * self._rate))

    def finish(self) -> None:
        """Bring out what the filter still holds."""
        if self._stream is not None:
            self._put(_rounded(self._stream.resample_chunk(np.zeros(0, np.float32), last=True)))

    def take(self, count: int) -> Samples:
        """The next ``count`` samples, with silence for those that there are not."""
        parts: list[Samples] = []
        wanted = count
        while wanted and self._out:
            first = self._out[0]
            parts.append(first[:wanted])
            if len(first) > wanted:
                self._out[0] = first[wanted:]
            else:
                self._out.pop(0)
            wanted -= len(parts[-1])
        self.ready -= count - wanted
        return np.concatenate([*parts, np.zeros(wanted, np.int16)])

    def _feed(self, sound: Samples) -> None:
        self._end += len(sound)
        if self._stream is None:
            self._put(sound)
        else:
            self._put(_rounded(self._stream.resample_chunk(sound.astype(np.float32))))

    def _put(self, samples: Samples) -> None:
        if len(samples):
            self._out.append(samples)
            self.ready += len(samples)


def _rounded(samples: npt.NDArray[np.float32]) -> Samples:
    return np.rint(samples).clip(-32_768, 32_767).astype(np.int16)


class _Encoder:
    """Writes stereo samples into a FLAC file."""

    def __init__(self, container: Any) -> None:
        self._container = container
        self._stream = container.add_stream("flac", rate=RATE, layout="stereo")
        self.samples = 0

    def write(self, caller: Samples, bot: Samples) -> None:
        """Append so many samples of both channels."""
        from av import AudioFrame

        both = np.stack([caller, bot], axis=1).reshape(1, -1)
        frame = AudioFrame.from_ndarray(both, format="s16", layout="stereo")
        frame.sample_rate = RATE
        frame.pts = self.samples
        self.samples += len(caller)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))


def write_part(file: BinaryIO, path: Path) -> tuple[PartHeader, SoundFile]:
    """Make the file of a part of its journal, which is read from its beginning.

    Raises:
        ValueError: the journal has no whole header.
        OSError: the disk does not take it.
    """
    header = PartHeader.from_line(file.readline())
    caller, bot = _Channel(header.rate_caller), _Channel(header.rate_bot)
    whole = False
    with _encoding(path) as encoder:
        for record in journal.read(file):
            if isinstance(record, Settled):
                whole = record.is_end
                caller.mark(record.secs)
                bot.mark(record.secs)
            else:
                (caller if record.track == CALLER else bot).add(
                    record.piece.start, record.piece.pcm
                )
            while (ready := min(caller.ready, bot.ready)) >= _BLOCK:
                encoder.write(caller.take(_BLOCK), bot.take(_BLOCK))
        caller.finish()
        bot.finish()
        while ready := min(max(caller.ready, bot.ready), _BLOCK):
            encoder.write(caller.take(ready), bot.take(ready))
        samples = encoder.samples
    return header, _written(path, samples, whole)


def join_parts(parts: Sequence[tuple[float, Path]], path: Path, *, whole: bool) -> SoundFile:
    """Make one file of those of several parts, each with the seconds from the first to its begin.

    What lies between them is silent; a part that begins before the last has ended is put behind it.
    """
    with _encoding(path) as encoder:
        for begins, part in parts:
            missing = round(begins * RATE) - encoder.samples
            while missing > 0:
                silence = np.zeros(min(missing, _BLOCK), np.int16)
                encoder.write(silence, silence)
                missing -= len(silence)
            for both in _decoded(part):
                encoder.write(both[:, 0], both[:, 1])
        samples = encoder.samples
    return _written(path, samples, whole)


def _decoded(path: Path) -> Iterator[Samples]:
    import av

    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            yield frame.to_ndarray().astype(np.int16, copy=False).reshape(-1, CHANNELS)


@contextmanager
def _encoding(path: Path) -> Iterator[_Encoder]:
    import av

    # Not by its name alone: a file under way has another suffix.
    with av.open(str(path), "w", format="flac") as container:
        encoder = _Encoder(container)
        yield encoder
        encoder.close()


def _written(path: Path, samples: int, whole: bool) -> SoundFile:
    return SoundFile(path, round(samples / RATE, 3), path.stat().st_size, whole)
