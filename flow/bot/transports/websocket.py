"""How a caller's audio reaches the pipeline. Each transport is one function here.

A transport says ``on_client_connected`` and ``on_client_disconnected``; a session needs no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipecat.audio.utils import create_stream_resampler
from pipecat.frames.frames import Frame, InputAudioRawFrame
from pipecat.frames.protobufs import frames_pb2
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.transports.base_transport import BaseTransport, TransportParams

from flow.bot.audio_input import direct
from flow.domain.calls.close_codes import Close

if TYPE_CHECKING:
    from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection

SAMPLE_RATE_IN = 16_000
SAMPLE_RATE_OUT = 24_000
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
            # Pipecat's own would log each frame that is none, and make any other.
            frame = frames_pb2.Frame.FromString(data)  # type: ignore[attr-defined]
            if frame.WhichOneof("frame") != "audio":
                return None
            said = frame.audio
            return InputAudioRawFrame(
                audio=said.audio, sample_rate=said.sample_rate, num_channels=said.num_channels
            )
        except Exception:  # whatever is made of a stranger's bytes
            return None


class CallSocket:
    """An accepted WebSocket that tells its caller why the call ended when it is closed.

    Args:
        websocket: of Starlette.
        close: how it is to be closed, asked when it is.
    """

    def __init__(self, websocket: Any, close: Callable[[], Close]) -> None:
        self._websocket = websocket
        self._close = close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._websocket, name)

    async def close(self, code: int = 1000, reason: str | None = None) -> None:
        """Close it, whatever code and reason whoever closes it would give."""
        await self._websocket.close(*self._close())


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


def webrtc_transport(connection: SmallWebRTCConnection) -> BaseTransport:
    """A transport over a peer connection of ``SmallWebRTCRequestHandler``."""
    from pipecat.transports.smallwebrtc.transport import (
        SmallWebRTCInputTransport,
        SmallWebRTCTransport,
    )

    params = TransportParams(audio_in_enabled=True, audio_out_enabled=True)
    transport = SmallWebRTCTransport(webrtc_connection=connection, params=params)
    transport._input = direct(SmallWebRTCInputTransport)(transport._client, params)  # as above
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
