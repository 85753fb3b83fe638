"""Calls over WebRTC, as Pipecat's SmallWebRTC: an offer of the caller's, and our answer."""

from __future__ import annotations

import asyncio
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pipecat.frames.frames import StartFrame
from pipecat.transports.base_transport import BaseTransport, TransportParams

from flow.bot.audio_input import direct
from flow.bot.transports.spec import OfferedConnection, OfferSpec

if TYPE_CHECKING:
    from av import AudioFrame, AudioResampler
    from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection


def webrtc_transport(connection: SmallWebRTCConnection) -> BaseTransport:
    """A transport over a peer connection of ``SmallWebRTCRequestHandler``."""
    from pipecat.transports.smallwebrtc.transport import SmallWebRTCTransport

    params = TransportParams(audio_in_enabled=True, audio_out_enabled=True)
    transport = SmallWebRTCTransport(webrtc_connection=connection, params=params)
    # Pipecat's transports have no door for an input that is already made.
    transport._input = _webrtc_input()(transport._client, params)
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


async def _answering(sdp: str, thread_id: UUID) -> OfferedConnection:
    """The module of the connection imports aiortc, which takes a second, so in a thread."""
    module = await asyncio.to_thread(import_module, "flow.bot.webrtc_connection")
    connection: OfferedConnection = await module.WebRTCConnection.answering(sdp, thread_id)
    return connection


TRANSPORT = OfferSpec(
    name="webrtc",
    drops_when_interrupted=False,
    connection=lambda at: {"url": at.http("offer")},
    connect_params=lambda way: {"webrtcRequestParams": {"endpoint": way["url"]}},
    answering=_answering,
)
