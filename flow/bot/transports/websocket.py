"""Calls over a WebSocket of the caller's, which carries Pipecat's protobuf frames."""

from __future__ import annotations

import json
from typing import Any

import structlog
from pipecat.audio.resamplers.base_audio_resampler import BaseAudioResampler
from pipecat.audio.utils import create_stream_resampler
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    InputTransportMessageFrame,
    InterruptionFrame,
)
from pipecat.frames.protobufs import frames_pb2
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.transports.base_transport import BaseTransport

from flow.bot.audio_input import direct
from flow.bot.transports.spec import SPEECH, SocketSpec

log = structlog.get_logger(__name__)

SAMPLE_RATE_IN = SPEECH.sample_rate_in
SAMPLE_RATES = range(8_000, 48_001)
MAX_SAMPLE_RATES = 4
"""Different rates of one call: each has a resampler, and a new one may take 4 ms to make."""
LONGEST_CHUNK_SECS = 2
LARGEST_JSON_BYTES = 64 * 1024


class _Unusable(Exception):
    """Why a message of a caller is dropped: one of a few fixed phrases."""


class CallerAudioSerializer(ProtobufFrameSerializer):
    """Pipecat's protobuf frames, of which a caller may send audio and nothing else.

    Any other frame would let a caller put words into the bot's mouth or the transcript.
    Audio of another rate is resampled, and the rate may change within a call (a headset is put
    on). What is not 16-bit mono sound of a sane rate and length is dropped, since a broken chunk
    is no reason to end a call. ``dropped`` counts such messages; the first for each reason is
    logged.
    """

    def __init__(self) -> None:
        super().__init__()
        self._resamplers: dict[int, BaseAudioResampler] = {}
        self._logged: set[str] = set()
        self.dropped = 0

    async def deserialize(self, data: str | bytes) -> Frame | None:
        """The audio frame in ``data``, or `None`."""
        try:
            return await self._frame(_parsed(data))
        except _Unusable as error:
            self._drop(str(error))
            return None

    async def _frame(self, message: Any) -> Frame | None:
        """The frame of a protobuf message."""
        if message.WhichOneof("frame") != "audio":
            raise _Unusable("a frame that is not audio")
        audio = await self._sound(message.audio)
        # A stream's first chunk may be too short for the resampler to give anything yet.
        return InputAudioRawFrame(audio, SAMPLE_RATE_IN, 1) if audio else None

    async def _sound(self, sound: Any) -> bytes:
        """The sound of a message at `SAMPLE_RATE_IN`."""
        _check(sound)
        rate: int = sound.sample_rate
        audio: bytes = sound.audio
        if rate == SAMPLE_RATE_IN:
            return audio
        if rate not in self._resamplers:
            if len(self._resamplers) == MAX_SAMPLE_RATES:
                raise _Unusable("one more sample rate")
            # Pipecat's resampler takes one rate only, and raises for any other.
            self._resamplers[rate] = create_stream_resampler()
        return await self._resamplers[rate].resample(audio, rate, SAMPLE_RATE_IN)

    def _drop(self, reason: str) -> None:
        self.dropped += 1
        if reason not in self._logged:
            self._logged.add(reason)
            log.warning("caller_message_dropped", reason=reason)


class RtviSerializer(CallerAudioSerializer):
    """The same for a client that speaks RTVI: its messages pass too, for what speaks RTVI to judge.

    Pipecat's JavaScript client knows no frame of an interruption, and fails on one; it is told in
    RTVI.
    """

    async def serialize(self, frame: Frame) -> str | bytes | None:
        """The message of a frame, or `None`."""
        return None if isinstance(frame, InterruptionFrame) else await super().serialize(frame)

    async def _frame(self, message: Any) -> Frame | None:
        if message.WhichOneof("frame") != "message":
            return await super()._frame(message)
        if len(message.message.data) > LARGEST_JSON_BYTES:
            raise _Unusable("too long JSON")
        try:
            return InputTransportMessageFrame(message=json.loads(message.message.data))
        except (ValueError, RecursionError):
            raise _Unusable("not JSON") from None


def websocket_transport(websocket: Any, *, rtvi: bool = False) -> BaseTransport:
    """A transport over an accepted Starlette ``WebSocket``, for an RTVI client or another."""
    from pipecat.transports.websocket.fastapi import (
        FastAPIWebsocketInputTransport,
        FastAPIWebsocketParams,
        FastAPIWebsocketTransport,
    )

    params = FastAPIWebsocketParams(
        audio_in_enabled=True,
        audio_out_enabled=True,
        serializer=RtviSerializer() if rtvi else CallerAudioSerializer(),
        # The token in the URL says who connects; browsers of any origin may.
        allowed_origins=[],
    )
    transport = FastAPIWebsocketTransport(websocket=websocket, params=params)
    # Pipecat's transports have no door for an input that is already made.
    transport._input = direct(FastAPIWebsocketInputTransport)(transport, transport._client, params)
    return transport


def _parsed(data: str | bytes) -> Any:
    """The protobuf ``Frame`` that a message is."""
    if isinstance(data, str):
        raise _Unusable("text")
    try:
        return frames_pb2.Frame.FromString(data)  # type: ignore[attr-defined]
    except Exception:  # whatever a parser makes of a stranger's bytes
        raise _Unusable("not a frame") from None


def _check(sound: Any) -> None:
    if sound.num_channels != 1:
        raise _Unusable("not mono")
    if sound.sample_rate not in SAMPLE_RATES:
        raise _Unusable("no usual sample rate")
    if not sound.audio:
        raise _Unusable("no sound")
    if len(sound.audio) % 2:
        raise _Unusable("half a sample")
    if len(sound.audio) > 2 * sound.sample_rate * LONGEST_CHUNK_SECS:
        raise _Unusable("too long")


TRANSPORT = SocketSpec(
    name="websocket",
    connection=lambda at: {"url": at.websocket("ws")},
    connect_params=lambda way: {"wsUrl": way["url"]},
    transport=websocket_transport,
)
