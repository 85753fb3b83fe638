"""Calls over a WebSocket of the caller's, which carries Pipecat's protobuf frames."""

from __future__ import annotations

from typing import Any

import structlog
from pipecat.audio.resamplers.base_audio_resampler import BaseAudioResampler
from pipecat.audio.utils import create_stream_resampler
from pipecat.frames.frames import Frame, InputAudioRawFrame
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
            audio = await self._sound(data)
        except _Unusable as error:
            self._drop(str(error))
            return None
        # A stream's first chunk may be too short for the resampler to give anything yet.
        return InputAudioRawFrame(audio, SAMPLE_RATE_IN, 1) if audio else None

    async def _sound(self, data: str | bytes) -> bytes:
        """The sound of a message at `SAMPLE_RATE_IN`."""
        sound = _parsed(data)
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


def websocket_transport(websocket: Any) -> BaseTransport:
    """A transport over an accepted Starlette ``WebSocket``."""
    from pipecat.transports.websocket.fastapi import (
        FastAPIWebsocketInputTransport,
        FastAPIWebsocketParams,
        FastAPIWebsocketTransport,
    )

    params = FastAPIWebsocketParams(
        audio_in_enabled=True,
        audio_out_enabled=True,
        serializer=CallerAudioSerializer(),
        # The token in the URL says who connects; browsers of any origin may.
        allowed_origins=[],
    )
    transport = FastAPIWebsocketTransport(websocket=websocket, params=params)
    # Pipecat's transports have no door for an input that is already made.
    transport._input = direct(FastAPIWebsocketInputTransport)(transport, transport._client, params)
    return transport


def _parsed(data: str | bytes) -> Any:
    """The protobuf ``AudioRawFrame`` in a message."""
    if isinstance(data, str):
        raise _Unusable("text")
    try:
        frame = frames_pb2.Frame.FromString(data)  # type: ignore[attr-defined]
    except Exception:  # whatever a parser makes of a stranger's bytes
        raise _Unusable("not a frame") from None
    if frame.WhichOneof("frame") != "audio":
        raise _Unusable("a frame that is not audio")
    return frame.audio


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
    transport=websocket_transport,
)
