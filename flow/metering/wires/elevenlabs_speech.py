"""ElevenLabs' text to speech over a WebSocket of several contexts, one a turn of the bot.

Two endpoints speak nearly the same: ``/v1/text-to-speech/{voice}/multi-stream-input``
(https://elevenlabs.io/docs/api-reference/text-to-speech/v-1-text-to-speech-voice-id-multi-stream-input)
and ``/v1/text-to-dialogue/multi-stream-input``, which serves Eleven v3 and v4.

It bills the characters that it is given to speak and tells no amounts. What becomes of text that
was not spoken when its context was closed, it does not say: all that was sent counts. Only what it
says no to on a connection where it has not spoken yet, such as a key, a model, a voice or a used up
quota, costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flow.domain.usage.events import Failure, Quantities
from flow.metering.evidence import Completed, Ended, Noted, Opening, Output, Sent, Unbilled
from flow.metering.wires.reader import failed_in_answer, parsed, unreadable
from flow.metering.wires.socket import (
    Begun,
    Closing,
    Message,
    Over,
    Refused,
    Seen,
    Shown,
    Work,
    query_value,
)


@dataclass(slots=True)
class Context:
    """One text and its sound, from ``context_id`` to ``isFinal``.

    Letters alone are compared, for not every blank or sign is in the vendor's alignment. ``voiced``
    is ``None`` once there was sound of which the vendor did not say what it says.
    """

    characters: int = 0
    letters: int = 0
    voiced: int | None = 0

    @property
    def unvoiced(self) -> int:
        """How many letters are known not to have been spoken."""
        return 0 if self.voiced is None else max(self.letters - self.voiced, 0)


class ElevenLabsSpeech:
    """Reads one connection.

    Args:
        url: as dialled; its query names the model.
    """

    expects_report = False

    def __init__(self, url: str) -> None:
        self._model = query_value(url, "model_id")
        self._contexts: dict[str, Context] = {}
        self._has_spoken = False

    def sent(self, message: Message) -> Iterator[Seen]:
        """Text is counted; a blank that opens a context and keep-alives are not speech."""
        said = parsed(message)
        if not isinstance(said, Mapping):
            return
        name = _name(said.get("context_id"))
        text = _text(said)
        context = self._contexts.get(name)
        if context is None and text.strip():
            context = self._contexts[name] = Context()
            given = Quantities(characters=len(text))
            yield Begun(name, Opening(given, sent=given, model=self._model, stream=True))
        elif context is not None and text:
            yield Shown(name, Sent(Quantities(characters=len(text))))
        if context is not None:
            context.characters += len(text)
            context.letters += _letters(text)

    def received(self, message: Message) -> Iterator[Seen]:
        """Sound, the end of a context, or an error, after which the vendor closes."""
        said = parsed(message)
        if not isinstance(said, Mapping):
            yield from (Shown(name, unreadable("a message")) for name in self._contexts)
            return
        name = _name(said.get("contextId") or said.get("context_id"))
        if isinstance(error := said.get("error"), str) and error:
            yield from self._failed(failed_in_answer(error).failure)
            return
        self._has_spoken = self._has_spoken or bool(said.get("audio"))
        if (context := self._contexts.get(name)) is None:
            return
        if said.get("audio"):
            _hear(context, said)
            yield Shown(name, Output())
        elif said.get("isFinal") is True or said.get("is_final") is True:
            yield from self._final(name, context)

    def abandoned(self, work: Work) -> Iterator[Seen]:
        """The caller interrupts. On the wire a context is closed then as it is at the end of a
        turn, or was already: its sound comes all the same, and nobody hears it."""
        if isinstance(work, str) and (context := self._contexts.pop(work, None)) is not None:
            yield from _note(work, context)
            yield Over(work, Ended.ABANDONED)

    def closed(self, closing: Closing) -> Iterator[Seen]:
        """What is open has no sound yet, or not all of it."""
        for name, context in self._contexts.items():
            yield from _note(name, context)
        self._contexts.clear()

    def _final(self, name: str, context: Context) -> Iterator[Seen]:
        del self._contexts[name]
        yield from _note(name, context)
        yield Shown(name, Completed())
        yield Over(name, Ended.DONE)

    def _failed(self, failure: Failure) -> Iterator[Seen]:
        if not self._contexts:
            yield Refused(failure)
        for name, context in self._contexts.items():
            if not self._has_spoken:
                yield Shown(name, Unbilled(Quantities(characters=context.characters)))
            yield Over(name, Ended.BROKEN, failure)
        self._contexts.clear()


def _note(name: str, context: Context) -> Iterator[Seen]:
    if context.unvoiced:
        said = (
            f"{context.voiced} of {context.letters} letters were spoken; all that were sent count"
        )
        yield Shown(name, Noted(said))


def _hear(context: Context, said: Mapping[str, Any]) -> None:
    alignment = said.get("alignment")
    characters = alignment.get("chars") if isinstance(alignment, Mapping) else None
    if not isinstance(characters, list):
        context.voiced = None
    elif context.voiced is not None:
        context.voiced += sum(_letters(one) for one in characters if isinstance(one, str))


def _text(said: Mapping[str, Any]) -> str:
    inputs = said.get("inputs")
    parts = [said, *inputs] if isinstance(inputs, list) else [said]
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return "".join(text for text in texts if isinstance(text, str))


def _letters(text: str) -> int:
    return sum(character.isalnum() for character in text)


def _name(told: Any) -> str:
    """A context may have no name: it is the connection's own then."""
    return told if isinstance(told, str) else ""
