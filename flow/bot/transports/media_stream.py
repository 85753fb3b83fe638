"""The WebSocket of a telephone company's media stream, as the transport of one call."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as Xml

from pipecat.audio.utils import create_stream_resampler
from pipecat.serializers.base_serializer import FrameSerializer
from pipecat.transports.base_transport import BaseTransport

from flow.bot.transports.spec import MediaStreamSpec
from flow.bot.transports.websocket import LONGEST_CHUNK_SECS
from flow.domain.calls.media_stream import MediaStream
from flow.errors import InvalidInput

SAMPLE_RATE = 8_000
MAX_START_CHARACTERS = 16_384

# https://www.w3.org/TR/xml/#charsets
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MAX_PAYLOAD = 4 * -(-SAMPLE_RATE * LONGEST_CHUNK_SECS // 3)
_MAX_MESSAGE = _MAX_PAYLOAD + 2_048


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


def bounded_message(data: str | bytes) -> dict[str, Any]:
    """One message of a running stream; one that is longer than any sound is an empty message."""
    if isinstance(data, str) and len(data) <= _MAX_MESSAGE:
        return read_message(data)
    return {}


def is_sound(message: dict[str, Any]) -> bool:
    """Whether a message is sound of the caller's."""
    media = object_of(message, "media")
    payload = media.get("payload")
    if message.get("event") != "media" or not isinstance(payload, str):
        return False
    if media.get("track", "inbound") != "inbound":
        return False
    try:
        return 0 < len(payload) <= _MAX_PAYLOAD and bool(base64.b64decode(payload, validate=True))
    except (binascii.Error, ValueError):
        return False


def is_key(message: dict[str, Any]) -> bool:
    """Whether a message says that the caller has pressed a key."""
    pressed = text_of(object_of(message, "dtmf"), "digit")
    return message.get("event") == "dtmf" and len(pressed) == 1 and pressed in "0123456789*#"


def require_format(start: dict[str, Any], expected: Mapping[str, object]) -> None:
    """Raise `InvalidInput` for the start of a stream that is of other sound than telephones'."""
    sound = object_of(start, "mediaFormat")
    if any(sound.get(name) != value for name, value in expected.items()):
        raise InvalidInput("The stream is not of 8 kHz mu-law sound.")


def object_of(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """A field that is an object; what is none is an empty one."""
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def text_of(fields: dict[str, Any], name: str) -> str:
    """A field that is a text; what is none is an empty one."""
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def speakable(text: str) -> str:
    """A text without what no XML can have, which models and customers may give all the same."""
    return _NOT_XML.sub(" ", text)


def document_of(response: Xml.Element) -> bytes:
    """XML as a webhook answers it."""
    document: bytes = Xml.tostring(response, encoding="utf-8", xml_declaration=True)
    return document
