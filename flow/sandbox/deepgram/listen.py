"""``WS /v1/listen``: speech to text by Nova.

developers.deepgram.com/reference/speech-to-text/listen-streaming
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from flow.sandbox.bill import Bill
from flow.sandbox.deepgram.connection import CloseReason, Connection, Message, parsed
from flow.sandbox.deepgram.hearing import Answers, HearingPace, Listening
from flow.sandbox.openai.transcription import Hear
from flow.sandbox.speech.speech_finder import SpeechFinder, Started, Stretch

IDLE_SECS = 10.0
"""Without sound or ``KeepAlive``, the connection is closed."""


class Nova:
    """One connection.

    Args:
        idle_secs: as `IDLE_SECS`, for tests that do not wait as long.

    Raises:
        Refused: the query asks for what there is not.
    """

    def __init__(
        self,
        connection: Connection,
        bill: Bill,
        hear: Hear,
        pace: HearingPace,
        idle_secs: float = IDLE_SECS,
    ) -> None:
        self._connection = connection
        self._sound = Listening(connection, bill, hear)
        self._pace = pace
        self._idle_secs = idle_secs
        self._channels = [
            _Channel(n, self._sound.rate, pace) for n in range(self._sound.heard_channels)
        ]
        query = connection.query
        self._interims = query.get("interim_results") == "true"
        self._events = query.get("vad_events") == "true"
        self._utterance_end = int(query.get("utterance_end_ms", 0)) / 1000

    async def serve(self) -> None:
        """Listen until one side closes."""
        self._sound.begin()
        answers = Answers()
        try:
            await self._listen(answers)
        except TimeoutError:
            await self._connection.close(CloseReason.NO_DATA)
        finally:
            await answers.drop()
            self._sound.end()

    async def _listen(self, answers: Answers) -> None:
        async for message in self._connection.messages(self._idle_secs):
            if isinstance(message, bytes) and message:
                self._hear(message, answers)
            elif (said := _command(message)) is None:
                await self._connection.close(CloseReason.UNREADABLE_DATA)
            elif said.get("type") == "CloseStream":
                self._finalize(answers, from_finalize=False)
                await answers.finish()
                if not self._connection.hits.of("no_usage"):
                    await self._connection.send(self._metadata())
                    await self._connection.close()
            elif said.get("type") == "Finalize":
                self._finalize(answers, from_finalize=True)
            elif said.get("type") != "KeepAlive":
                await self._connection.send(_error(said))

    def _hear(self, sound: bytes, answers: Answers) -> None:
        self._sound.take(sound)
        for channel, samples in zip(self._channels, self._apart(sound), strict=True):
            for found in channel.finder.feed(samples):
                if isinstance(found, Started):
                    channel.begin(found.at)
                    if self._events:
                        event = {"type": "SpeechStarted", "timestamp": found.at}
                        answers.add(partial(self._event, channel, event))
                else:
                    self._answer(answers, channel, found, speech_final=True)
            if self._interims and (guess := channel.next_interim()) is not None:
                self._answer(answers, channel, guess, is_final=False)
            if channel.utterance_is_over(self._utterance_end):
                event = {"type": "UtteranceEnd", "last_word_end": round(channel.last_end, 3)}
                answers.add(partial(self._event, channel, event))

    def _finalize(self, answers: Answers, *, from_finalize: bool) -> None:
        for channel in self._channels:
            at = channel.finder.seconds
            found = channel.finder.cut()
            if found is not None or from_finalize:
                self._answer(
                    answers,
                    channel,
                    found or Stretch(channel.last_end, at, b""),
                    speech_final=found is not None,
                    from_finalize=from_finalize,
                    delay_secs=self._pace.final,
                )

    def _answer(
        self,
        answers: Answers,
        channel: _Channel,
        stretch: Stretch,
        *,
        is_final: bool = True,
        speech_final: bool = False,
        from_finalize: bool = False,
        delay_secs: float = 0.0,
    ) -> None:
        if is_final:
            channel.last_end = stretch.end
        flags = {
            "is_final": is_final,
            "speech_final": speech_final,
            "from_finalize": from_finalize,
        }
        answers.add(partial(self._result, channel, stretch, flags), delay_secs)

    async def _result(self, channel: _Channel, stretch: Stretch, flags: Mapping[str, bool]) -> None:
        text = await self._sound.words(stretch) if stretch.pcm16 else ""
        model = self._connection.query["model"]
        await self._connection.send(
            {
                "type": "Results",
                "channel_index": [channel.number, len(self._channels)],
                "start": round(stretch.start, 6),
                "duration": round(stretch.end - stretch.start, 6),
                **flags,
                "channel": {"alternatives": [alternative(text, stretch)]},
                "metadata": {
                    "request_id": self._connection.request_id,
                    "model_info": {"name": model, "version": "2026-01-10.0", "arch": "nova-3"},
                    "model_uuid": "2b8a3d9e-3f2f-4f0e-9df4-1b1d3a3f4b7e",
                },
            }
        )

    async def _event(self, channel: _Channel, event: Mapping[str, Any]) -> None:
        of = {"channel": [channel.number, len(self._channels)]}
        await self._connection.send({**event, **of})

    def _metadata(self) -> dict[str, Any]:
        return {
            "type": "Metadata",
            "transaction_key": "deprecated",
            "request_id": self._connection.request_id,
            "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "duration": float(self._sound.duration),
            "channels": self._sound.heard_channels,
        }

    def _apart(self, sound: bytes) -> list[bytes]:
        """The samples of each channel that is heard: of one, the mean of all."""
        if self._sound.channels == 1:
            return [sound]
        width = 2 * self._sound.channels
        samples = np.frombuffer(sound[: len(sound) // width * width], dtype=np.int16)
        frames = samples.reshape(-1, self._sound.channels)
        if not self._sound.is_multichannel:
            return [frames.mean(axis=1).astype(np.int16).tobytes()]
        return [frames[:, n].tobytes() for n in range(self._sound.channels)]


class _Channel:
    """One channel that is heard, and how far it has been answered."""

    def __init__(self, number: int, rate: int, pace: HearingPace) -> None:
        self.number = number
        self.finder = SpeechFinder(rate, pace.final)
        self.last_end = 0.0
        self._interim_secs = pace.interim
        self._next_interim = 0.0
        self._is_uttering = False

    def begin(self, at: float) -> None:
        """Somebody begins to speak."""
        self._next_interim = at + self._interim_secs
        self._is_uttering = True

    def next_interim(self) -> Stretch | None:
        """What is to be guessed at now."""
        if self.finder.seconds < self._next_interim or (guess := self.finder.current) is None:
            return None
        self._next_interim = self.finder.seconds + self._interim_secs
        return guess

    def utterance_is_over(self, after_secs: float) -> bool:
        """Whether the utterance has just come to its end; only where ``after_secs`` are told."""
        is_silent = self.finder.current is None and self.finder.silent_secs >= after_secs
        if not after_secs or not self._is_uttering or not is_silent:
            return False
        self._is_uttering = False
        return True


def alternative(text: str, stretch: Stretch) -> dict[str, Any]:
    """A transcript, with its words spread evenly over the time."""
    return {
        "transcript": text,
        "confidence": 0.99 if text else 0.0,
        "words": list(_words(text, stretch)),
    }


def _words(text: str, stretch: Stretch) -> Iterator[dict[str, Any]]:
    words = text.split()
    each = (stretch.end - stretch.start) / max(len(words), 1)
    for n, word in enumerate(words):
        start = stretch.start + n * each
        yield {
            "word": word.strip(".,;:?!").lower(),
            "start": round(start, 3),
            "end": round(start + each, 3),
            "confidence": 0.99,
            "punctuated_word": word,
        }


def _command(message: Message) -> Mapping[str, Any] | None:
    """What a text says; an empty message of bytes is an old way to close the stream."""
    return {"type": "CloseStream"} if message == b"" else parsed(message)


def _error(said: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "Error",
        "variant": "UNPARSABLE_CLIENT_MESSAGE",
        "description": f"Unknown message type: {said.get('type')}",
    }
