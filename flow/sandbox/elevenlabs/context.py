"""One context of text to speech: text that is spoken in one go, and its line of the bill."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from flow.sandbox.bill import Bill, Line
from flow.sandbox.elevenlabs.connection import Connection
from flow.sandbox.elevenlabs.dialects import Aligned, Dialect
from flow.sandbox.openai.speech import Speak
from flow.sandbox.speech.voice_pace import VoicePace, paced


@dataclass(frozen=True, slots=True)
class Voice:
    """How the contexts of one connection are spoken.

    Args:
        sample_rate: of the sound, 16-bit mono.
        pace: how fast its sound comes.
    """

    connection: Connection
    dialect: Dialect
    model: str
    sample_rate: int
    speak: Speak
    pace: VoicePace


class Context:
    """What is said under one ``context_id``.

    Args:
        bill: gets a line if there is text.
        on_final: told when all is spoken.
    """

    def __init__(
        self, name: str, voice: Voice, bill: Bill, on_final: Callable[[str], object]
    ) -> None:
        self._name = name
        self._voice = voice
        self._bill = bill
        self._on_final = on_final
        self._line: Line | None = None
        self._buffer = ""
        self._to_say: asyncio.Queue[str | None] = asyncio.Queue()
        self._is_closing = False
        self._speaking = asyncio.create_task(self._say())

    def take(self, text: str) -> None:
        """More is to be spoken. The blank that opens a context is not."""
        if self._is_closing or (self._line is None and not text.strip()):
            return
        if self._line is None:
            self._line = self._voice.connection.line("tts", self._voice.model)
            self._bill.start(self._line)
        self._line.amounts.characters += len(text)
        self._buffer += text
        if self._voice.dialect.is_enough(self._buffer):
            self.flush()

    def flush(self) -> None:
        """Speak what there is."""
        if self._buffer:
            self._to_say.put_nowait(self._buffer)
        self._buffer = ""

    def close(self) -> None:
        """Speak what there is, and no more."""
        if not self._is_closing:
            self._is_closing = True
            self.flush()
            self._to_say.put_nowait(None)

    async def finish(self) -> None:
        """Close, and return when all is spoken."""
        self.close()
        await self._speaking

    async def drop(self) -> None:
        """The connection is gone."""
        self._speaking.cancel()
        await asyncio.gather(self._speaking, return_exceptions=True)
        if self._line is not None:
            self._bill.close(self._line, "disconnected")

    async def _say(self) -> None:
        while (text := await self._to_say.get()) is not None:
            await self._sound(text)
        # Closed first: whoever has heard that it is done may look at the bill.
        if self._line is not None:
            self._bill.close(self._line, "complete")
        self._on_final(self._name)
        await self._voice.connection.send(self._voice.dialect.final(self._name))

    async def _sound(self, text: str) -> None:
        voice = self._voice
        pcm = await asyncio.to_thread(voice.speak, text, sample_rate=voice.sample_rate)
        heard = 0
        async for chunk in paced(pcm, voice.sample_rate, voice.pace):
            await asyncio.sleep(voice.connection.result_delay_secs)
            first, heard = len(text) * heard // len(pcm), heard + len(chunk)
            said = text[first : len(text) * heard // len(pcm)]
            aligned = Aligned(chunk, said, len(chunk) / (2 * voice.sample_rate))
            await voice.connection.send(voice.dialect.sound(self._name, aligned))
        if (told := voice.dialect.spoken(self._name)) is not None:
            await voice.connection.send(told)
