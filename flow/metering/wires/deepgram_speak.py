"""Deepgram's text to speech over a WebSocket (``/v1/speak``).

Characters are what is billed, and nothing comes back that counts them: they are counted in each
``Speak``. The connection has no ids: sound comes in the order in which texts were flushed, so the
texts up to one ``Flush`` are one piece of work, which its ``Flushed`` ends. ``Clear`` drops what
has not been spoken yet; nothing says that it is not billed, so it is.
(developers.deepgram.com/docs/tts-websocket, .../tts-ws-flush, .../tts-ws-clear)
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from flow.domain.usage.events import Quantities
from flow.metering.evidence import Completed, Ended, Opening, Output, Sent
from flow.metering.wires.deepgram_format import raw_sound
from flow.metering.wires.reader import failed_in_answer, parsed, unreadable
from flow.metering.wires.socket import Begun, Closing, Message, Over, Seen, Shown

DEFAULT_RATE = 24_000
"""Samples a second where a connection asks for none."""
_PRONUNCIATION = re.compile(
    r'\\\{"word":\s*("(?:[^"\\]|\\.)*"),\s*"pronounce":\s*"(?:[^"\\]|\\.)*"\\\}'
)
"""An inline pronunciation. Of it the word is billed and the pronunciation is not."""


def billed_characters(text: str) -> int:
    """How many characters of a text Deepgram bills: all, spaces too, but no pronunciations."""
    return len(_PRONUNCIATION.sub(_pronounced, text))


def _pronounced(found: re.Match[str]) -> str:
    """The word of an inline pronunciation; all of what only looks like one."""
    word = parsed(found[1])
    return word if isinstance(word, str) else found[0]


class DeepgramSpeak:
    """Reads one connection.

    Args:
        url: the model, which is the voice, and the format of the sound are in its query.
    """

    expects_report = False

    def __init__(self, url: str) -> None:
        query = httpx2.URL(url).params
        self._model = query.get("model")
        self._sound = raw_sound(query, DEFAULT_RATE)
        self._begun = 0
        self._filling: int | None = None
        """The piece that takes more text, as long as it is not flushed."""
        self._flushed: deque[int] = deque()
        """Those whose sound is still to come, or on its way."""
        self._cleared = _Cleared()

    def sent(self, message: Message) -> Iterator[Seen]:
        """Count texts, and tell where one piece ends and the next begins."""
        said = parsed(message) if isinstance(message, str) else None
        if not isinstance(said, Mapping):
            return
        match said.get("type"):
            case "Speak" if isinstance(text := said.get("text"), str):
                yield from self._speak(billed_characters(text))
            case "Flush" if self._filling is not None:
                self._flushed.append(self._filling)
                self._filling = None
            case "Clear":
                yield from self._clear()

    def received(self, message: Message) -> Iterator[Seen]:
        """Measure sound, and end the pieces that are spoken."""
        if isinstance(message, bytes):
            work = self._speaking
            if work is not None and not self._cleared.is_under_way:
                seconds = None if self._sound is None else self._sound.more(len(message))
                yield Shown(work, Output(audio_seconds=seconds))
            return
        said = parsed(message)
        if not isinstance(said, Mapping):
            yield from self._failed(unreadable("a message"))
            return
        match said.get("type"):
            case "Flushed":
                if not self._cleared.owns_flushed() and self._flushed:
                    work = self._flushed.popleft()
                    yield Shown(work, Completed())
                    yield Over(work, Ended.DONE)
            case "Cleared":
                self._cleared.end()
            case "Error":
                yield from self._failed(failed_in_answer(said.get("code") or said.get("err_code")))

    def closed(self, _: Closing) -> Iterator[Seen]:
        """What is open by now was cut off."""
        yield from ()

    @property
    def _speaking(self) -> int | None:
        """The piece that sound which comes now is of: long texts are spoken before the flush."""
        return self._flushed[0] if self._flushed else self._filling

    def _speak(self, characters: int) -> Iterator[Seen]:
        quantities = Quantities(characters=characters)
        if self._filling is not None:
            yield Shown(self._filling, Sent(quantities))
            return
        self._begun += 1
        self._filling = self._begun
        yield Begun(
            self._filling,
            Opening(estimate=quantities, sent=quantities, model=self._model, stream=True),
        )

    def _clear(self) -> Iterator[Seen]:
        self._cleared.begin(len(self._flushed))
        filling = () if self._filling is None else (self._filling,)
        for work in (*self._flushed, *filling):
            yield Over(work, Ended.ABANDONED)
        self._flushed.clear()
        self._filling = None

    def _failed(self, failed: Any) -> Iterator[Seen]:
        if (work := self._speaking) is not None:
            yield Shown(work, failed)


@dataclass(slots=True)
class _Cleared:
    """What is still to come of work that a ``Clear`` has ended.

    Until its ``Cleared``, sound is of that work, and so is the ``Flushed`` of every ``Flush`` that
    went before it.
    """

    waiting: int = 0
    flushed: int = 0

    def begin(self, flushed: int) -> None:
        self.waiting += 1
        self.flushed += flushed

    def end(self) -> None:
        self.waiting = max(self.waiting - 1, 0)
        if not self.waiting:
            self.flushed = 0

    @property
    def is_under_way(self) -> bool:
        return self.waiting > 0

    def owns_flushed(self) -> bool:
        """Whether a ``Flushed`` that comes now is of what was cleared."""
        if self.is_under_way and self.flushed:
            self.flushed -= 1
            return True
        # It belongs to a later text: the vendor is past the clearing, whatever it said.
        self.waiting = self.flushed = 0
        return False
