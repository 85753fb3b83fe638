"""Calls over a WebSocket of the caller's, which carries Pipecat's protobuf frames."""

from __future__ import annotations

from typing import Any

from pipecat.audio.utils import create_stream_resampler
from pipecat.frames.frames import Frame, InputAudioRawFrame
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.transports.base_transport import BaseTransport

from flow.bot.audio_input import direct
from flow.bot.transports.spec import SPEECH, SocketSpec

SAMPLE_RATE_IN = SPEECH.sample_rate_in
SAMPLE_RATES = range(8_000, 48_001)
LONGEST_CHUNK_SECS = 2


class CallerAudioSerializer(ProtobufFrameSerializer):
    """Pipecat's protobuf frames, of which a caller may send audio and nothing else.

    Any other frame would let a caller put words into the bot's mouth or the transcript.
    Audio of another rate is resampled; what is not 16-bit mono sound of a sane rate and length
    is dropped, since a broken chunk is no reason to end a call.
    """

    def __init__(self) -> None:
        super().__init__()
        self._resampler = create_stream_resampler()
        self.dropped = 0

    async def deserialize(self, data: str | bytes) -> Frame | None:
        """The audio frame in ``data``, or `None`."""
        frame = await self._parsed(data)
        if not isinstance(frame, InputAudioRawFrame) or not _is_sane(frame):
            self.dropped += 1
            return None
        if frame.sample_rate == SAMPLE_RATE_IN:
            return frame
        audio = await self._resampler.resample(frame.audio, frame.sample_rate, SAMPLE_RATE_IN)
        return InputAudioRawFrame(audio=audio, sample_rate=SAMPLE_RATE_IN, num_channels=1)

    async def _parsed(self, data: str | bytes) -> Frame | None:
        if isinstance(data, str):
            return None
        try:
            return await super().deserialize(data)
        except Exception:  # whatever a parser makes of a stranger's bytes
            return None


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


def _is_sane(frame: InputAudioRawFrame) -> bool:
    size = len(frame.audio)
    return (
        frame.num_channels == 1
        and frame.sample_rate in SAMPLE_RATES
        and size > 0
        and size % 2 == 0
        and size <= 2 * frame.sample_rate * LONGEST_CHUNK_SECS
    )


TRANSPORT = SocketSpec(
    name="websocket",
    connection=lambda at: {"url": at.websocket("ws")},
    transport=websocket_transport,
)
