"""How long sound is."""

from __future__ import annotations

import struct
from decimal import Decimal

import pytest

from flow.metering.sound import SpeakingPace, pcm_seconds, seconds_of

RATE = 8_000
FORMAT = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
SOUND = b"\0\1" * RATE


def chunk(name: bytes, data: bytes, size: int | None = None) -> bytes:
    said = len(data) if size is None else size
    return name + struct.pack("<I", said) + data + b"\0" * (len(data) % 2)


def wav(*chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + sum(map(len, chunks))) + b"WAVE" + b"".join(chunks)


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([chunk(b"fmt ", FORMAT), chunk(b"data", SOUND)], id="plain"),
        pytest.param(
            [chunk(b"fmt ", FORMAT), chunk(b"LIST", b"an odd length"), chunk(b"data", SOUND)],
            id="a-padded-chunk-before",
        ),
        pytest.param(
            [chunk(b"fmt ", FORMAT), chunk(b"data", SOUND), chunk(b"LIST", b"after")],
            id="more-after",
        ),
        pytest.param(
            [chunk(b"fmt ", FORMAT), chunk(b"data", SOUND, 0xFFFFFFFF)], id="streamed-without-size"
        ),
        pytest.param([chunk(b"fmt ", FORMAT + b"\0\0"), chunk(b"data", SOUND)], id="long-format"),
    ],
)
def test_a_wav_is_as_long_as_the_sound_in_it(chunks: list[bytes]) -> None:
    assert seconds_of(wav(*chunks)) == Decimal(1)


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"RIFF",
        wav(chunk(b"fmt ", FORMAT)),
        wav(chunk(b"data", SOUND)),
        wav(chunk(b"data", SOUND), chunk(b"fmt ", FORMAT)),
        b"ID3\4" + SOUND,
        b"RIFX" + wav(chunk(b"fmt ", FORMAT), chunk(b"data", SOUND))[4:],
    ],
)
def test_of_what_is_no_wav_nothing_is_told(file: bytes) -> None:
    assert seconds_of(file) is None


@pytest.mark.parametrize(("channels", "expected"), [(1, "1"), (2, "0.5")])
def test_raw_sound_has_two_bytes_a_sample_and_channel(channels: int, expected: str) -> None:
    assert pcm_seconds(2 * RATE, RATE, channels) == Decimal(expected)


def test_a_voice_is_taken_to_speak_as_fast_as_it_has_spoken() -> None:
    pace = SpeakingPace()
    at_first = pace.seconds(150)
    assert at_first == Decimal(10)
    pace.learn(3_000, Decimal(400))
    assert at_first < pace.seconds(150) <= Decimal(20)
    pace.learn(30_000, Decimal(500))
    assert pace.seconds(150) < at_first
