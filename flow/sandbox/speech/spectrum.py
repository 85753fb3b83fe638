"""What a sound looks like to an ear: spectral features that survive codecs, gain and some noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import soxr
from numpy.typing import NDArray

Floats = NDArray[np.float32]

RATE = 8_000
"""Samples a second of every `Sound`; speech is told apart below 4 kHz."""
HOP = 80
"""Samples from one frame to the next: 10 ms."""
FEWEST_FRAMES = 15
"""Fewer sounding frames than these say nothing about who said what."""

_WINDOW = 256
_BANDS = 24
_SLOPE_FRAMES = 3
_SMOOTH_FRAMES = 5
_DYNAMIC_RANGE_DB = 55.0
_ACTIVE_RANGE_DB = 30.0
_AUDIBLE_DB = 10.0
_STEADY_DB = 6.0
_EDGE_SHARE = 0.003


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """A sound as samples and as features.

    Attributes:
        samples: mono at `RATE`, in 16-bit units.
        features: frames by features; each active frame has length 1, a quiet one is zero.
        active: per frame, whether something sounds there.
    """

    samples: Floats
    features: Floats
    active: NDArray[np.bool_]

    @property
    def is_silent(self) -> bool:
        """Whether too little sounds to be a word: silence, a hiss that only goes on, a click."""
        return int(self.active.sum()) < FEWEST_FRAMES


def sound(pcm16: bytes, sample_rate: int) -> Sound:
    """`pcm16` (mono) without the silence around it, as a `Sound`."""
    samples = np.frombuffer(pcm16[: len(pcm16) // 2 * 2], dtype=np.int16).astype(np.float32)
    resampled = samples if sample_rate == RATE else soxr.resample(samples, sample_rate, RATE)
    trimmed = _trimmed(resampled)
    levels, loudness = _levels(trimmed)
    active = _active(loudness)
    return Sound(trimmed, _features(levels) * active[:, None], active)


def without(of: Sound, first: int, last: int) -> Sound:
    """The sound with nothing in its frames from `first` up to `last`; its samples stay."""
    kept = of.active.copy()
    kept[max(first, 0) : max(last, 0)] = False
    return replace(of, features=of.features * kept[:, None], active=kept)


def _trimmed(samples: Floats) -> Floats:
    """Cut to where the sound is, so that both ends say exactly what was recorded of it."""
    if not samples.size:
        return samples
    (loud,) = np.nonzero(np.abs(samples) > _EDGE_SHARE * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1] if loud.size else samples[:0]


def _levels(samples: Floats) -> tuple[Floats, Floats]:
    """Decibels per frame and band, and per frame over all; a frame is centred on its hop."""
    padded = np.pad(samples, _WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * _taper(), axis=1)) ** 2 / _WINDOW**2
    return _decibels(power @ _bands().T), _decibels(power.sum(axis=1))


def _active(loudness: Floats) -> NDArray[np.bool_]:
    """Frames that sound: near the loudest, audible at all, and not a hiss that only goes on."""
    top = float(loudness.max())
    if top < _AUDIBLE_DB or _is_steady(loudness):
        return np.zeros(loudness.size, dtype=np.bool_)
    return np.asarray(loudness > top - _ACTIVE_RANGE_DB)


def _is_steady(loudness: Floats) -> bool:
    if loudness.size < 3:
        return True
    low, high = np.percentile(loudness[1:-1], (5, 95))
    return bool(high - low < _STEADY_DB)


def _features(levels: Floats) -> Floats:
    """The spectrum's shape and its slope in time; gain falls out of both."""
    clipped = _smoothed(np.maximum(levels, levels.max() - _DYNAMIC_RANGE_DB))
    shape = clipped - clipped.mean(axis=1, keepdims=True)
    slope = np.zeros_like(shape)
    slope[_SLOPE_FRAMES:-_SLOPE_FRAMES] = (
        clipped[2 * _SLOPE_FRAMES :] - clipped[: -2 * _SLOPE_FRAMES]
    )
    both = np.hstack([shape / 2, slope])
    lengths = np.linalg.norm(both, axis=1, keepdims=True)
    return np.asarray(both / np.maximum(lengths, 1e-6), dtype=np.float32)


def _smoothed(levels: Floats) -> Floats:
    """Averages over 50 ms, so that a lost or repeated packet does not undo a likeness."""
    padded = np.pad(levels, ((_SMOOTH_FRAMES // 2,) * 2, (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, _SMOOTH_FRAMES, axis=0)
    return np.asarray(windows.mean(axis=-1), dtype=np.float32)


def _decibels(power: NDArray[np.floating]) -> Floats:
    return np.asarray(10 * np.log10(power + 1e-6), dtype=np.float32)


@cache
def _taper() -> Floats:
    return np.hanning(_WINDOW).astype(np.float32)


@cache
def _bands() -> Floats:
    """Triangles evenly spaced on the mel scale from 100 to 3,800 Hz: bands by FFT bins."""
    lowest, highest = 2595 * np.log10(1 + np.array([100.0, 3_800.0]) / 700)
    edges = 700 * (10 ** (np.linspace(lowest, highest, _BANDS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(_WINDOW, 1 / RATE)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.clip(np.minimum(rising, falling), 0, None).astype(np.float32)
