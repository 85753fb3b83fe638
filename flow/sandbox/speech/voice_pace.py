"""How fast a voice's sound comes: at first after a while, and then faster than it is heard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

CHUNK_SECS = 0.08


@dataclass(frozen=True, slots=True)
class VoicePace:
    """``first_sound_secs`` pass before the first sound; then it comes ``times_real_time`` as fast
    as it is heard, or at once where that is ``None``."""

    first_sound_secs: float = 0.0
    times_real_time: float | None = None


LIFELIKE = VoicePace(first_sound_secs=0.2, times_real_time=3.0)
"""As a hosted voice does."""


async def paced(pcm16: bytes, sample_rate: int, pace: VoicePace) -> AsyncIterator[bytes]:
    """16-bit mono samples in chunks of `CHUNK_SECS`, each when it is due."""
    clock = asyncio.get_running_loop().time
    size = 2 * round(sample_rate * CHUNK_SECS)
    chunk_secs = CHUNK_SECS / pace.times_real_time if pace.times_real_time else 0.0
    due = clock() + pace.first_sound_secs
    for start in range(0, len(pcm16), size):
        await asyncio.sleep(max(due - clock(), 0))
        yield pcm16[start : start + size]
        due += chunk_secs
