"""``WS /v1/speak``: text to speech.

Texts are buffered; whole sentences are spoken as they come, the rest at a ``Flush``. Characters
are billed as they are received, whatever becomes of them.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid5

from flow.sandbox.bill import Bill, Line
from flow.sandbox.deepgram.connection import (
    CloseReason,
    Connection,
    Message,
    Refused,
    number,
    parsed,
)
from flow.sandbox.openai.speech import Speak, seconds
from flow.sandbox.speech.voice_pace import VoicePace, paced

_MODEL_IDS = UUID("0c6b4b0d-6f5c-4e9e-8f5c-6a3f0a8a4a11")
_SENTENCES = re.compile(r".*[.!?](?=\s)", re.DOTALL)
_INLINE_PRONUNCIATION = re.compile(r"\\(\{.*?\\\})")


class Speaking:
    """One connection.

    Args:
        bill: gets a line for the texts up to each flush.
    """

    def __init__(self, connection: Connection, bill: Bill, speak: Speak, pace: VoicePace) -> None:
        self._connection = connection
        self._bill = bill
        self._speak = speak
        self._pace = pace
        slow = connection.hits.of("slow_tokens")
        self._chunk_delay = slow.delay_secs if slow else 0.0
        self._model = connection.query.get("model", "aura-asteria-en")
        self._rate = number(connection.query, "sample_rate", 24_000)
        if connection.query.get("encoding", "linear16") != "linear16":
            raise Refused(400, "This stand-in speaks 'linear16' alone.")
        if not self._model.startswith("aura"):
            raise Refused(400, f"No such model/version combination found: {self._model}.")
        self._buffer = ""
        self._line: Line | None = None
        self._to_say: asyncio.Queue[str | _Flush] = asyncio.Queue()
        self._unspoken: list[Line] = []
        self._sequence = 0

    async def serve(self) -> None:
        """Speak until one side closes."""
        await self._connection.send(self._metadata())
        voice = asyncio.create_task(self._say())
        try:
            async for message in self._connection.messages():
                if (said := parsed(message)) is None:
                    await self._reject(message)
                elif said.get("type") == "Clear":
                    voice.cancel()
                    await asyncio.gather(voice, return_exceptions=True)
                    self._drop()
                    await self._connection.send(self._numbered("Cleared"))
                    voice = asyncio.create_task(self._say())
                else:
                    await self._obey(said)
        finally:
            voice.cancel()
            await asyncio.gather(voice, return_exceptions=True)
            self._drop()

    async def _obey(self, said: Mapping[str, Any]) -> None:
        match said.get("type"):
            case "Speak" if isinstance(text := said.get("text"), str):
                self._take(text)
            case "Flush":
                self._flush()
            case "Close":
                await self._connection.close()
            case other:
                await self._connection.send(
                    {
                        "type": "Warning",
                        "description": f"Unknown message type: {other}",
                        "code": "UNKNOWN_MESSAGE",
                    }
                )

    def _take(self, text: str) -> None:
        if self._line is None:
            self._line = self._new_line()
            self._bill.start(self._line)
            self._unspoken.append(self._line)
        self._line.amounts.characters += _billed(text)
        self._buffer += _spoken(text)
        if whole := _SENTENCES.match(self._buffer):
            self._to_say.put_nowait(whole[0])
            self._buffer = self._buffer[whole.end() :]

    def _flush(self) -> None:
        if self._buffer.strip():
            self._to_say.put_nowait(self._buffer)
        self._buffer = ""
        self._to_say.put_nowait(_Flush(self._line))
        self._line = None

    def _drop(self) -> None:
        self._buffer, self._line = "", None
        self._to_say = asyncio.Queue()
        while self._unspoken:
            self._bill.close(self._unspoken.pop(), "disconnected")

    async def _say(self) -> None:
        queue = self._to_say
        while True:
            item = await queue.get()
            if isinstance(item, str):
                await self._sound(item)
                continue
            # Closed first: whoever has heard that it is done may look at the bill.
            if item.line is not None:
                self._unspoken.pop(0)
                self._bill.close(item.line, "complete")
            await self._connection.send(self._numbered("Flushed"))

    async def _sound(self, text: str) -> None:
        pcm = await asyncio.to_thread(self._speak, text, sample_rate=self._rate)
        line = self._unspoken[0] if self._unspoken else None
        async for chunk in paced(pcm, self._rate, self._pace):
            await asyncio.sleep(self._chunk_delay)
            if line is not None:
                line.amounts.audio_seconds += seconds(chunk, self._rate)
            await self._connection.send(chunk)

    async def _reject(self, message: Message) -> None:
        is_binary = isinstance(message, bytes)
        await self._connection.close(
            CloseReason.NOT_TEXT if is_binary else CloseReason.UNREADABLE_DATA
        )

    def _new_line(self) -> Line:
        return Line(
            request_id=self._connection.request_id,
            kind="tts",
            model=self._model,
            requested_model=self._model,
            headers=self._connection.exchange.headers,
            stream=True,
            billed_by=("characters",),
        )

    def _numbered(self, kind: str) -> dict[str, Any]:
        self._sequence += 1
        return {"type": kind, "sequence_id": self._sequence - 1}

    def _metadata(self) -> dict[str, Any]:
        return {
            "type": "Metadata",
            "request_id": self._connection.request_id,
            "model_name": self._model,
            "model_version": "2026-03-04.0",
            "model_uuid": str(uuid5(_MODEL_IDS, self._model)),
        }


@dataclass(frozen=True, slots=True)
class _Flush:
    """All text before it is to be spoken, which is ``line`` on the bill."""

    line: Line | None


def _inline(found: re.Match[str]) -> str:
    """The word of an inline pronunciation, ``\\{"word": ..., "pronounce": ...\\}``."""
    try:
        word = json.loads(found[1].replace("\\}", "}"))["word"]
    except (ValueError, KeyError, TypeError):
        return found[0]
    return str(word)


def _spoken(text: str) -> str:
    return _INLINE_PRONUNCIATION.sub(_inline, text)


def _billed(text: str) -> int:
    """Every character of a text, spaces too; of an inline pronunciation the word alone.

    developers.deepgram.com/docs/tts-pronunciation
    """
    return len(_spoken(text))
