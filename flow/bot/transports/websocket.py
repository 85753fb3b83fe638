"""How a caller's audio reaches the pipeline. Each transport is one function here.

A transport says ``on_client_connected`` and ``on_client_disconnected``; a session needs no more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import structlog
from pipecat.audio.resamplers.base_audio_resampler import BaseAudioResampler
from pipecat.audio.utils import create_stream_resampler
from pipecat.frames.frames import Frame, InputAudioRawFrame, StartFrame
from pipecat.frames.protobufs import frames_pb2
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.transports.base_transport import BaseTransport, TransportParams

from flow.bot.audio_input import direct
from flow.domain.calls.close_codes import Close

if TYPE_CHECKING:
    from av import AudioFrame, AudioResampler
    from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection

log = structlog.get_logger(__name__)

SAMPLE_RATE_IN = 16_000
SAMPLE_RATE_OUT = 24_000
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
    from pipecat.transports.smallwebrtc.transport import SmallWebRTCTransport

    params = TransportParams(audio_in_enabled=True, audio_out_enabled=True)
    transport = SmallWebRTCTransport(webrtc_connection=connection, params=params)
    transport._input = _webrtc_input()(transport._client, params)  # as above
    return transport


class AnyFormatResampler:
    """An ``av.AudioResampler`` for sound whose format may change on the way.

    PyAV's takes frames of one format only, and raises for any other; a caller's may change with
    the codec, from one packet to the next.
    """

    def __init__(self, layout: str, rate: int) -> None:
        self._layout, self._rate = layout, rate
        self._resamplers: dict[tuple[str, str, int], AudioResampler] = {}

    def resample(self, frame: AudioFrame) -> list[AudioFrame]:
        """The sound of ``frame`` as 16-bit samples of the wanted layout and rate."""
        from av import AudioResampler

        source = (frame.format.name, frame.layout.name, frame.sample_rate)
        if source not in self._resamplers:
            self._resamplers[source] = AudioResampler("s16", self._layout, self._rate)
        return self._resamplers[source].resample(frame)


@cache
def _webrtc_input() -> Any:
    """A kind of input; importing what it is made of takes a second."""
    from pipecat.transports.smallwebrtc.transport import SmallWebRTCInputTransport

    class WebRTCInput(direct(SmallWebRTCInputTransport)):  # type: ignore[misc]
        """Takes audio in directly, of any format."""

        async def start(self, frame: StartFrame) -> None:
            """Receive audio, once the client is set up."""
            self._client._audio_in_resampler = AnyFormatResampler("mono", self.sample_rate)
            await super().start(frame)

    return WebRTCInput


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
