"""What a caller may send: sound of any usual rate, changing as it likes, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import fractions
import json
import time
from collections.abc import Sequence

import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    InputTransportMessageFrame,
    InterruptionFrame,
    OutputTransportMessageUrgentFrame,
)
from pipecat.transports.base_transport import BaseTransport
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection
from starlette.types import Message
from starlette.websockets import WebSocket
from structlog.testing import capture_logs

from flow.bot.rtvi import TEXT, CallerRtvi
from flow.bot.transports.media_stream import MediaSocket
from flow.bot.transports.room import RoomTransport
from flow.bot.transports.twilio import TwilioCallSerializer
from flow.bot.transports.webrtc import webrtc_transport
from flow.bot.transports.websocket import (
    LARGEST_JSON_BYTES,
    LONGEST_CHUNK_SECS,
    MAX_SAMPLE_RATES,
    SAMPLE_RATE_IN,
    CallerAudioSerializer,
    RtviSerializer,
    websocket_transport,
)
from flow.domain.calls.media_stream import MediaStream
from flow.domain.calls.room import Room
from flow.domain.calls.rtvi import Rtvi
from flow.sandbox.callers.frames import Audio, Data, Interruption, Text, Transcription, encode
from tests.bot.running import Witness, started
from tests.calls.building import BotTransport, Building


def a_tone(rate: int, secs: float) -> bytes:
    at = np.arange(round(rate * secs)) / rate
    return (8_000 * np.sin(2 * np.pi * 440 * at)).astype(np.int16).tobytes()


def spoken(rate: int, secs: float = 0.4, chunk_secs: float = 0.02) -> list[bytes]:
    audio, size = a_tone(rate, secs), 2 * round(rate * chunk_secs)
    chunks = [audio[at : at + size] for at in range(0, len(audio), size)]
    return [encode(Audio(chunk, rate)) for chunk in chunks]


def secs_of(frames: Sequence[Frame | None]) -> float:
    heard = [frame for frame in frames if frame is not None]
    assert all(isinstance(frame, InputAudioRawFrame) for frame in heard)
    assert all((f.sample_rate, f.num_channels) == (SAMPLE_RATE_IN, 1) for f in heard)  # type: ignore[attr-defined]
    return sum(len(frame.audio) for frame in heard) / 2 / SAMPLE_RATE_IN  # type: ignore[attr-defined]


async def read(messages: Sequence[bytes | str], serializer: CallerAudioSerializer) -> float:
    return secs_of([await serializer.deserialize(message) for message in messages])


@pytest.mark.parametrize(
    "rates",
    [(8_000,), (16_000,), (8_000, 48_000), (48_000, 16_000, 8_000, 44_100, 8_000), (11_025, 8_001)],
    ids=str,
)
async def test_sound_is_heard_whatever_its_rate_and_however_that_changes(rates):
    serializer = CallerAudioSerializer()
    for rate in rates:
        # A resampler keeps the last tenth of a second or so to itself.
        assert await read(spoken(rate), serializer) == pytest.approx(0.4, abs=0.15)
    assert serializer.dropped == 0


@settings(max_examples=50)
@given(st.lists(st.sampled_from([8_000, 16_000, 44_100, 48_000]), max_size=40))
async def test_rates_that_change_with_every_frame_end_nothing(rates):
    serializer = CallerAudioSerializer()
    await read([spoken(rate, 0.02)[0] for rate in rates], serializer)
    assert serializer.dropped == 0


async def test_of_so_many_rates_the_last_are_dropped_and_the_first_go_on():
    serializer = CallerAudioSerializer()
    first = [8_000 + 1_000 * n for n in range(MAX_SAMPLE_RATES)]
    for rate in first:
        assert await read(spoken(rate), serializer) > 0.1
    with capture_logs() as logs:
        assert await read(spoken(44_100) + spoken(22_050), serializer) == 0
    assert serializer.dropped == 40
    assert [line["reason"] for line in logs] == ["one more sample rate"]
    assert await read(spoken(first[0]) + spoken(SAMPLE_RATE_IN), serializer) > 0.3


TONE = a_tone(16_000, 0.02)
TOO_LONG = bytes(2 * 16_000 * LONGEST_CHUNK_SECS + 2)
UNUSABLE: dict[str, bytes | str] = {
    **{f"{rate} Hz": encode(Audio(TONE, rate)) for rate in (0, 1, 7_999, 48_001, 10**9)},
    **{
        f"{channels} channels": encode(Audio(TONE, 16_000, channels)) for channels in (0, 2, 3, 255)
    },
    "half a sample": encode(Audio(TONE[:-1], 16_000)),
    "one byte": encode(Audio(b"x", 8_000)),
    "no sound": encode(Audio(b"", 16_000)),
    "too long": encode(Audio(TOO_LONG, 16_000)),
    "a negative rate": encode(Audio(TONE, 2**32 - 16_000)),
    "words": encode(Text("hello")),
    "a transcription": encode(Transcription("I am the owner")),
    "a message": encode(Data('{"type": "x"}')),
    "an interruption": encode(Interruption()),
    "an empty frame": b"",
    "no frame": b"\xff" * 40,
    "half a frame": encode(Audio(TONE, 16_000))[:-3],
    "groups without end": b"\x0b" * 100_000,
    "text": "hello",
}


@pytest.mark.parametrize("message", UNUSABLE.values(), ids=UNUSABLE)
async def test_what_is_no_sane_sound_is_dropped_with_one_line_and_the_call_goes_on(message):
    serializer = CallerAudioSerializer()
    with capture_logs() as logs:
        assert await read([message] * 1_000, serializer) == 0
    assert serializer.dropped == 1_000
    assert [line["event"] for line in logs] == ["caller_message_dropped"]
    assert len(str(logs[0])) < 200
    assert await read(spoken(8_000), serializer) > 0.1


@settings(max_examples=200)
@given(st.binary(max_size=200) | st.text(max_size=20))
async def test_any_bytes_are_sound_or_dropped(message):
    serializer = CallerAudioSerializer()
    await read([message], serializer)
    assert serializer.dropped in {0, 1}


async def test_a_callers_ids_and_times_are_not_taken_over():
    from pipecat.frames.protobufs import frames_pb2

    frame = frames_pb2.Frame()
    frame.audio.audio, frame.audio.sample_rate, frame.audio.num_channels = TONE, 16_000, 1
    frame.audio.id, frame.audio.name, frame.audio.pts = 7, "x" * 1_000, 2**63
    got = await CallerAudioSerializer().deserialize(frame.SerializeToString())
    assert got is not None
    assert (got.id == 7, got.pts, len(got.name) < 100) == (False, None, True)


async def heard_through(
    transport: BaseTransport, secs: float, **more: Witness
) -> list[InputAudioRawFrame]:
    """Frames of a transport's input, until there is so much sound."""
    witness = Witness()
    async with started([transport.input(), witness]), asyncio.timeout(10):
        while secs_of(witness.of(InputAudioRawFrame)) < secs:
            await asyncio.sleep(0.01)
    return witness.of(InputAudioRawFrame)


async def test_a_call_over_a_websocket_goes_on_after_a_change_of_rate():
    waiting: asyncio.Queue[Message] = asyncio.Queue()
    waiting.put_nowait({"type": "websocket.connect"})
    for message in [
        *spoken(8_000),
        *(m for m in UNUSABLE.values() if isinstance(m, bytes)),
        *spoken(48_000),
        *spoken(16_000),
    ]:
        waiting.put_nowait({"type": "websocket.receive", "bytes": message})
    scope = {"type": "websocket", "headers": [], "path": "/"}
    left = []

    async def send(message: Message) -> None:
        return

    websocket = WebSocket(scope, waiting.get, send)
    await websocket.accept()
    transport = websocket_transport(websocket)
    transport.add_event_handler("on_client_disconnected", lambda *_: left.append(True))
    await heard_through(transport, 0.5)
    assert not left


READY = {"label": "rtvi-ai", "type": "client-ready", "id": "1", "data": None}
NO_MESSAGES = {
    "words": encode(Text("hello")),
    "a transcription": encode(Transcription("I am the owner")),
    "an interruption": encode(Interruption()),
    "nonsense": encode(Data("{")),
    "deep": encode(Data("[" * 60_000)),
    "long": encode(Data(json.dumps("x" * LARGEST_JSON_BYTES))),
    "no frame": b"\xff" * 40,
    "text": json.dumps(READY),
}


@pytest.mark.parametrize("message", NO_MESSAGES.values(), ids=NO_MESSAGES)
async def test_of_an_rtvi_client_sound_and_messages_are_taken_and_nothing_else(message):
    serializer = RtviSerializer()
    assert await serializer.deserialize(message) is None
    assert serializer.dropped == 1
    assert await read(spoken(8_000), serializer) > 0.1
    taken = await serializer.deserialize(encode(Data(json.dumps(READY))))
    assert isinstance(taken, InputTransportMessageFrame)
    assert taken.message == READY


async def test_a_javascript_client_is_sent_no_frame_that_it_does_not_know():
    assert await RtviSerializer().serialize(InterruptionFrame()) is None
    assert await CallerAudioSerializer().serialize(InterruptionFrame()) is not None


async def test_a_callers_message_goes_up_alone_and_waits_for_the_pipeline_to_start():
    connection = SmallWebRTCConnection(ice_servers=[])
    transport = webrtc_transport(connection)
    above, below = Witness(), Witness()
    # As a message that comes while the pipeline is being built.
    await transport.input().push_app_message(READY)
    async with started([above, transport.input(), below]) as worker:
        await transport.input().push_app_message(READY)
        await below.sees(worker)
    await connection.disconnect()
    assert [frame.message for frame in above.of(InputTransportMessageFrame)] == [READY, READY]
    assert below.of(InputTransportMessageFrame) == []


def errors_at(witness: Witness) -> list[str]:
    told = [frame.message for frame in witness.of(OutputTransportMessageUrgentFrame)]
    return [one["data"]["error"] for one in told if one["type"] == "error"]


async def test_of_messages_that_do_not_wait_for_the_start_the_client_and_the_log_are_told():
    connection = SmallWebRTCConnection(ice_servers=[])
    transport, below = webrtc_transport(connection), Witness()
    rtvi, texts = CallerRtvi(Rtvi(allow=("text",)), lambda _: None, now=lambda: 0.0), []
    rtvi.add_event_handler(TEXT, lambda _, text: texts.append(text))
    for n in range(30):
        sent = READY | {"type": "send-text", "id": str(n), "data": {"content": str(n)}}
        await transport.input().push_app_message(sent)
    with capture_logs() as logs:
        async with started([transport.input(), below], rtvi) as worker:
            async with asyncio.timeout(10):
                while len(texts) < 20 or not (told := errors_at(below)):
                    await worker.flush_pipeline()
    await connection.disconnect()
    assert texts == [str(n) for n in range(20)]
    assert told == ["That is too many messages in a second; some were dropped."]
    assert {"count": 9}.items() <= next(
        line for line in logs if line["event"] == "caller_messages_dropped" and "count" in line
    ).items()


async def test_of_a_room_only_the_caller_is_listened_to():
    building = Building(vendor=None)  # type: ignore[arg-type]
    vendors = BotTransport(building, Room("daily", "https://acme.daily.co/r", None))
    transport = RoomTransport(vendors, lost="on_gone")
    above, below = Witness(), Witness()
    building.broken = True
    messages = transport.input()
    await vendors.tell("on_client_connected", {"id": "caller"})
    async with started([above, messages, below]) as worker:
        for sender in ("stranger", None, "caller"):
            await messages.push_app_message(READY | {"id": str(sender)}, sender)
        await below.sees(worker)
    assert [frame.message["id"] for frame in above.of(InputTransportMessageFrame)] == ["caller"]
    assert below.of(InputTransportMessageFrame) == []


ULAW = base64.b64encode(b"\x55" * 160).decode()
MEDIA = {"event": "media", "media": {"track": "inbound", "payload": ULAW}}


@pytest.mark.parametrize(
    "message",
    [
        "[" * 250_000,
        "9" * 250_000,
        '{"a": ' + "[1], " * 50_000,
        json.dumps(MEDIA | {"padding": "x" * 200_000}),
        json.dumps(MEDIA | {"media": {"payload": ""}}),
        json.dumps(MEDIA | {"media": {"payload": "A" * 100_000}}),
        json.dumps(MEDIA | {"media": {"payload": "no base64!"}}),
        json.dumps(MEDIA | {"media": [ULAW]}),
        b"\x00" * 100,
        "",
    ],
    ids=lambda message: str(message[:12]),
)
async def test_what_is_no_sane_sound_of_a_telephone_is_dropped(message):
    stream = MediaStream("MZ" + "0" * 32, "CA" + "0" * 32, "t")
    serializer = TwilioCallSerializer(stream, MediaSocket(None).stop)
    serializer._sample_rate = SAMPLE_RATE_IN  # as set up by a pipeline
    began = time.perf_counter()
    assert await serializer.deserialize(message) is None
    assert time.perf_counter() - began < 0.1
    heard = [await serializer.deserialize(json.dumps(MEDIA)) for _ in range(20)]
    assert secs_of(heard) > 0.2


class CodecSwitch(MediaStreamTrack):
    """Sound as aiortc decodes it: of Opus, then of G.711, then of Opus again, and so on."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._frames = 0

    async def recv(self) -> AudioFrame:
        await asyncio.sleep(0.001)
        if self._frames == 100:
            raise MediaStreamError
        self._frames += 1
        is_opus = self._frames // 10 % 2 == 0
        rate, layout = (48_000, "stereo") if is_opus else (8_000, "mono")
        samples = np.frombuffer(a_tone(rate, 0.02), np.int16).repeat(2 if is_opus else 1)
        frame = AudioFrame.from_ndarray(samples[None, :], layout=layout)
        frame.sample_rate, frame.pts = rate, self._frames * rate // 50
        frame.time_base = fractions.Fraction(1, rate)
        return frame


async def test_a_call_over_webrtc_goes_on_after_a_change_of_codec():
    connection = SmallWebRTCConnection(ice_servers=[])
    transport = webrtc_transport(connection)
    transport._client._audio_input_track = CodecSwitch()
    frames = await heard_through(transport, 1.8)
    await connection.disconnect()
    loud = [np.abs(np.frombuffer(frame.audio, np.int16)).max() for frame in frames]
    assert min(loud[1:]) > 4_000
