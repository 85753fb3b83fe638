"""Calls over WebRTC, as Pipecat's SmallWebRTC: an offer of the caller's, and our answer."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING
from uuid import UUID

from pipecat.transports.base_transport import BaseTransport, TransportParams

from flow.bot.audio_input import direct
from flow.bot.transports.spec import OfferedConnection, OfferSpec

if TYPE_CHECKING:
    from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection


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


async def _answering(sdp: str, thread_id: UUID) -> OfferedConnection:
    """The module of the connection imports aiortc, which takes a second, so in a thread."""
    module = await asyncio.to_thread(import_module, "flow.bot.webrtc_connection")
    connection: OfferedConnection = await module.WebRTCConnection.answering(sdp, thread_id)
    return connection


TRANSPORT = OfferSpec(
    name="webrtc",
    connection=lambda at: {"url": at.http("offer")},
    answering=_answering,
)
