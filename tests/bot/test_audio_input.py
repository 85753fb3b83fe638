"""A caller's audio goes in whole and in order, in few frames, and as far as it is needed."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    OutputAudioRawFrame,
    TextFrame,
    TTSAudioRawFrame,
    UserAudioRawFrame,
)
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_transport import TransportParams

from flow.bot.audio_input import CHUNK_SECS, AudioEnd, direct
from tests.bot.running import Witness, started

RATE = 16_000
CHUNK = round(RATE * CHUNK_SECS)


def an_input(**params: bool) -> BaseInputTransport:
    made: BaseInputTransport = direct(BaseInputTransport)(TransportParams(**params))
    return made


def sound(samples: int, at: int = 0, rate: int = RATE) -> InputAudioRawFrame:
    audio = b"".join((n % 32_768).to_bytes(2, "little") for n in range(at, at + samples))
    return InputAudioRawFrame(audio, rate, 1)


async def taken_in(*frames: InputAudioRawFrame, **params: bool) -> list[InputAudioRawFrame]:
    transport, witness = an_input(**({"audio_in_enabled": True} | params)), Witness()
    async with started([transport, witness]) as worker:
        for frame in frames:
            await transport.push_audio_frame(frame)
        await witness.sees(worker)
    return witness.of(InputAudioRawFrame)


@settings(max_examples=15)
@given(sizes=st.lists(st.integers(1, 3 * CHUNK), min_size=1, max_size=20))
async def test_nothing_is_lost_or_moved_but_the_last_moment(sizes: list[int]) -> None:
    frames, at = [], 0
    for size in sizes:
        frames.append(sound(size, at))
        at += size
    whole = b"".join(frame.audio for frame in frames)
    out = await taken_in(*frames)
    together = b"".join(frame.audio for frame in out)
    assert whole.startswith(together)
    assert len(whole) - len(together) < 2 * CHUNK
    assert [frame.num_frames for frame in out] == [len(frame.audio) // 2 for frame in out]
    assert min((frame.num_frames for frame in out), default=CHUNK) >= CHUNK


async def test_twenty_milliseconds_go_in_two_by_two() -> None:
    out = await taken_in(*(sound(CHUNK // 2) for _ in range(10)))
    assert [frame.num_frames for frame in out] == [CHUNK] * 5


async def test_sound_of_another_rate_or_speaker_is_not_joined() -> None:
    one, other = (UserAudioRawFrame(bytes(100), RATE, 1) for _ in range(2))
    one.user_id, other.user_id = "one", "other"
    out = await taken_in(one, other, sound(10), sound(10, rate=8_000), sound(CHUNK))
    assert [len(frame.audio) for frame in out] == [100, 100, 20, 20, 2 * CHUNK]
    assert [getattr(frame, "user_id", None) for frame in out[:2]] == ["one", "other"]


async def test_nothing_is_taken_in_where_audio_is_switched_off() -> None:
    assert await taken_in(sound(CHUNK), audio_in_enabled=False) == []


@pytest.mark.parametrize(
    ("frame", "ends"),
    [
        (sound(CHUNK), True),
        (TextFrame("words"), False),
        (OutputAudioRawFrame(b"\x01\x00", 24_000, 1), False),
    ],
    ids=["the caller's", "words", "the bot's"],
)
async def test_a_callers_audio_ends_and_all_else_goes_on(frame: Frame, ends: bool) -> None:
    witness = Witness()
    async with started([AudioEnd(InputAudioRawFrame), witness]) as worker:
        await worker.queue_frame(frame)
        await witness.sees(worker)
    assert (frame in witness.of(type(frame))) is not ends


async def test_spoken_audio_ends_whatever_it_was_made_of() -> None:
    witness = Witness()
    async with started([AudioEnd(OutputAudioRawFrame), witness]) as worker:
        await worker.queue_frame(TTSAudioRawFrame(b"\x01\x00", 24_000, 1))
        await worker.queue_frame(sound(CHUNK))
        await witness.sees(worker)
    assert witness.of(OutputAudioRawFrame) == []
    assert len(witness.of(InputAudioRawFrame)) == 1


async def test_frames_keep_their_order_across_an_end() -> None:
    witness = Witness()
    async with started([AudioEnd(InputAudioRawFrame), witness]) as worker:
        await worker.queue_frames([TextFrame(str(n)) for n in range(50)])
        await witness.sees(worker)
    numbers = [int(f.text) for f in witness.of(TextFrame) if f.text.isdecimal()]
    assert len(numbers) == 50
    assert all(one < other for one, other in pairwise(numbers))
