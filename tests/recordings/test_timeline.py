"""Where sound is placed, whatever networks, clocks and interruptions do to it."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.recordings.timeline import OPEN_SECS, HeardTrack, Piece, PlayedTrack

RATE = 1_000  # a sample is a millisecond
CHUNK = 20
STEP_MS = 40


def numbered(first: int, count: int) -> bytes:
    """Samples that tell which they are; 0 is silence."""
    return struct.pack(f"<{count}h", *(n % 32_000 + 1 for n in range(first, first + count)))


def placed(pieces: Iterable[Piece]) -> dict[int, int]:
    """What sounds at each sample; no sample has two sounds."""
    sounds: dict[int, int] = {}
    for piece in pieces:
        for at, sample in enumerate(struct.unpack(f"<{len(piece.pcm) // 2}h", piece.pcm)):
            assert sounds.setdefault(piece.start + at, sample) is sample
    return sounds


def places(pieces: Iterable[Piece]) -> dict[int, int]:
    """Where each numbered sample was put."""
    return {sample - 1: at for at, sample in placed(pieces).items()}


talk = st.lists(st.tuples(st.integers(2, 60), st.integers(0, 3_000)), min_size=1, max_size=6)
"""Chunks that somebody speaks without a pause, and the pause afterwards in ms."""


@given(talk, st.lists(st.integers(0, 25), min_size=1, max_size=40), st.integers(-300, 300))
def test_what_is_heard_is_where_it_was_spoken(
    spoken: list[tuple[int, int]], jitter: list[int], ppm: int
) -> None:
    track, now, number = HeardTrack(RATE), 500.0, 0
    pieces: list[Piece] = []
    true: dict[int, float] = {}
    for chunks, pause in spoken:
        for _ in range(chunks):
            true |= {number + i: now + i for i in range(CHUNK)}
            now += CHUNK * (1 + ppm / 1e6)
            late = jitter[number // CHUNK % len(jitter)]
            track.add((now + late) / 1000, numbered(number, CHUNK))
            number += CHUNK
            pieces += track.settle(now / 1000 - OPEN_SECS)
        now += max(pause, 30)
    found = places([*pieces, *track.settle()])
    assert len(found) > 0.99 * len(true)
    assert all(abs(at - true[n]) <= STEP_MS + 25 for n, at in found.items())
    # What goes on stays whole, but for a clock that runs away.
    assert sum(found.get(n + 1) != at + 1 for n, at in found.items()) <= len(true) / 500 + 2 * len(
        spoken
    )


@given(st.integers(100, 900), st.integers(10, 50), st.integers(10, 100))
def test_a_stalled_network_leaves_no_hole_and_no_delay(
    stall_ms: int, before: int, after: int
) -> None:
    track, number = HeardTrack(RATE), 0
    pieces: list[Piece] = []
    for chunk in range(before + after):
        spoken = (chunk + 1) * CHUNK
        stuck = before * CHUNK <= spoken < before * CHUNK + stall_ms
        arrives = before * CHUNK + stall_ms if stuck else spoken
        track.add(arrives / 1000, numbered(number, CHUNK))
        number += CHUNK
        pieces += track.settle(arrives / 1000 - OPEN_SECS)
    found = places([*pieces, *track.settle()])
    late = before * CHUNK + stall_ms > (before + after) * CHUNK  # nothing came after the stall
    if not late:
        assert all(abs(at - n) <= STEP_MS for n, at in found.items())
    assert len(found) == number


@given(st.integers(2_100, 9_000), st.integers(10, 50), st.integers(10, 100), st.booleans())
def test_of_a_stall_that_lasts_too_long_the_end_is_kept_where_it_was_spoken(
    stall_ms: int, before: int, after: int, bot_speaks: bool
) -> None:
    track = HeardTrack(RATE)
    pieces: list[Piece] = []
    stalled, resumed = before * CHUNK, before * CHUNK + stall_ms
    chunks = before + stall_ms // CHUNK + after
    spoken = [(chunk + 1) * CHUNK for chunk in range(chunks)]
    arrives = [resumed if stalled <= at < resumed else at for at in spoken]
    # A bot that speaks has what is old settled meanwhile.
    arrives += range(stalled, resumed, 100) if bot_speaks else ()
    for at, number in sorted((at, number) for number, at in enumerate(arrives)):
        if number < chunks:
            track.add(at / 1000, numbered(number * CHUNK, CHUNK))
        pieces += track.settle(at / 1000 - OPEN_SECS)
    found = places([*pieces, *track.settle()])
    assert all(abs(at - n) <= STEP_MS for n, at in found.items())
    kept = {n for n in range(chunks * CHUNK) if not stalled - CHUNK <= n < resumed - 2_000}
    assert kept <= found.keys()


@given(
    st.lists(
        st.tuples(
            st.integers(1, 80),  # chunks of a reply
            st.sampled_from([0.4, 0.5, 1.0]),  # sent at this part of real time
            st.integers(0, 2_500),  # interrupted so long after its beginning
            st.integers(40, 2_000),  # until the next
        ),
        min_size=1,
        max_size=6,
    )
)
def test_what_was_played_ends_where_the_caller_interrupted(
    replies: list[tuple[int, float, int, int]],
) -> None:
    track, now, number = PlayedTrack(RATE), 100.0, 0
    pieces: list[Piece] = []
    expected: dict[int, float] = {}
    for chunks, pace, interrupted, pause in replies:
        begun, sent = now, 0
        for chunk in range(chunks):
            at = begun + chunk * STEP_MS * pace
            if at >= begun + interrupted:
                break
            track.add(at / 1000, numbered(number + sent, STEP_MS))
            pieces += track.settle(at / 1000 - OPEN_SECS)
            sent += STEP_MS
        cut = begun + interrupted
        track.cut(cut / 1000)
        expected |= {number + i: begun + i for i in range(sent) if begun + i < cut}
        number += sent
        now = max(cut, begun + sent) + pause
    found = places([*pieces, *track.settle()])
    assert {n: abs(at - expected[n]) <= 1 for n, at in found.items()} == dict.fromkeys(
        expected, True
    )


@pytest.mark.parametrize("late_ms", [5, 10])
def test_paced_sound_with_a_tired_loop_has_no_clicks(late_ms: int) -> None:
    """A transport that takes the next piece when the last has sounded takes it a little late."""
    track = PlayedTrack(RATE)
    for chunk in range(20):
        track.add((chunk * STEP_MS + (late_ms if chunk % 3 else 0)) / 1000, numbered(0, STEP_MS))
    (piece,) = track.settle()
    assert piece.end - piece.start == 20 * STEP_MS


def test_settled_sound_is_not_cut() -> None:
    track = PlayedTrack(RATE)
    track.add(0, numbered(0, 500))
    settled = [*track.settle(0.3)]
    track.cut(0.1)
    assert [piece.end for piece in [*settled, *track.settle()]] == [300]
