"""Speech recognition for a caller whose every recording is known.

A segment of a call is some pre-roll, speech and some padding. The speech may be the whole of a
recording, a part of it or several after one another; louder, softer, resampled, noisy or
through a lossy codec.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flow.errors import InvalidInput
from flow.sandbox.speech.recording_search import Match, Matcher, span
from flow.sandbox.speech.spectrum import HOP, Sound, sound, without

UNINTELLIGIBLE = "(unintelligible)"

_WORD_REACH = 10
_WORD_JITTER = 4
_WORD_LIKENESS = 0.25
_BLUR_FRAMES = 3
_SHORTEST_PAUSE = 6


class Ears:
    """Recognises known recordings.

    Args:
        utterances: the words of each recording and its 16-bit mono PCM.
        sample_rate: of the recordings, in Hz.

    Raises:
        InvalidInput: the sample rate is not positive.
    """

    def __init__(self, utterances: Mapping[str, bytes], sample_rate: int) -> None:
        known = [_utterance(text, _sound(pcm, sample_rate)) for text, pcm in utterances.items()]
        self._known = [u for u in known if u.words and not u.sound.is_silent]

    def transcribe(self, pcm16: bytes, sample_rate: int) -> str:
        """The words heard in a segment of 16-bit mono PCM, in the order of their sounding.

        Of a recording that is heard in part, it is the words whose middle is heard: the parts
        of a recording, wherever it was cut, give each word once. Silence is ``""``; sound
        that is no known recording's is ``"(unintelligible)"``, if it lasts for 150 ms.

        Raises:
            InvalidInput: the sample rate is not positive.
        """
        segment = _sound(pcm16, sample_rate)
        if segment.is_silent:
            return ""
        heard = self._heard(segment)
        if not heard:
            return UNINTELLIGIBLE
        return " ".join(h.words for h in sorted(heard, key=lambda h: h.lag) if h.words)

    def _heard(self, segment: Sound) -> list[_Heard]:
        """The best match first, then the best in what that leaves unexplained, and so on."""
        heard: list[_Heard] = []
        matcher = Matcher([u.sound for u in self._known], segment)
        rest = segment
        while (match := matcher.best(rest)) is not None:
            heard.append(_listen(self._known[match.index], match, rest))
            rest = without(rest, *heard[-1].frames)
        return heard


@dataclass(frozen=True, slots=True, eq=False)
class _Utterance:
    """A known recording.

    ``edges`` are the frames in which its words begin, and its end; ``middles`` those in which
    they are half said.
    """

    words: tuple[str, ...]
    edges: NDArray[np.int64]
    middles: NDArray[np.int64]
    sound: Sound


@dataclass(frozen=True, slots=True)
class _Heard:
    """What a match amounts to; ``frames`` of the segment, from and up to, are explained by it."""

    lag: int
    words: str
    frames: tuple[int, int]


def _sound(pcm16: bytes, sample_rate: int) -> Sound:
    if sample_rate <= 0:
        raise InvalidInput(f"A sample rate of {sample_rate} is not positive.")
    return sound(pcm16, sample_rate)


def _utterance(text: str, recording: Sound) -> _Utterance:
    words = tuple(text.split())
    edges = _word_edges(words, recording.active)
    middles = (edges[:-1] + edges[1:]) / 2
    clock = np.cumsum(recording.active)
    return _Utterance(
        words, np.searchsorted(clock, edges), np.searchsorted(clock, middles), recording
    )


def _word_edges(words: tuple[str, ...], active: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Where words begin, and where the last ends, in frames that sound.

    The longest pauses are those at the punctuation; between them words take time by their
    letters.
    """
    letters = np.cumsum([0, *(len(word) + 1 for word in words)], dtype=np.float64)
    phrases = [n for n, word in enumerate(words[:-1], start=1) if word[-1] in ".,;:?!"]
    gaps = np.diff(np.flatnonzero(active))
    pauses = np.sort(np.argsort(-gaps, kind="stable")[: len(phrases)]) + 1
    if len(pauses) < len(phrases) or (gaps[pauses - 1] < _SHORTEST_PAUSE).any():
        phrases, pauses = [], pauses[:0]
    anchors = letters[[0, *phrases, len(words)]]
    edges: NDArray[np.float64] = np.interp(letters, anchors, [0, *pauses, int(active.sum())])
    return edges


def _listen(utterance: _Utterance, match: Match, segment: Sound) -> _Heard:
    """The words of a match that are there: their middle is in the segment and sounds alike."""
    begin = round(match.lag / HOP)
    at = utterance.middles * HOP + match.lag
    covered = (at >= 0) & (at < len(segment.samples))
    there = [n for n in range(len(at)) if covered[n] and _is_said(utterance, n, begin, segment)]
    if not there:
        return _Heard(match.lag, "", (begin, begin + len(utterance.sound.active)))
    # What is left of a word that was cut before its middle belongs to this match as well.
    first, last = there[0], there[-1] + 1
    if first > 0 and not covered[first - 1]:
        first -= 1
    if last < len(at) and not covered[last]:
        last += 1
    return _Heard(
        match.lag,
        " ".join(utterance.words[n] for n in there),
        (
            begin + int(utterance.edges[first]) - _BLUR_FRAMES,
            begin + int(utterance.edges[last]) + _BLUR_FRAMES,
        ),
    )


def _is_said(utterance: _Utterance, word: int, begin: int, segment: Sound) -> bool:
    """Whether the segment sounds like the middle of the word, give or take some jitter."""
    start = int(utterance.middles[word]) - _WORD_REACH
    known = span(utterance.sound.features, start, start + 2 * _WORD_REACH)
    enough = _WORD_LIKENESS * float((known * known).sum())
    first = begin + start - _WORD_JITTER
    return any(
        float((known * span(segment.features, at, at + 2 * _WORD_REACH)).sum()) > enough
        for at in range(first, first + 2 * _WORD_JITTER + 1)
    )
