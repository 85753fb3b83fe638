"""``WS /tts/websocket``: text to speech in several contexts at once.

https://docs.cartesia.ai/api-reference/tts/websocket has the messages. Buffering is not played: an
input is spoken as soon as those before it are, as with ``"max_buffer_delay_ms": 0``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flow.sandbox.bill import Bill
from flow.sandbox.cartesia.connection import (
    UNKNOWN_MODEL,
    Connection,
    Refused,
    invalid,
    json_object,
)
from flow.sandbox.cartesia.speech_context import Sound, SpeechContext
from flow.sandbox.openai.speech import Speak
from flow.sandbox.speech.voice_pace import VoicePace

IDLE_SECS = 300.0
"""https://docs.cartesia.ai/use-the-api/concurrency-limits-and-timeouts"""


class Voice(BaseModel):
    """Who speaks."""

    model_config = ConfigDict(extra="allow")

    mode: Literal["id"] = "id"
    id: str = Field(min_length=1)


class OutputFormat(BaseModel):
    """What sound is wanted; this stand-in makes 16-bit samples alone."""

    container: Literal["raw"]
    encoding: Literal["pcm_s16le"]
    sample_rate: Literal[8000, 16000, 22050, 24000, 44100, 48000]


Terms = tuple[str, Voice, OutputFormat]


class Input(BaseModel):
    """A text to speak in a context, as far as the stand-in minds it."""

    model_config = ConfigDict(extra="allow")

    context_id: str = Field(min_length=1)
    model_id: str = Field(min_length=1)
    transcript: str
    voice: Voice
    output_format: OutputFormat
    is_continued: bool = Field(False, alias="continue")

    @property
    def terms(self) -> Terms:
        """What all inputs of a context have to agree on."""
        return (self.model_id, self.voice, self.output_format)


class Speaking:
    """One connection."""

    def __init__(self, connection: Connection, bill: Bill, speak: Speak, pace: VoicePace) -> None:
        self._connection = connection
        self._bill = bill
        self._speak = speak
        self._pace = pace
        self._contexts: dict[str, SpeechContext] = {}
        self._terms: dict[str, Terms] = {}

    async def serve(self) -> None:
        """Speak until one side closes."""
        try:
            async for message in self._connection.messages(IDLE_SECS):
                await self._obey(json_object(message))
        finally:
            await asyncio.gather(*(context.drop() for context in list(self._contexts.values())))

    async def _obey(self, said: Mapping[str, Any]) -> None:
        name = said.get("context_id")
        context = self._contexts.get(name) if isinstance(name, str) else None
        try:
            if said.get("cancel") is not True:
                self._take(parsed_input(said), context)
            elif context is not None:
                context.cancel()
        except Refused as refused:
            if context is not None:
                context.fail(refused.problem)
            else:
                told = {"context_id": name} if isinstance(name, str) else {}
                await self._connection.send_error(refused.problem, done=True, **told)

    def _take(self, asked: Input, context: SpeechContext | None) -> None:
        if context is None:
            context = self._begun(asked)
        elif self._terms[asked.context_id] != asked.terms:
            raise Refused(invalid("context_id"))
        context.take(asked.transcript, is_last=not asked.is_continued)

    def _begun(self, asked: Input) -> SpeechContext:
        name = asked.context_id
        self._terms[name] = asked.terms
        self._contexts[name] = context = SpeechContext(
            name,
            self._connection,
            Sound(self._speak, asked.output_format.sample_rate, self._pace),
            self._bill,
            self._connection.line("tts", asked.model_id, billed_by="characters"),
            on_end=lambda: self._ended(name),
        )
        return context

    def _ended(self, name: str) -> None:
        del self._contexts[name], self._terms[name]


def parsed_input(said: Mapping[str, Any]) -> Input:
    """The input in a message.

    Raises:
        Refused: something is wrong with it.
    """
    try:
        asked = Input.model_validate(said)
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise Refused(invalid(field)) from None
    if not asked.model_id.startswith("sonic"):
        raise Refused(UNKNOWN_MODEL)
    return asked
