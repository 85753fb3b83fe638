"""Twilio's media streams: how a stream says what call it carries.

The messages are described at https://www.twilio.com/docs/voice/media-streams/websocket-messages.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from flow.errors import InvalidInput

SAMPLE_RATE = 8_000
MAX_START_CHARACTERS = 16_384

_CALL_SID = re.compile(r"CA[0-9a-f]{32}")
_STREAM_SID = re.compile(r"MZ[0-9a-f]{32}")
_FORMAT = {"encoding": "audio/x-mulaw", "sampleRate": SAMPLE_RATE, "channels": 1}


@dataclass(frozen=True, slots=True)
class MediaStream:
    """A stream that has started: its own id, its call's, and the token that it brought."""

    stream_sid: str
    call_sid: str
    token: str


def read_message(text: str) -> dict[str, Any]:
    """One message of a stream; what is not a JSON object is an empty message."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def is_call_sid(text: str) -> bool:
    """Whether this is the id of a Twilio call. It becomes part of a URL, so no other is used."""
    return _CALL_SID.fullmatch(text) is not None


def started(text: str) -> MediaStream | None:
    """The start of a stream, or ``None`` for the ``connected`` that comes before it.

    Raises:
        InvalidInput: it is neither of them, or a stream of some other sound.
    """
    message = read_message(text) if len(text) <= MAX_START_CHARACTERS else {}
    if message.get("event") == "connected":
        return None
    start = message.get("start")
    if message.get("event") != "start" or not isinstance(start, dict):
        raise InvalidInput("The stream does not begin as Twilio's do.")
    stream_sid, call_sid = _text(start, "streamSid"), _text(start, "callSid")
    if not _STREAM_SID.fullmatch(stream_sid) or not is_call_sid(call_sid):
        raise InvalidInput("The stream does not say which call it is of.")
    sound = _object(start, "mediaFormat")
    if any(sound.get(name) != value for name, value in _FORMAT.items()):
        raise InvalidInput("The stream is not of 8 kHz mu-law sound.")
    return MediaStream(stream_sid, call_sid, _text(_object(start, "customParameters"), "token"))


def _object(fields: dict[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""
