"""Telling the end of a caller's turn by silence, and asking the model before it is certain."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

from pipecat.frames.frames import (
    EagerEndOfTurnCancelFrame,
    Frame,
    InterimTranscriptionFrame,
    STTMetadataFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.turns.types import ProcessFrameResult, UserTurnSpeculation
from pipecat.turns.user_stop import BaseUserTurnStopStrategy

NOTICED_SECS = 0.2
"""Silence by which a pause is one at all; what is asked for beyond it is the caller's to fill."""
SENTENCE_SHARE = 0.5
# Speech is told sooner: what looks like its beginning for longer is a microphone that died.
LOOK_AGAIN_SECS, MOST_LOOKS = 0.02, 15

_CLOSING = "\"')]\u2019\u201d\u00bb"
_SENTENCE_END = re.compile(r"([\w'\u2019]+)\W*?(?<![.\u2026])([.!?\u3002\uff01\uff1f])$")
# With which English statements do not end; transcribers put a full stop after them all the same.
_GOES_ON = {
    "a", "an", "and", "as", "at", "because", "but", "by", "for", "from", "i", "if", "in",
    "into", "my", "of", "on", "or", "our", "so", "than", "that", "the", "their", "to", "uh",
    "um", "until", "when", "where", "which", "while", "with", "your",
}  # fmt: skip


def is_sentence(text: str) -> bool:
    """Whether ``text`` ends as a sentence does, in its punctuation and in its last word."""
    end = _SENTENCE_END.search(text.rstrip().rstrip(_CLOSING))
    if end is None:
        return False
    last_word, mark = end.groups()
    return mark not in ".!" or last_word.lower() not in _GOES_ON


class SilenceTurnStop(BaseUserTurnStopStrategy):  # type: ignore[no-untyped-call]
    """Ends a turn when the caller has been silent for a while and the transcript is there.

    The while is shorter where what was said is a whole sentence. Sound that may be the beginning
    of speech is waited for, so that a caller who goes on just in time is not cut off. As soon as
    the transcript is there the model may be asked for its reply, which Pipecat withholds until the
    turn is over, and throws away if the caller goes on: of a sentence at once, of anything else
    when a sentence would have ended the turn.

    Args:
        silence_secs: how long the silence is, from `NOTICED_SECS` after the end of the speech.
        may_ask_early: whether the model may be asked at this moment, before the turn is over.
        may_be_speech: whether the last that was heard may be the beginning of speech.
        now: seconds since the epoch, as frames of voice activity have them.
    """

    def __init__(
        self,
        silence_secs: float,
        *,
        may_ask_early: Callable[[], bool] = lambda: False,
        may_be_speech: Callable[[], bool] = lambda: False,
        now: Callable[[], float] = time.time,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._silence_secs = silence_secs
        self._may_ask_early = may_ask_early
        self._may_be_speech = may_be_speech
        self._now = now
        self._stt_secs = 0.0
        self._is_open = False
        self._is_speaking = False
        self._is_final = False
        self._is_complete = False
        self._spoke_until: float | None = None
        self._said: list[str] = []
        self._asked: str | None = None
        self._may_ask = True
        self._waiting: asyncio.Task[None] | None = None

    async def handle_user_turn_started(self) -> None:
        """A turn has begun."""
        await self._begin(is_open=True)

    async def handle_user_turn_stopped(self) -> None:
        """The turn is over, by this strategy or otherwise."""
        await self._begin(is_open=False)

    async def cleanup(self) -> None:
        """The call is over."""
        await super().cleanup()  # type: ignore[no-untyped-call]
        await self._stop_waiting()

    async def process_frame(self, frame: Frame) -> ProcessFrameResult:
        """Follow voice activity and transcripts."""
        if isinstance(frame, STTMetadataFrame):
            self._stt_secs = frame.ttfs_p99_latency
        elif isinstance(frame, VADUserStartedSpeakingFrame):
            await self._goes_on()
        elif isinstance(frame, VADUserStoppedSpeakingFrame):
            self._is_speaking = False
            self._spoke_until = frame.timestamp - frame.stop_secs
            await self._judge()
        elif isinstance(frame, TranscriptionFrame):
            await self._hear(frame)
        elif isinstance(frame, InterimTranscriptionFrame):
            # More is to come, so what came before does not cover all that was said.
            self._is_final = self._is_complete = False
            await self._judge()
        elif isinstance(frame, EagerEndOfTurnCancelFrame) and self._asked is not None:
            # The model wants a tool: that may have effects, and waits for the turn to be over.
            self._asked, self._may_ask = None, False
        return ProcessFrameResult.CONTINUE

    async def _begin(self, *, is_open: bool) -> None:
        await self._stop_waiting()
        await self._withdraw()
        self._is_open = is_open
        self._is_final = self._is_complete = False
        self._may_ask = True
        self._spoke_until = None
        self._said.clear()

    async def _goes_on(self) -> None:
        self._is_speaking, self._spoke_until = True, None
        self._is_final = self._is_complete = False
        await self._stop_waiting()
        await self._withdraw()
        self._may_ask = True

    async def _hear(self, frame: TranscriptionFrame) -> None:
        self._said.append(frame.text.strip())
        self._is_complete = True
        if self._is_speaking:
            return
        self._is_final = self._is_final or frame.finalized
        if self._spoke_until is None:
            # Nobody was heard to speak: count from the words.
            self._spoke_until, self._is_final = self._now() - NOTICED_SECS, True
        await self._judge()

    @property
    def _text(self) -> str:
        return " ".join(filter(None, self._said))

    async def _judge(self) -> None:
        """Wait for the end of the turn as it looks now."""
        if not self._is_open or self._is_speaking or self._spoke_until is None:
            return
        await self._stop_waiting()
        if self._is_sentence:
            await self._ask_early()
        self._waiting = self.create_task(self._wait(self._spoke_until), "turn_stop")

    async def _wait(self, spoke_until: float) -> None:
        transcript_by = spoke_until + (0.0 if self._is_final else self._stt_secs)
        sentence_by = spoke_until + NOTICED_SECS + self._silence_secs * SENTENCE_SHARE
        if self._is_sentence:
            await self._until(max(sentence_by, transcript_by))
        else:
            await self._until(sentence_by)
            if self._is_complete:
                await self._ask_early()
            await self._until(max(spoke_until + NOTICED_SECS + self._silence_secs, transcript_by))
        looks = 0
        while self._may_be_speech() and looks < MOST_LOOKS:
            looks += 1
            await asyncio.sleep(LOOK_AGAIN_SECS)
        self._waiting = None
        if self._text:
            # Without words there is nothing to answer: the first that come end the turn.
            await self._stop()

    @property
    def _is_sentence(self) -> bool:
        """Whether what was said is there, as far as is known, and is a whole sentence."""
        return self._is_complete and is_sentence(self._text)

    async def _until(self, at: float) -> None:
        await asyncio.sleep(max(at - self._now(), 0.0))

    async def _stop(self) -> None:
        if self._asked == self._text:
            self._asked = None
            await self.trigger_user_turn_finalized(confirms_speculation=True)
        else:
            await self._withdraw()
            await self.trigger_user_turn_stopped()

    async def _ask_early(self) -> None:
        if self._asked == self._text:
            return
        await self._withdraw()
        if self._may_ask and self._may_ask_early():
            self._asked = self._text
            speculation = UserTurnSpeculation(text=self._text)
            await self.trigger_user_turn_inference_triggered(speculation=speculation)

    async def _withdraw(self) -> None:
        """What the model was asked for is not what the caller has said."""
        asked, self._asked = self._asked, None
        if asked is not None:
            await self.trigger_user_turn_speculation_cancelled()  # type: ignore[no-untyped-call]

    async def _stop_waiting(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and waiting is not asyncio.current_task():
            await self.cancel_task(waiting)
