"""The caller's side of a call: what is heard goes in, what the microphone picks up comes out.

It neither waits nor looks at a clock: all times are seconds, given by who runs the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from flow.sandbox.callers.frames import Audio, Data, Frame, Interruption, Text, Transcription
from flow.sandbox.callers.playback import Playback, Turn
from flow.sandbox.callers.script import AfterBot, Cue, Interrupt, Script, Unasked


class EventKind(StrEnum):
    """What can happen on a call, as the caller sees it."""

    JOINED = "joined"
    CONNECTED = "connected"
    BOT_STARTED = "bot_started"
    BOT_STOPPED = "bot_stopped"
    LINE_STARTED = "line_started"
    LINE_ENDED = "line_ended"
    INTERRUPTION = "interruption"
    TEXT = "text"
    TRANSCRIPTION = "transcription"
    MESSAGE = "message"
    HUNG_UP = "hung_up"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class CallerEvent:
    """One thing that happened, ``at_secs`` after the call was connected.

    ``detail`` is what was said, the thread's id or why the call ended, as the kind has it.
    """

    kind: EventKind
    at_secs: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CallerInterruption:
    """The caller spoke over the bot.

    Attributes:
        line: what the caller said.
        at_secs: when the caller began to say it.
        after_secs: for how long the bot had been speaking then.
    """

    line: str
    at_secs: float
    after_secs: float


class Conversation:
    """One run of a script.

    Args:
        recordings: the script's lines as speech, 16-bit mono PCM.
        sample_rate: of the recordings and of the microphone.
        chunk_bytes: how much the microphone gives at a time.
        on_event: told of each event as it happens.
    """

    def __init__(
        self,
        script: Script,
        recordings: Mapping[str, bytes],
        *,
        sample_rate: int,
        chunk_bytes: int,
        on_event: Callable[[CallerEvent], None],
    ) -> None:
        self.playback = Playback()
        self.interruptions: list[CallerInterruption] = []
        self._script = script
        self._recordings = recordings
        self._chunk_secs = chunk_bytes / (2 * sample_rate)
        self._chunk_bytes = chunk_bytes
        self._on_event = on_event
        self._lines_begun = 0
        self._speech = b""
        self._my_turn_ended = 0.0
        self._bot_is_speaking = False
        self._listened_at = self._silent_secs = 0.0

    def hear(self, frame: Frame, now: float) -> None:
        """Take in a frame from the bot."""
        match frame:
            case Audio():
                self.playback.play(frame, now)
            case Interruption():
                self.playback.stop(now)
                self._tell(EventKind.INTERRUPTION, now)
            case Text(text):
                self._tell(EventKind.TEXT, now, text)
            case Transcription(text):
                self._tell(EventKind.TRANSCRIPTION, now, text)
            case Data(json):
                self._tell(EventKind.MESSAGE, now, json)

    def say(self, now: float) -> bytes | None:
        """What the microphone picks up from `now` for one chunk; ``None``: the caller hangs up."""
        self._listen(now)
        self._notice_bot(now)
        if not self._speech and self._is_due(self._next_cue(), now):
            if self._lines_begun == len(self._script.lines):
                return None
            self._begin_line(now)
        chunk, self._speech = self._speech[: self._chunk_bytes], self._speech[self._chunk_bytes :]
        if chunk and not self._speech:
            self._my_turn_ended = now + self._chunk_secs
            line = self._script.lines[self._lines_begun - 1]
            self._tell(EventKind.LINE_ENDED, self._my_turn_ended, line.text)
        return chunk.ljust(self._chunk_bytes, b"\0")

    def _begin_line(self, now: float) -> None:
        line = self._script.lines[self._lines_begun]
        self._lines_begun += 1
        self._speech = self._recordings[line.text]
        turn = self.playback.turn(self._my_turn_ended, now)
        if turn is not None and turn.is_speaking:
            said = CallerInterruption(line.text, now, now - turn.started)
            self.interruptions.append(said)
        self._tell(EventKind.LINE_STARTED, now, line.text)

    def _next_cue(self) -> Cue:
        lines = self._script.lines
        if self._lines_begun < len(lines):
            return lines[self._lines_begun].when
        return self._script.hang_up

    def _listen(self, now: float) -> None:
        """Count how long the bot has been silent while somebody listened: whoever runs the call may
        have been held up, and what was sent meanwhile is yet to be heard."""
        step, self._listened_at = now - self._listened_at, now
        turn = self.playback.turn(0.0, now)
        silent_secs = 0.0 if turn is None else turn.silent_secs
        self._silent_secs = min(silent_secs, self._silent_secs + min(step, 2 * self._chunk_secs))

    def _is_due(self, cue: Cue, now: float) -> bool:
        if isinstance(cue, Unasked):
            return now - self._my_turn_ended >= cue.secs
        turn = self.playback.turn(self._my_turn_ended, now)
        if turn is None:
            return now - self._my_turn_ended >= self._script.patience_secs
        return _has_come(cue, turn, self._silent_secs)

    def _notice_bot(self, now: float) -> None:
        turn = self.playback.turn(0.0, now)
        speaking = turn is not None and turn.is_speaking
        if turn is not None and speaking != self._bot_is_speaking:
            self._bot_is_speaking = speaking
            kind = EventKind.BOT_STARTED if speaking else EventKind.BOT_STOPPED
            self._tell(kind, now - turn.silent_secs)

    def _tell(self, kind: EventKind, at_secs: float, detail: str = "") -> None:
        self._on_event(CallerEvent(kind, at_secs, detail))


def _has_come(cue: AfterBot | Interrupt, turn: Turn, silent_secs: float) -> bool:
    """Whether it is time."""
    match cue:
        case AfterBot(enough_secs):
            return silent_secs >= enough_secs
        case Interrupt(speaking_secs, too_brief_secs):
            long_enough = turn.spoken_secs >= speaking_secs
            return (turn.is_speaking and long_enough) or silent_secs >= too_brief_secs
