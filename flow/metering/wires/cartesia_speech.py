"""Cartesia's text to speech over a WebSocket of several contexts, one a turn of the bot.

https://docs.cartesia.ai/api-reference/tts/websocket has the messages. About a credit is billed for
each character of a transcript, and none for what failed (https://docs.cartesia.ai/pricing).

A context takes transcripts, its inputs, which are spoken one after another. ``cancel`` halts those
"that have not begun generating a response yet"; one that is being spoken goes on to its end, and so
does its sound (https://docs.cartesia.ai/use-the-api/tts-websocket/contexts). So what was cancelled
is read on until the vendor has no more to say of it, and what it has then not begun is not billed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flow.domain.usage.events import Quantities
from flow.metering.evidence import (
    Completed,
    Ended,
    Opening,
    Output,
    Sent,
    Unbilled,
    Uncertain,
)
from flow.metering.sound import RawSound, base64_size
from flow.metering.wires.cartesia_messages import failure_in, number_in, raw_sound, text_in
from flow.metering.wires.reader import parsed
from flow.metering.wires.socket import Begun, Closing, Message, Over, Seen, Shown

MAY_HAVE_BEGUN = "the vendor may have begun on text of which no sound had come"
NOT_TOLD_APART = "the vendor does not tell on how much of the text it had begun"


@dataclass(slots=True)
class Context:
    """One turn of the bot, from its first input to ``done``.

    Args:
        sound: measures what is made of it; ``None`` for a format of unknown size.
        is_buffered: whether the vendor gathers inputs, and speaks them as it likes.
        outlives: the contexts that were cancelled before this one began.
    """

    sound: RawSound | None
    is_buffered: bool
    outlives: Sequence[str]
    inputs: list[int] = field(default_factory=list)
    """The characters of each. The first `begun` of them have been heard of, and of these the first
    `spoken` are at their end."""
    begun: int = 0
    spoken: int = 0
    is_told_apart: bool = False
    is_cancelled: bool = False

    def hears_of(self, flush_id: int, *, is_end: bool = False) -> None:
        """Sound has come of an input, or its end; 0 where the vendor does not say of which."""
        self.is_told_apart = self.is_told_apart or (flush_id > 0 and not self.is_buffered)
        begun = flush_id if self.is_told_apart else len(self.inputs)
        self.begun = max(self.begun, begun)
        if is_end and self.is_told_apart:
            self.spoken = max(self.spoken, flush_id)


class CartesiaSpeech:
    """Reads one connection; its URL says nothing that is needed."""

    expects_report = False

    def __init__(self, _url: str) -> None:
        self._contexts: dict[str, Context] = {}

    def sent(self, message: Message) -> Iterator[Seen]:
        """An input is counted; one without text ends its context."""
        said = parsed(message)
        if not isinstance(said, Mapping) or (name := text_in(said, "context_id")) is None:
            return
        context = self._contexts.get(name)
        if said.get("cancel") is True:
            if context is not None:
                context.is_cancelled = True
        elif text := text_in(said, "transcript"):
            given = Quantities(characters=len(text))
            if context is not None:
                yield Shown(name, Sent(given))
            else:
                context = self._contexts[name] = self._begun(said)
                model = text_in(said, "model_id")
                yield Begun(name, Opening(given, sent=given, model=model, stream=True))
            context.inputs.append(len(text))

    def received(self, message: Message) -> Iterator[Seen]:
        """Sound of an input, its end, the end of its context, or an error."""
        said = parsed(message)
        if not isinstance(said, Mapping):
            return
        name = self._name(said)
        context = self._contexts.get(name)
        if context is None:
            return
        match said.get("type"):
            case "chunk":
                context.hears_of(number_in(said, "flush_id"))
                yield Shown(name, Output(audio_seconds=_seconds(context, said)))
            case "flush_done":
                context.hears_of(number_in(said, "flush_id"), is_end=True)
            case "done":
                yield from self._done(name, context)
            case "error":
                del self._contexts[name]
                yield from _unbilled(name, context.inputs[context.spoken :])
                yield Over(name, Ended.BROKEN, failure_in(said))

    def closed(self, closing: Closing) -> Iterator[Seen]:
        """Nothing is said of closing: it is taken for a cancel of all that is open."""
        for name, context in self._contexts.items():
            yield from _halted(name, context, is_told=False)
        self._contexts.clear()

    def _begun(self, said: Mapping[str, Any]) -> Context:
        return Context(
            sound=raw_sound(said.get("output_format")),
            is_buffered=said.get("max_buffer_delay_ms") != 0,
            outlives=[name for name, context in self._contexts.items() if context.is_cancelled],
        )

    def _name(self, said: Mapping[str, Any]) -> str:
        """The context that a message is of; an error need not say."""
        name = text_in(said, "context_id")
        if name is None and said.get("type") == "error" and len(self._contexts) == 1:
            (name,) = self._contexts
        return name or ""

    def _done(self, name: str, context: Context) -> Iterator[Seen]:
        if context.is_cancelled:
            yield from self._abandoned(name)
        else:
            del self._contexts[name]
            yield Shown(name, Completed())
            yield Over(name, Ended.DONE)
        # A later turn has been spoken in the meantime: of these nothing more will come.
        for earlier in context.outlives:
            yield from self._abandoned(earlier)

    def _abandoned(self, name: str) -> Iterator[Seen]:
        context = self._contexts.pop(name, None)
        if context is not None:
            yield from _halted(name, context, is_told=True)
            yield Over(name, Ended.ABANDONED)


def _halted(name: str, context: Context, *, is_told: bool) -> Iterator[Seen]:
    """What of an interrupted context is billed all the same.

    Args:
        is_told: whether the vendor has sent all that it is going to.
    """
    rest = context.inputs[context.begun :]
    is_blurred = context.is_buffered or (context.begun > 0 and not context.is_told_apart)
    if is_blurred and not (is_told and not context.begun):
        yield Shown(name, Uncertain(NOT_TOLD_APART))
        return
    if rest and not is_told:
        yield Shown(name, Uncertain(MAY_HAVE_BEGUN))
        is_speaking = context.begun > context.spoken
        rest = rest if is_speaking else rest[1:]
    yield from _unbilled(name, rest)


def _unbilled(name: str, inputs: Sequence[int]) -> Iterator[Seen]:
    if inputs:
        yield Shown(name, Unbilled(Quantities(characters=sum(inputs))))


def _seconds(context: Context, said: Mapping[str, Any]) -> Any:
    size = base64_size(text_in(said, "data") or "")
    return None if context.sound is None else context.sound.more(size)
