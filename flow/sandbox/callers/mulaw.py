"""G.711 mu-law, the sound of telephone lines: one byte for a sample of 16 bits."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

_BIAS = 132
_CLIP = 32_635


def encode(pcm16: bytes) -> bytes:
    """16-bit PCM as mu-law."""
    samples = np.frombuffer(pcm16, dtype="<i2").astype(np.int32)
    sign = np.where(samples < 0, 0x80, 0)
    magnitude = np.minimum(np.abs(samples), _CLIP) + _BIAS
    # The place of the highest bit, of the eight that it may have.
    exponent = np.floor(np.log2(magnitude)).astype(np.int32) - 7
    mantissa = (magnitude >> (exponent + 3)) & 0x0F
    coded: NDArray[np.uint8] = (~(sign | exponent << 4 | mantissa) & 0xFF).astype(np.uint8)
    return coded.tobytes()


def decode(mulaw: bytes) -> bytes:
    """Mu-law as 16-bit PCM."""
    return _samples()[np.frombuffer(mulaw, dtype=np.uint8)].tobytes()


@cache
def _samples() -> NDArray[np.int16]:
    """The sample of each of the 256 codes."""
    code = ~np.arange(256) & 0xFF
    magnitude = (((code & 0x0F) << 3) + _BIAS << ((code & 0x70) >> 4)) - _BIAS
    return np.where(code & 0x80, -magnitude, magnitude).astype("<i2")
