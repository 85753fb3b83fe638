"""Deepgram's speech to text over a WebSocket: Nova (``/v1/listen``) and Flux (``/v2/listen``).

The seconds of sound that were sent are billed, silence included, times the channels that are
heard apart, and one second at least a connection, also where nothing was sent; ``KeepAlive`` is
free. Nova says at the end, after ``CloseStream``, how much it has taken; Flux never does.
(developers.deepgram.com/docs/audio-keep-alive, .../docs/close-stream, .../docs/flux/close-stream,
community.deepgram.com/answers/en/billing-zero-transmitted-data-1317275304300908664)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import httpx2

from flow.metering.sound import compressed_seconds
from flow.metering.wires.deepgram_format import number, raw_sound
from flow.metering.wires.reader import failed_in_answer, parsed, told_seconds, unreadable
from flow.metering.wires.socket import Closing, Message, Seen
from flow.metering.wires.streamed_audio import StreamedAudio

DEFAULT_RATE = 16_000
LEAST_SECS = Decimal(1)


class _Listening:
    """Counts the sound of one connection.

    Args:
        url: the model and the format of the sound are in its query.
    """

    def __init__(self, url: str) -> None:
        query = httpx2.URL(url).params
        self._sound = raw_sound(query, DEFAULT_RATE)
        is_multichannel = query.get("multichannel", "").lower() == "true"
        self._channels = number(query, "channels", 1) if is_multichannel else 1
        self._audio = StreamedAudio(_billed_model(query), least=LEAST_SECS * self._channels)
        self._is_left = False

    def sent(self, message: Message) -> Iterator[Seen]:
        """Count sound, and nothing else."""
        if isinstance(message, bytes) and message:
            yield from self._audio.sent(self._seconds(len(message)) * self._channels)
        elif not message or _type_of(parsed(message)) == "CloseStream":
            self._is_left = True

    def received(self, message: Message) -> Iterator[Seen]:
        """Note what is recognized."""
        said = parsed(message)
        if not isinstance(said, Mapping):
            yield from self._audio.failed(unreadable("a message").failure)
        elif _type_of(said) == "Error":
            told = failed_in_answer(said.get("code") or said.get("variant"))
            yield from self._audio.failed(told.failure)
        else:
            yield from self._heard(said)

    def closed(self, closing: Closing) -> Iterator[Seen]:
        """All is counted that was sent, or that the vendor says it has taken."""
        # After a CloseStream the vendor is the one that closes.
        yield from self._audio.closed(Closing(closing.code, closing.by_us or self._is_left))

    def _heard(self, said: Mapping[str, Any]) -> Iterator[Seen]:
        raise NotImplementedError

    def _seconds(self, size: int) -> Decimal:
        return compressed_seconds(size) if self._sound is None else self._sound.more(size)


class DeepgramListen(_Listening):
    """Reads one connection to Nova."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._is_told = False

    @property
    def expects_report(self) -> bool:
        """Whether the stream is being closed, and its ``Metadata`` is still to come."""
        return self._is_left and not self._is_told

    def _heard(self, said: Mapping[str, Any]) -> Iterator[Seen]:
        match said:
            case {"type": "Results", "channel": {"alternatives": [{"transcript": str(text)}, *_]}}:
                if text:
                    yield from self._audio.heard()
            case {"type": "Metadata"}:
                # One that comes before the end does not say all.
                self._is_told = self._is_left
                if (seconds := told_seconds(said.get("duration"))) is not None:
                    channels = said.get("channels")
                    times = max(channels, 1) if isinstance(channels, int) else self._channels
                    self._audio.told(seconds * times)


class DeepgramFlux(_Listening):
    """Reads one connection to Flux."""

    expects_report = False

    def _heard(self, said: Mapping[str, Any]) -> Iterator[Seen]:
        if _type_of(said) == "TurnInfo" and said.get("transcript"):
            yield from self._audio.heard()


def _type_of(said: Any) -> Any:
    return said.get("type") if isinstance(said, Mapping) else None


def _billed_model(query: Mapping[str, str]) -> str | None:
    """The model, by the name that prices know: in several languages at once it costs more."""
    model = query.get("model")
    is_multilingual = query.get("language", "").lower() == "multi"
    return f"{model}-multilingual" if model and is_multilingual else model
