"""OpenAI's speech and transcription over HTTP.

Speech (platform.openai.com/docs/api-reference/audio/createSpeech) reports nothing unless it is
streamed as events; its characters are in the request, and its seconds in the sound. A
transcription (.../createTranscription) reports ``usage``: of tokens for the gpt-4o models, of
seconds for whisper-1.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import replace
from email.message import Message
from typing import Any

from flow.domain.usage.events import Quantities
from flow.domain.usage.vendor_reports import Counting, from_openai_usage
from flow.metering.evidence import Completed, Evidence, Opening, Output, Reported
from flow.metering.sound import SpeakingPace, compressed_seconds, pcm_seconds, seconds_of
from flow.metering.wires.json_exchange import JsonExchange, report, within
from flow.metering.wires.reader import HttpAnswer, HttpRequest, parsed, told_seconds, unreadable
from flow.metering.wires.server_sent_events import EventStream

SPEECH_PATH = "/audio/speech"
TRANSCRIPTION_PATHS = ("/audio/transcriptions", "/audio/translations")
TEXT_FORMATS = (b"text", b"srt", b"vtt")
"""The formats of a transcription that hold nothing but it, and no usage."""
PCM_RATE = 24_000
"""Speech in the format ``pcm`` is 16-bit mono of this many samples a second."""


class OpenAISpeech:
    """Reads text to speech. It learns how fast the voice speaks, for sentences that are cut off."""

    def __init__(self) -> None:
        self._pace = SpeakingPace()

    def open(self, request: HttpRequest) -> SpeechExchange | None:
        """An exchange for every ``POST .../audio/speech``."""
        if request.method != "POST" or not request.path.endswith(SPEECH_PATH):
            return None
        return SpeechExchange(request.json, self._pace)


class SpeechExchange:
    """One text and its sound."""

    def __init__(self, request: Mapping[str, Any], pace: SpeakingPace) -> None:
        text, model = request.get("input"), request.get("model")
        self._characters = len(text) if isinstance(text, str) else 0
        self._is_pcm = request.get("response_format") == "pcm"
        self._pace = pace
        self._bytes = 0
        self._events: EventStream | None = None
        sent = Quantities(characters=self._characters)
        self.opening = Opening(
            estimate=sent.replaced(audio_seconds=pace.seconds(self._characters)),
            sent=sent,
            model=model if isinstance(model, str) else None,
            stream=True,
        )

    def answered(self, answer: HttpAnswer) -> Iterator[Evidence]:
        """Tell events from plain sound."""
        if answer.is_event_stream:
            self._events = EventStream()
        yield from ()

    def body(self, data: bytes) -> Iterator[Evidence]:
        """Count the sound in it."""
        if self._events is None:
            yield from self._sound(data)
            return
        for event in self._events.feed(data):
            yield from self._event(parsed(event.data))

    def end(self) -> Iterator[Evidence]:
        """The sound is whole, and teaches the pace."""
        if self._events is not None:
            for event in self._events.end():
                yield from self._event(parsed(event.data))
        elif self._bytes:
            yield Completed()
        else:
            yield unreadable("the sound")
        if self._is_pcm and self._bytes:
            self._pace.learn(self._characters, pcm_seconds(self._bytes, PCM_RATE))

    def _sound(self, data: bytes) -> Iterator[Evidence]:
        if not data:
            return
        before, self._bytes = self._bytes, self._bytes + len(data)
        if not self._is_pcm:
            yield Output(audio_seconds=None)
            return
        # Of all so far: the parts of a sound, each rounded, would not add up to it.
        seconds = pcm_seconds(self._bytes, PCM_RATE) - pcm_seconds(before, PCM_RATE)
        yield Output(audio_seconds=seconds)

    def _event(self, event: Any) -> Iterator[Evidence]:
        if not isinstance(event, Mapping):
            yield unreadable("an event of the stream")
        elif event.get("type") == "speech.audio.delta":
            yield from self._sound(_decoded(event.get("audio")))
        elif event.get("type") == "speech.audio.done":
            if isinstance(usage := event.get("usage"), Mapping):
                for told in report(from_openai_usage(usage), Counting.GROSS):
                    spoken = told.quantities.count("output_tokens")
                    quantities = told.quantities.replaced(output_audio_tokens=spoken)
                    yield replace(told, quantities=quantities)
            yield Completed()


class OpenAITranscription:
    """Reads speech to text, of whole segments."""

    def open(self, request: HttpRequest) -> TranscriptionExchange | None:
        """An exchange for every ``POST .../audio/transcriptions`` or ``.../translations``."""
        if request.method != "POST" or not request.path.endswith(TRANSCRIPTION_PATHS):
            return None
        return TranscriptionExchange(form_fields(request))


class TranscriptionExchange(JsonExchange):
    """One segment of sound and its text."""

    def __init__(self, fields: Mapping[str, bytes]) -> None:
        sound = fields.get("file", b"")
        seconds = seconds_of(sound)
        guess = compressed_seconds(len(sound)) if seconds is None else seconds
        super().__init__(
            Opening(
                estimate=Quantities(audio_seconds=guess),
                sent=Quantities(audio_seconds=seconds or 0),
                model=fields.get("model", b"").decode("utf-8", "replace") or None,
                stream=fields.get("stream", b"").lower() == b"true",
            )
        )
        self._is_json = fields.get("response_format") not in TEXT_FORMATS
        self._is_counted = seconds is not None

    def _event(self, event: Mapping[str, Any]) -> Iterator[Evidence]:
        if event.get("type") == "transcript.text.delta":
            yield Output()
        elif event.get("type") == "transcript.text.done":
            yield from self._reported(event)
            yield Completed()

    def _whole(self, answer: Any) -> Iterator[Evidence]:
        is_transcript = isinstance(answer, Mapping) and "text" in answer
        if self._is_json and not is_transcript:
            yield unreadable("the transcript")
            return
        yield Output()
        if self._is_json:
            yield from self._reported(answer)
        yield Completed()

    def _reported(self, answer: Mapping[str, Any]) -> Iterator[Reported]:
        usage = answer.get("usage")
        if isinstance(usage, Mapping) and usage.get("type") != "duration":
            yield from report(from_openai_usage(usage), Counting.GROSS)
            return
        seconds = told_seconds(within(usage, "seconds"))
        if seconds is None and not self._is_counted:  # verbose_json tells how long the sound is
            seconds = told_seconds(answer.get("duration"))
        if seconds is not None:
            yield Reported(Quantities(audio_seconds=seconds))


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(text) if isinstance(text, str) else b""
    except ValueError:
        return b""


def form_fields(request: HttpRequest) -> dict[str, bytes]:
    """The fields of a ``multipart/form-data`` body, each by its name."""
    whole = Message()
    whole["content-type"] = request.headers.get("content-type", "")
    boundary = whole.get_boundary()
    if whole.get_content_type() != "multipart/form-data" or not boundary:
        return {}
    fields: dict[str, bytes] = {}
    mark = b"--" + boundary.encode()
    for part in request.body.split(mark):
        head, found, value = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = _name_in(head)
        if found and name:
            fields[name] = value.removesuffix(b"\r\n")
    return fields


def _name_in(head: bytes) -> str | None:
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-disposition:"):
            for item in line.split(b";")[1:]:
                key, _, value = item.strip().partition(b"=")
                if key.lower() == b"name":
                    return value.strip(b'"').decode("utf-8", "replace")
    return None
