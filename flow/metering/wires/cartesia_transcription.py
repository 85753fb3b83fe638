"""Cartesia's speech to text over WebSockets, which bill the seconds of sound, silence included
(https://docs.cartesia.ai/pricing).

``/stt/websocket`` transcribes when it is told to ``finalize``
(https://docs.cartesia.ai/api-reference/stt/stt), and ``/stt/turns/websocket`` tells the caller's
turns by itself (https://docs.cartesia.ai/api-reference/stt/turns/websocket). Neither says how much
it has heard: a transcript's ``duration`` is that of the sound behind it, not of all sound, and
``done``, the last word, has none. So there is nothing to hold a close for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl, urlsplit

from flow.metering.sound import RawSound
from flow.metering.wires.cartesia_messages import failure_in, raw_sound, text_in
from flow.metering.wires.reader import parsed, unreadable
from flow.metering.wires.socket import Closing, Message, Seen
from flow.metering.wires.streamed_audio import StreamedAudio

USUAL_RATE = 16_000
TEXT_FIELDS = {
    "transcript": "text",
    "turn.update": "transcript",
    "turn.eager_end": "transcript",
    "turn.end": "transcript",
}
"""By type of message, where the text is."""


class CartesiaTranscription:
    """Reads one connection.

    Args:
        url: as dialled; its query names the model and the format of the sound.
    """

    expects_report = False

    def __init__(self, url: str) -> None:
        query = dict(parse_qsl(urlsplit(url).query))
        self._audio = StreamedAudio(query.get("model"))
        self._sound = raw_sound(query) or RawSound(USUAL_RATE)
        self._is_accepted = False
        self._is_refused = False

    def sent(self, message: Message) -> Iterator[Seen]:
        """Sound is counted; text is a command."""
        if isinstance(message, bytes) and not self._is_refused:
            yield from self._audio.sent(self._sound.more(len(message)))

    def received(self, message: Message) -> Iterator[Seen]:
        """Text, the state of the turn, or an error.

        The vendor checks some of what was asked for only when the connection is open. An error in
        place of its first word refuses all of it.
        """
        said = parsed(message)
        if not isinstance(said, Mapping):
            yield from self._audio.failed(unreadable("a message").failure)
        elif said.get("type") != "error":
            self._is_accepted = True
            if text_in(said, TEXT_FIELDS.get(str(said.get("type")), "")):
                yield from self._audio.heard()
        elif self._is_accepted:
            yield from self._audio.failed(failure_in(said))
        else:
            self._is_refused = True
            yield from self._audio.refused(failure_in(said))

    def closed(self, closing: Closing) -> Iterator[Seen]:
        """What is left of the sound is the last piece."""
        yield from self._audio.closed(closing)
