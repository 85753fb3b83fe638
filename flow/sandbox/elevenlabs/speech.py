"""Text to speech in several contexts over one WebSocket.

Characters are billed as they are taken. Text is spoken when there is enough of it, or when it is
flushed; a context that is closed speaks what it has, and says then that it is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from flow.sandbox.bill import Bill
from flow.sandbox.elevenlabs.connection import POLICY_VIOLATION, Connection, Failure, sample_rate
from flow.sandbox.elevenlabs.context import Context, Voice
from flow.sandbox.elevenlabs.dialects import Dialect
from flow.sandbox.openai.speech import Speak
from flow.sandbox.speech.voice_pace import VoicePace

MOST_CONTEXTS = 5
"""A connection has no more at a time."""
USUAL_TIMEOUT_SECS, LONGEST_TIMEOUT_SECS = 20.0, 180.0


class Speaking:
    """One connection.

    Args:
        bill: gets a line for each context that is given text.
    """

    def __init__(
        self, connection: Connection, dialect: Dialect, bill: Bill, speak: Speak, pace: VoicePace
    ) -> None:
        query = connection.query
        self._connection = connection
        self._bill = bill
        self._timeout = _timeout(query.get("inactivity_timeout", ""))
        self._voice = Voice(
            connection,
            dialect,
            model=query.get("model_id", "eleven_multilingual_v2"),
            sample_rate=sample_rate(query.get("output_format", ""), "pcm") or 0,
            speak=speak,
            pace=pace,
        )
        self._contexts: dict[str, Context] = {}

    async def serve(self) -> None:
        """Speak until one side closes.

        Raises:
            Failure: the vendor closes.
        """
        self._check()
        try:
            await self._obey_all()
        except TimeoutError:
            waited = f"Have not received a new text input within the timeout of {self._timeout} s."
            raise Failure("input_timeout_exceeded", waited) from None
        finally:
            await asyncio.gather(*(context.drop() for context in self._contexts.values()))

    def _check(self) -> None:
        if not self._voice.dialect.serves(self._voice.model):
            raise Failure("unsupported_model", f"'{self._voice.model}' is not served here.")
        if not self._voice.sample_rate:
            raise Failure("output_format_not_allowed", "This stand-in speaks 'pcm_...' alone.")

    async def _obey_all(self) -> None:
        async for message in self._connection.messages(self._timeout):
            if message is None:
                raise Failure("invalid_message", "The message received is not a JSON object.")
            if message.get("close_socket") is True:
                await self._finish()
                return
            self._obey(message)

    async def _finish(self) -> None:
        """Speak what there is, unless the client does not wait for it, and close."""
        spoken = asyncio.create_task(self._speak_all())
        left = asyncio.create_task(self._connection.gone())
        await asyncio.wait([spoken, left], return_when=asyncio.FIRST_COMPLETED)
        is_spoken = spoken.done()
        for task in (spoken, left):
            task.cancel()
        await asyncio.gather(spoken, left, return_exceptions=True)
        if is_spoken:
            await self._connection.close()

    async def _speak_all(self) -> None:
        await asyncio.gather(*(context.finish() for context in list(self._contexts.values())))

    def _obey(self, message: Mapping[str, Any]) -> None:
        name = message.get("context_id", "")
        if not isinstance(name, str):
            raise Failure("invalid_message", "The context_id is no text.")
        context = self._contexts.get(name)
        text = self._voice.dialect.text(message, is_open=context is not None)
        if text is None:
            return
        if context is None:
            context = self._open(name)
        context.take(text)
        if message.get("flush") is True:
            context.flush()
        if message.get("close_context") is True:
            context.close()

    def _open(self, name: str) -> Context:
        if len(self._contexts) == MOST_CONTEXTS:
            raise Failure(
                "max_active_conversations",
                "Maximum simultaneous contexts per WebSocket connection exceeded"
                f" ({MOST_CONTEXTS}). Please close an existing context before opening a new one.",
            )
        context = Context(name, self._voice, self._bill, self._contexts.pop)
        self._contexts[name] = context
        return context


def error_message(failure: Failure) -> dict[str, Any]:
    """What is said before the connection is closed."""
    return {"message": str(failure), "error": failure.kind, "code": POLICY_VIOLATION}


def _timeout(told: str) -> float:
    secs = float(told) if told.replace(".", "", 1).isdecimal() else USUAL_TIMEOUT_SECS
    return min(secs, LONGEST_TIMEOUT_SECS)
