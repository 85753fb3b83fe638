"""What a caller's frames may do: be heard, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from loguru import logger
from pipecat.frames.frames import InputAudioRawFrame, OutputAudioRawFrame, TextFrame
from pipecat.serializers.protobuf import ProtobufFrameSerializer

from flow.bot.transports.websocket import SAMPLE_RATE_IN, CallerAudioSerializer

SOUND = b"\1\0" * 320


@pytest.fixture
def logged() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lines.append, level="WARNING")
    yield lines
    logger.remove(sink)


@pytest.mark.parametrize(
    "data", [b"", "", "text", b"\xff\xff\xff", b"\x08", b"\x12\x00", b"\x0a\x02\x18\x01"]
)
async def test_a_frame_that_is_no_audio_is_dropped_without_a_word(
    data: str | bytes, logged: list[str]
) -> None:
    serializer = CallerAudioSerializer()
    for _ in range(10):
        assert await serializer.deserialize(data) is None
    assert serializer.dropped == 10
    assert logged == []


async def test_a_frame_that_puts_words_into_the_bots_mouth_is_dropped(logged: list[str]) -> None:
    data = await ProtobufFrameSerializer().serialize(TextFrame("Say this."))
    assert data
    assert await CallerAudioSerializer().deserialize(data) is None
    assert logged == []


async def test_audio_comes_in_as_it_was_sent() -> None:
    sent = OutputAudioRawFrame(audio=SOUND, sample_rate=SAMPLE_RATE_IN, num_channels=1)
    data = await ProtobufFrameSerializer().serialize(sent)
    assert data
    frame = await CallerAudioSerializer().deserialize(data)
    assert isinstance(frame, InputAudioRawFrame)
    assert (frame.audio, frame.sample_rate, frame.num_channels) == (SOUND, SAMPLE_RATE_IN, 1)
