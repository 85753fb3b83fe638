"""The WebSocket of a telephone company's media stream, as the transport of one call."""

from __future__ import annotations

import json
from typing import Any

from pipecat.audio.utils import create_stream_resampler
from pipecat.serializers.base_serializer import FrameSerializer
from pipecat.transports.base_transport import BaseTransport

from flow.bot.transports.spec import MediaStreamSpec
from flow.domain.calls.media_stream import MediaStream


class MediaSocket:
    """An accepted WebSocket that is over for its reader as soon as its carrier has said so.

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


def media_stream_transport(
    spec: MediaStreamSpec, websocket: Any, stream: MediaStream
) -> BaseTransport:
    """A transport over an accepted Starlette ``WebSocket`` whose ``stream`` has started."""
    from pipecat.transports.websocket.fastapi import (
        FastAPIWebsocketParams,
        FastAPIWebsocketTransport,
    )

    socket: Any = MediaSocket(websocket)
    serializer = spec.serializer(stream, socket.stop)
    _quicken(serializer)
    return FastAPIWebsocketTransport(
        websocket=socket,
        params=FastAPIWebsocketParams(
            audio_in_enabled=True,
            audio_out_enabled=True,
            serializer=serializer,
            # The token in the stream's start says who connects.
            allowed_origins=[],
        ),
    )


def _quicken(serializer: FrameSerializer) -> None:
    """Have a serializer change sample rates without keeping sound back.

    The filters of Pipecat's usual quality hold up to 150 ms of it, each way; a telephone has none
    of the frequencies that they are so careful with.
    """
    for name in ("_input_resampler", "_output_resampler"):
        if hasattr(serializer, name):
            setattr(serializer, name, create_stream_resampler(quality="LQ"))


def read_message(text: str) -> dict[str, Any]:
    """One message of a stream; what is not a JSON object is an empty message."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}
