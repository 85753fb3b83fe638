"""``WS /v2/listen``: speech to text by Flux, which tells turns.

developers.deepgram.com/docs/flux/state and .../reference/speech-to-text/listen-flux
"""

from __future__ import annotations

from functools import partial
from typing import Any

from flow.sandbox.bill import Bill
from flow.sandbox.deepgram.connection import CloseReason, Connection, Refused, parsed
from flow.sandbox.deepgram.hearing import Answers, HearingPace, Listening
from flow.sandbox.openai.transcription import Hear
from flow.sandbox.speech.speech_finder import SpeechFinder, Started, Stretch

CONFIDENCE = 0.8
"""That a turn has ended, when it has."""


class Flux:
    """One connection.

    Raises:
        Refused: the query asks for what there is not.
    """

    def __init__(self, connection: Connection, bill: Bill, hear: Hear, pace: HearingPace) -> None:
        self._connection = connection
        self._sound = Listening(connection, bill, hear)
        if self._sound.channels != 1:
            raise Refused(400, "Flux hears one channel.")
        self._pace = pace
        self._finder = SpeechFinder(self._sound.rate, pace.end_of_turn)
        self._is_eager = "eager_eot_threshold" in connection.query
        self._is_predicted = False
        self._next_update = 0.0
        self._turn = 0
        self._window_start = 0.0
        self._sequence = 0

    async def serve(self) -> None:
        """Listen until one side closes."""
        self._sound.begin()
        answers = Answers()
        try:
            await self._say({"type": "Connected", "request_id": self._connection.request_id})
            async for message in self._connection.messages():
                if isinstance(message, bytes):
                    self._hear(message, answers)
                elif (said := parsed(message)) is None or said.get("type") != "CloseStream":
                    await self._fail()
                else:
                    self._tell(answers, "Update", self._finder.current)
                    await answers.finish()
                    await self._connection.close_without_code()
        finally:
            await answers.drop()
            self._sound.end()

    def _hear(self, sound: bytes, answers: Answers) -> None:
        self._sound.take(sound)
        for found in self._finder.feed(sound):
            if isinstance(found, Started):
                self._window_start = found.at
                self._next_update = found.at + self._pace.interim
                self._tell(answers, "StartOfTurn", self._finder.current)
            else:
                self._tell(answers, "EndOfTurn", found)
                self._turn += 1
                self._is_predicted = False
        if (current := self._finder.current) is None:
            return
        self._predict(answers, current)
        if self._finder.seconds >= self._next_update:
            self._next_update = self._finder.seconds + self._pace.interim
            self._tell(answers, "Update", current)

    def _predict(self, answers: Answers, current: Stretch) -> None:
        """An end of turn is seen coming, or is taken back."""
        is_silent = self._finder.silent_secs >= self._pace.end_of_turn / 2
        if self._is_eager and is_silent is not self._is_predicted:
            self._is_predicted = is_silent
            self._tell(answers, "EagerEndOfTurn" if is_silent else "TurnResumed", current)

    def _tell(self, answers: Answers, event: str, stretch: Stretch | None) -> None:
        if stretch is not None:
            answers.add(partial(self._turn_info, event, self._turn, stretch))

    async def _turn_info(self, event: str, turn: int, stretch: Stretch) -> None:
        text = await self._sound.words(stretch)
        is_over = event in ("EndOfTurn", "EagerEndOfTurn")
        await self._say(
            {
                "type": "TurnInfo",
                "request_id": self._connection.request_id,
                "event": event,
                "turn_index": turn,
                "audio_window_start": round(self._window_start, 3),
                "audio_window_end": round(stretch.end, 3),
                "transcript": text,
                "words": [{"word": word, "confidence": 0.99} for word in text.split()],
                "end_of_turn_confidence": CONFIDENCE if is_over else 1 - CONFIDENCE,
            }
        )

    async def _fail(self) -> None:
        await self._say(
            {
                "type": "Error",
                "code": "UNPARSABLE_CLIENT_MESSAGE",
                "description": "The message is neither sound nor a command.",
            }
        )
        await self._connection.close(CloseReason.UNREADABLE_DATA)

    async def _say(self, message: dict[str, Any]) -> None:
        await self._connection.send({**message, "sequence_id": self._sequence})
        self._sequence += 1
