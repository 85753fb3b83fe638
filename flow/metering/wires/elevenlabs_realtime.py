"""ElevenLabs' speech to text over a WebSocket: ``/v1/speech-to-text/realtime``
(https://elevenlabs.io/docs/api-reference/speech-to-text/v-1-speech-to-text-realtime).

It bills the seconds of the sound that it is sent, silence included, and tells no amounts. An error
in place of its first word refuses all of it, which costs nothing.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any

from flow.metering.sound import RawSound
from flow.metering.wires.reader import failed_in_answer, parsed, unreadable
from flow.metering.wires.socket import Closing, Message, Seen, query_value
from flow.metering.wires.streamed_audio import StreamedAudio

USUAL_RATE = 16_000
TRANSCRIPTS = ("partial_transcript", "committed_transcript", "committed_transcript_with_timestamps")
COMPLAINTS = ("commit_throttled",)
"""Errors after which the vendor goes on listening."""


class ElevenLabsRealtime:
    """Reads one connection.

    Args:
        url: as dialled; its query names the model and the format of the sound.
    """

    expects_report = False

    def __init__(self, url: str) -> None:
        self._audio = StreamedAudio(query_value(url, "model_id"))
        self._sound = raw_sound(query_value(url, "audio_format"))
        self._is_started = False
        self._is_refused = False

    def sent(self, message: Message) -> Iterator[Seen]:
        """Sound is counted. A chunk that commits what was said has mostly none."""
        said = None if self._is_refused else parsed(message)
        if isinstance(said, Mapping) and said.get("message_type") == "input_audio_chunk":
            size = decoded_size(said.get("audio_base_64"))
            yield from self._audio.sent(self._sound.more(size))

    def received(self, message: Message) -> Iterator[Seen]:
        """Text, or an error, after which the vendor mostly closes."""
        said = parsed(message)
        if not isinstance(said, Mapping):
            yield from self._audio.failed(unreadable("a message").failure)
            return
        kind = said.get("message_type")
        if kind in TRANSCRIPTS and said.get("text"):
            yield from self._audio.heard()
        elif "error" in said and not self._is_started:
            self._is_refused = True
            yield from self._audio.refused(failed_in_answer(kind).failure)
        elif "error" in said and kind not in COMPLAINTS:
            yield from self._audio.failed(failed_in_answer(kind).failure)
        self._is_started = self._is_started or "error" not in said

    def closed(self, closing: Closing) -> Iterator[Seen]:
        """What is left of the sound is the last piece."""
        yield from self._audio.closed(closing)


def raw_sound(audio_format: str | None) -> RawSound:
    """What measures sound in a format such as ``pcm_16000`` (the default, 16 bits a sample) or
    ``ulaw_8000`` (8 bits), of one channel."""
    coding, _, rate = (audio_format or "").partition("_")
    samples = int(rate) if rate.isdecimal() and int(rate) else USUAL_RATE
    return RawSound(samples, sample_bytes=1 if coding == "ulaw" else 2)


def decoded_size(text: Any) -> int:
    """How many bytes a base64 text holds; none if it is not one."""
    try:
        return len(b64decode(text, validate=True)) if isinstance(text, str) else 0
    except ValueError:
        return 0
