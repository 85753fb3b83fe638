"""Our frames are Pipecat's: what one side writes the other reads, both ways."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipecat.frames import frames as pipecat
from pipecat.frames.protobufs import frames_pb2
from pipecat.serializers.protobuf import ProtobufFrameSerializer

from flow.errors import InvalidInput
from flow.sandbox.callers.frames import (
    Audio,
    Data,
    Frame,
    Interruption,
    Text,
    Transcription,
    decode,
    encode,
)

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40)
rates = st.integers(0, 2**32 - 1)
frames = st.one_of(
    st.builds(Audio, st.binary(max_size=200), rates, st.integers(0, 8)),
    st.builds(Text, texts),
    st.builds(Transcription, texts, texts, texts),
    st.builds(Data, texts),
    st.just(Interruption()),
)


def as_protobuf(frame: Frame) -> frames_pb2.Frame:
    """The same frame by Pipecat's generated classes."""
    match frame:
        case Audio(pcm16, sample_rate, channels):
            part = frames_pb2.AudioRawFrame(
                audio=pcm16, sample_rate=sample_rate, num_channels=channels
            )
            return frames_pb2.Frame(audio=part)
        case Text(text):
            return frames_pb2.Frame(text=frames_pb2.TextFrame(text=text))
        case Transcription(text, user_id, timestamp):
            part = frames_pb2.TranscriptionFrame(text=text, user_id=user_id, timestamp=timestamp)
            return frames_pb2.Frame(transcription=part)
        case Data(json):
            return frames_pb2.Frame(message=frames_pb2.MessageFrame(data=json))
        case Interruption():
            return frames_pb2.Frame(interruption=frames_pb2.InterruptionFrame())


@given(frames)
def test_what_we_write_is_what_pipecat_would_write(frame: Frame):
    assert encode(frame) == as_protobuf(frame).SerializeToString()


@given(frames)
def test_what_pipecat_writes_we_read(frame: Frame):
    assert decode(as_protobuf(frame).SerializeToString()) == frame


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (pipecat.OutputAudioRawFrame(b"\1\2" * 320, 24_000, 1), Audio(b"\1\2" * 320, 24_000, 1)),
        (pipecat.TextFrame("Grüße"), Text("Grüße")),
        (
            pipecat.TranscriptionFrame("hi", "caller", "2026-01-01T00:00:00Z"),
            Transcription("hi", "caller", "2026-01-01T00:00:00Z"),
        ),
        (pipecat.OutputTransportMessageFrame({"a": 1}), Data('{"a": 1}')),
        (pipecat.InterruptionFrame(), Interruption()),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_the_frames_of_pipecats_serializer_are_read(sent: pipecat.Frame, read: Frame):
    wire = await ProtobufFrameSerializer().serialize(sent)
    assert isinstance(wire, bytes)
    assert decode(wire) == read


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (
            Audio(b"\1\2" * 320, 16_000),
            pipecat.InputAudioRawFrame(b"\1\2" * 320, 16_000, 1),
        ),
        (Text("Grüße"), pipecat.TextFrame("Grüße")),
        (Transcription("hi", "me", "now"), pipecat.TranscriptionFrame("hi", "me", "now")),
        (Data('{"a": 1}'), pipecat.InputTransportMessageFrame({"a": 1})),
        (Interruption(), pipecat.InterruptionFrame()),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_pipecats_serializer_reads_our_frames(sent: Frame, read: pipecat.Frame):
    got = await ProtobufFrameSerializer().deserialize(encode(sent))
    assert type(got) is type(read)
    own = {"id", "name"}
    fields = [f.name for f in dataclasses.fields(read) if f.name not in own]
    assert {f: getattr(got, f) for f in fields} == {f: getattr(read, f) for f in fields}


@given(st.binary(max_size=60))
def test_any_bytes_are_a_frame_or_are_refused(wire: bytes):
    try:
        frame = decode(wire)
    except InvalidInput:
        return
    assert decode(encode(frame)) == frame


@pytest.mark.parametrize("wire", [b"", b"\xff\xff", b"not a frame"])
def test_what_is_no_frame_is_refused(wire: bytes):
    with pytest.raises(InvalidInput, match=f"{len(wire)} bytes"):
        decode(wire)


@pytest.mark.parametrize(
    ("audio", "seconds"),
    [
        (Audio(bytes(640), 16_000), 0.02),
        (Audio(bytes(640), 16_000, 2), 0.01),
        (Audio(b"", 16_000), 0.0),
        (Audio(b"", 0, 0), 0.0),
    ],
)
def test_audio_knows_how_long_it_sounds(audio: Audio, seconds: float):
    assert audio.seconds == seconds
