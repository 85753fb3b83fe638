"""How long sound is, counted from its bytes or guessed from its words."""

from __future__ import annotations

import struct
from decimal import Decimal

MICROSECOND = Decimal("0.000001")
TYPICAL_CHARACTERS_A_SECOND = Decimal(15)
TYPICAL_BYTES_A_SECOND = 8_000
"""Of compressed speech, 64 kbit/s: between Opus in WebM at 32 and MP3 and AAC at 128."""


def pcm_seconds(size: int, sample_rate: int, channels: int = 1) -> Decimal:
    """Seconds of 16-bit sound in ``size`` bytes, to the microsecond."""
    return (Decimal(size) / (2 * channels * sample_rate)).quantize(MICROSECOND)


def compressed_seconds(size: int) -> Decimal:
    """About how many seconds of sound a compressed file of ``size`` bytes holds."""
    return (Decimal(size) / TYPICAL_BYTES_A_SECOND).quantize(MICROSECOND)


def base64_size(text: str) -> int:
    """How many bytes there are in base64."""
    return max(len(text) * 3 // 4 - text[-2:].count("="), 0)


def seconds_of(wav: bytes) -> Decimal | None:
    """Seconds of sound in a WAV file, to the microsecond; ``None`` for anything else."""
    if wav[:4] != b"RIFF" or wav[8:12] != b"WAVE":
        return None
    bytes_a_second, at = 0, 12
    while at + 8 <= len(wav):
        name, size = wav[at : at + 4], int.from_bytes(wav[at + 4 : at + 8], "little")
        if name == b"fmt " and at + 20 <= len(wav):
            (bytes_a_second,) = struct.unpack_from("<I", wav, at + 16)
        elif name == b"data":
            # A file that was streamed may not know its own size.
            held = min(size, len(wav) - at - 8)
            if not bytes_a_second:
                return None
            return (Decimal(held) / bytes_a_second).quantize(MICROSECOND)
        at += 8 + size + size % 2
    return None


class RawSound:
    """Uncompressed sound that comes in parts, measured as one: the parts, each rounded to the
    microsecond, would not add up to it.

    Args:
        sample_bytes: the size of a sample; 16-bit by default.
    """

    def __init__(self, sample_rate: int, *, sample_bytes: int = 2, channels: int = 1) -> None:
        self._bytes_a_second = sample_rate * sample_bytes * channels
        self._bytes = 0
        self.seconds = Decimal(0)
        """How long it is so far."""

    def more(self, size: int) -> Decimal:
        """How many seconds longer it is by so many bytes."""
        before = self.seconds
        self._bytes += size
        self.seconds = (Decimal(self._bytes) / self._bytes_a_second).quantize(MICROSECOND)
        return self.seconds - before


class SpeakingPace:
    """How fast a voice speaks, learned from what it has spoken to the end.

    A vendor makes the whole sentence, mostly faster than it is heard, and bills all of it when a
    barge-in closes the connection. How long the rest was is estimated from its characters.
    """

    def __init__(self) -> None:
        self._characters = TYPICAL_CHARACTERS_A_SECOND
        self._seconds = Decimal(1)

    def learn(self, characters: int, seconds: Decimal) -> None:
        """A sentence was spoken to its end."""
        self._characters += characters
        self._seconds += seconds

    def seconds(self, characters: int) -> Decimal:
        """How long so many characters may last."""
        return (self._seconds * characters / self._characters).quantize(MICROSECOND)
