"""One context: its inputs are spoken one after another, until it is done, cancelled or has failed.

An input is billed when its first sound goes out, unless it fails before its end. A cancel halts
those of which nothing has gone out; the one that is being spoken goes on
(https://docs.cartesia.ai/use-the-api/tts-websocket/contexts). Whoever just leaves pays for the one
that is being generated, too, whose first sound is still to come.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

from flow.sandbox.bill import Bill, Line, Outcome
from flow.sandbox.cartesia.connection import Connection, Problem, Refused
from flow.sandbox.openai.speech import Speak, seconds
from flow.sandbox.speech.voice_pace import VoicePace, paced

PARTIAL, WHOLE = 206, 200
FAULT = Problem(500, "internal_error", "Internal error", "The stand-in was told to fail.")


class SpeechContext:
    """A context of one connection.

    Args:
        name: the client's id of it.
        sound: makes the sound of a text.
        line: what it costs.
        on_end: told when nothing more will be said in it.
    """

    def __init__(
        self,
        name: str,
        connection: Connection,
        sound: Sound,
        bill: Bill,
        line: Line,
        on_end: Callable[[], None],
    ) -> None:
        self._name = name
        self._connection = connection
        self._sound = sound
        self._bill = bill
        self._line = line
        self._on_end = on_end
        self._inputs: asyncio.Queue[str | None] = asyncio.Queue()
        self._generated: str | None = None
        """The input whose sound is being made, and of which none has gone out."""
        self._current: str | None = None
        """The input of which sound has gone out, and not all of it."""
        self._begun = 0
        self._chunks = 0
        self._problem: Problem | None = None
        self._is_halted = False
        self._is_dropped = False
        self._voice: asyncio.Task[None] | None = None
        bill.start(line)
        self._work = asyncio.create_task(self._run())

    def take(self, text: str, *, is_last: bool) -> None:
        """Another input comes; one without text is only the end."""
        if text:
            self._inputs.put_nowait(text)
        if is_last:
            self._inputs.put_nowait(None)

    def cancel(self) -> None:
        """Begin nothing any more."""
        while not self._inputs.empty():
            self._inputs.get_nowait()
        self._inputs.put_nowait(None)
        if self._current is None:
            self._halt()

    def fail(self, problem: Problem) -> None:
        """Say what is wrong, and no more."""
        self._problem = problem
        self._halt()

    async def drop(self) -> None:
        """The client has gone."""
        self._is_dropped = True
        if self._generated is not None:
            self._begin(self._generated)
        self._halt()
        await self._work

    def _halt(self) -> None:
        self._is_halted = True
        if self._voice is not None:
            self._voice.cancel()

    async def _run(self) -> None:
        if not self._is_halted:
            self._voice = asyncio.create_task(self._speak_all())
            await asyncio.wait([self._voice])
        outcome: Outcome = "disconnected" if self._is_halted else "complete"
        if self._problem is not None:
            outcome = "failed"
            self._line.amounts.characters -= len(self._current or "")
        # Closed first: whoever has heard that it is done may look at the bill.
        self._bill.close(self._line, outcome)
        self._on_end()
        if self._problem is not None:
            await self._connection.send_error(self._problem, done=True, context_id=self._name)
        elif not self._is_dropped:
            await self._send("done", done=True, status_code=WHOLE)

    async def _speak_all(self) -> None:
        try:
            while (text := await self._inputs.get()) is not None:
                await self._speak(text)
        except Refused as refused:
            self._problem = refused.problem

    async def _speak(self, text: str) -> None:
        starts_at = self._line.amounts.audio_seconds
        self._generated = text
        pcm = await self._sound.of(text)
        async for chunk in self._sound.paced(pcm):
            await asyncio.sleep(self._connection.result_delay_secs)
            is_first = self._current is None
            if is_first:
                self._begin(text)
            await self._send_chunk(chunk)
            if is_first:
                await self._send_words(text, float(starts_at), float(self._sound.seconds(pcm)))
        if self._current is None:  # there is nothing to hear in it
            self._begin(text)
        self._current = None
        await self._send("flush_done", done=False, flush_done=True, flush_id=self._begun)

    def _begin(self, text: str) -> None:
        self._generated, self._current = None, text
        self._begun += 1
        self._line.amounts.characters += len(text)

    async def _send_chunk(self, chunk: bytes) -> None:
        if self._chunks == self._connection.fails_after:
            raise Refused(FAULT)
        self._chunks += 1
        self._line.amounts.audio_seconds += self._sound.seconds(chunk)
        data = b64encode(chunk).decode()
        await self._send("chunk", done=False, data=data, step_time=20.0, flush_id=self._begun)

    async def _send_words(self, text: str, starts_at: float, lasts: float) -> None:
        """Words take time by their letters."""
        words = text.split()
        each = lasts / max(sum(map(len, words)), 1)
        starts = [starts_at + each * sum(map(len, words[:n])) for n in range(len(words))]
        ends = [start + each * len(word) for start, word in zip(starts, words, strict=True)]
        told = {"words": words, "start": starts, "end": ends}
        await self._send("timestamps", done=False, word_timestamps=told, flush_id=self._begun)

    async def _send(self, kind: str, *, status_code: int = PARTIAL, **fields: Any) -> None:
        common = {"type": kind, "context_id": self._name, "status_code": status_code}
        await self._connection.send({**common, **fields})


class Sound:
    """Sound as an input asks for it: 16-bit mono samples, at a voice's pace."""

    def __init__(self, speak: Speak, sample_rate: int, pace: VoicePace) -> None:
        self._speak = speak
        self._rate = sample_rate
        self._pace = pace

    async def of(self, text: str) -> bytes:
        """All samples of a text."""
        return await asyncio.to_thread(self._speak, text, sample_rate=self._rate)

    def paced(self, pcm16: bytes) -> AsyncIterator[bytes]:
        """Chunks, each when it is due."""
        return paced(pcm16, self._rate, self._pace)

    def seconds(self, pcm16: bytes) -> Decimal:
        """How long samples last."""
        return seconds(pcm16, self._rate)
