"""A telephone call's audio over a Twilio media stream."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from pipecat.frames.frames import Frame
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.transports.base_transport import BaseTransport

from flow.bot.transports.websocket import LONGEST_CHUNK_SECS
from flow.domain.calls.media_stream import SAMPLE_RATE, MediaStream, read_message

_MAX_PAYLOAD = 4 * -(-SAMPLE_RATE * LONGEST_CHUNK_SECS // 3)
_MAX_MESSAGE = _MAX_PAYLOAD + 2_048


class MediaSocket:
    """An accepted WebSocket that is over for its reader as soon as Twilio has said ``stop``.

    Closing the socket instead would wait for a closing handshake, with the call running on.
    """

    def __init__(self, websocket: Any) -> None:
        self._websocket = websocket
        self._stopped = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._websocket, name)

    def stop(self) -> None:
        """There is nothing more to read."""
        self._stopped = True

    async def receive(self) -> Any:
        """The next message, as of an ASGI server."""
        if self._stopped:
            return {"type": "websocket.disconnect", "code": 1000}
        return await self._websocket.receive()


class TwilioCallSerializer(TwilioFrameSerializer):
    """Pipecat's rendering of Twilio's messages, of which a caller may send audio and nothing else.

    What is no audio of the caller, or not sane, is dropped, keys that are pressed too. ``stop``
    is Twilio's word that the call is over, whatever becomes of the socket. Pipecat would also hang
    up at Twilio, but without a time limit and from within the pipeline: see `flow.vendors.twilio`
    instead.
    """

    def __init__(self, stream: MediaStream, socket: MediaSocket) -> None:
        super().__init__(stream.stream_sid, params=self.InputParams(auto_hang_up=False))
        self._socket = socket
        self.dropped = 0

    async def deserialize(self, data: str | bytes) -> Frame | None:
        """The audio frame in ``data``, or `None`."""
        message = _message(data)
        if message.get("event") == "stop":
            self._socket.stop()
            return None
        if not _is_sound(message):
            self.dropped += 1
            return None
        frame: Frame | None = await super().deserialize(data)
        return frame


def twilio_transport(websocket: Any, stream: MediaStream) -> BaseTransport:
    """A transport over an accepted Starlette ``WebSocket`` whose ``stream`` has started."""
    from pipecat.transports.websocket.fastapi import (
        FastAPIWebsocketParams,
        FastAPIWebsocketTransport,
    )

    socket: Any = MediaSocket(websocket)
    return FastAPIWebsocketTransport(
        websocket=socket,
        params=FastAPIWebsocketParams(
            audio_in_enabled=True,
            audio_out_enabled=True,
            serializer=TwilioCallSerializer(stream, socket),
            # The token in the stream's start says who connects.
            allowed_origins=[],
        ),
    )


def _message(data: str | bytes) -> dict[str, Any]:
    if isinstance(data, str) and len(data) <= _MAX_MESSAGE:
        return read_message(data)
    return {}


def _is_sound(message: dict[str, Any]) -> bool:
    media = message.get("media")
    if message.get("event") != "media" or not isinstance(media, dict):
        return False
    payload = media.get("payload")
    if media.get("track", "inbound") != "inbound" or not isinstance(payload, str):
        return False
    try:
        return 0 < len(payload) <= _MAX_PAYLOAD and bool(base64.b64decode(payload, validate=True))
    except (binascii.Error, ValueError):
        return False
