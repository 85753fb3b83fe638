"""``WS /v1/speech-to-text/realtime``: sound to text while it is spoken.

https://elevenlabs.io/docs/api-reference/speech-to-text/v-1-speech-to-text-realtime
Every second of sound is billed, silence too. What was said becomes final when the client commits
it; this stand-in does not commit by itself (``commit_strategy=vad``).
"""

from __future__ import annotations

import asyncio
import binascii
from base64 import b64decode
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from flow.sandbox.bill import Bill, Line
from flow.sandbox.elevenlabs.connection import Connection, Failure
from flow.sandbox.elevenlabs.segment import Segment, SoundFormat
from flow.sandbox.openai.transcription import Hear

LEAST_COMMIT_SECS = 0.3
PARTIAL_SECS = 0.5
"""How much more has to be heard for another partial transcript."""


class Listening:
    """One connection. Sound is billed as it arrives, and recognized by a task of its own.

    Args:
        bill: gets a line if there is sound.
        idle_secs: how long a client may say nothing.
    """

    def __init__(self, connection: Connection, bill: Bill, hear: Hear, idle_secs: float) -> None:
        self._connection = connection
        self._bill = bill
        self._hear = hear
        self._idle_secs = idle_secs
        self._model = connection.query.get("model_id", "")
        self._line: Line | None = None
        self._size = 0
        self._committed_size = 0
        self._work: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def serve(self) -> None:
        """Listen until one side closes.

        Raises:
            Failure: the vendor closes.
        """
        sound_format = self._checked()
        await self._connection.send(self._started(sound_format))
        try:
            await self._listen(sound_format)
        finally:
            if self._line is not None:
                self._bill.close(self._line, "complete")

    async def _listen(self, sound_format: SoundFormat) -> None:
        recognizing = asyncio.create_task(self._recognize(sound_format))
        try:
            async for message in self._connection.messages(self._idle_secs):
                await self._take(message, sound_format)
        except TimeoutError:
            raise Failure("insufficient_audio_activity", "No audio was received.") from None
        finally:
            recognizing.cancel()
            await asyncio.gather(recognizing, return_exceptions=True)

    def _checked(self) -> SoundFormat:
        query = self._connection.query
        sound_format = SoundFormat.named(query.get("audio_format", "pcm_16000"))
        if not self._model.startswith("scribe"):
            raise Failure("invalid_request", f"There is no model '{self._model}'.")
        if sound_format is None:
            raise Failure("invalid_request", "The audio format is not supported.")
        if query.get("commit_strategy", "manual") != "manual":
            raise Failure("invalid_request", "This stand-in commits when it is told to, alone.")
        return sound_format

    def _started(self, sound_format: SoundFormat) -> dict[str, Any]:
        config = {
            "sample_rate": sound_format.sample_rate,
            "audio_format": sound_format.name,
            "language_code": self._connection.query.get("language_code"),
            "commit_strategy": "manual",
            "model_id": self._model,
            "include_timestamps": self._asks("include_timestamps"),
            "include_language_detection": self._asks("include_language_detection"),
        }
        return {"message_type": "session_started", "session_id": uuid4().hex, "config": config}

    async def _take(self, message: Mapping[str, Any] | None, sound_format: SoundFormat) -> None:
        if message is None or message.get("message_type") != "input_audio_chunk":
            raise Failure("input_error", "The message is no input_audio_chunk.")
        try:
            sound = b64decode(message["audio_base_64"], validate=True)
        except (KeyError, TypeError, binascii.Error):
            raise Failure("input_error", "The audio is not encoded in base64.") from None
        if sound:
            self._charge(len(sound), sound_format)
            self._work.put_nowait(sound_format.pcm16(sound))
        if message.get("commit") is True:
            await self._commit(sound_format)

    def _charge(self, size: int, sound_format: SoundFormat) -> None:
        if self._line is None:
            self._line = self._connection.line("stt", self._model)
            self._bill.start(self._line)
        self._size += size
        self._line.amounts.audio_seconds = sound_format.seconds(self._size)

    async def _commit(self, sound_format: SoundFormat) -> None:
        uncommitted = sound_format.seconds(self._size - self._committed_size)
        if uncommitted < LEAST_COMMIT_SECS:
            said = f"Commit request ignored: only {uncommitted:.2f}s of uncommitted audio."
            await self._connection.send(error_message(Failure("commit_throttled", said)))
            return
        self._committed_size = self._size
        self._work.put_nowait(None)

    async def _recognize(self, sound_format: SoundFormat) -> None:
        rate = sound_format.sample_rate
        segment, unheard = Segment(rate), 0
        while True:
            if (pcm16 := await self._work.get()) is not None:
                segment.add(pcm16)
                unheard += len(pcm16)
                if segment.has_speech and unheard >= 2 * rate * PARTIAL_SECS:
                    unheard = 0
                    text = await self._text(segment, rate)
                    await self._result("partial_transcript", text)
                continue
            text = await self._text(segment, rate)
            await self._result("committed_transcript", text)
            if self._asks("include_timestamps") or self._asks("include_language_detection"):
                more = self._details(text, len(segment.pcm16) / (2 * rate))
                await self._result("committed_transcript_with_timestamps", text, **more)
            segment, unheard = Segment(rate), 0

    async def _text(self, segment: Segment, rate: int) -> str:
        if not segment.has_speech:
            return ""
        return await asyncio.to_thread(self._hear, segment.pcm16, rate)

    async def _result(self, kind: str, text: str, **more: Any) -> None:
        await asyncio.sleep(self._connection.result_delay_secs)
        await self._connection.send({"message_type": kind, "text": text, **more})

    def _details(self, text: str, lasted: float) -> dict[str, Any]:
        language = self._connection.query.get("language_code", "en")
        if not self._asks("include_timestamps"):
            return {"language_code": language, "words": None}
        words = text.split()
        each = lasted / max(len(words), 1)
        timed = [
            {"text": word, "start": n * each, "end": (n + 1) * each, "type": "word", "logprob": 0.0}
            for n, word in enumerate(words)
        ]
        return {"language_code": language, "words": timed}

    def _asks(self, name: str) -> bool:
        return self._connection.query.get(name) == "true"


def error_message(failure: Failure) -> dict[str, Any]:
    """What is said of an error; mostly the connection is closed then."""
    return {"message_type": failure.kind, "error": str(failure)}
