"""The scripted caller waits, interrupts and gives up as a person would; in simulated time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flow.sandbox.callers.conversation import CallerEvent, Conversation, EventKind
from flow.sandbox.callers.frames import Audio, Data, Frame, Interruption, Text, Transcription
from flow.sandbox.callers.playback import Playback
from flow.sandbox.callers.script import (
    SUPPORT_CALL,
    AfterBot,
    Cue,
    Interrupt,
    Line,
    Script,
    Unasked,
)

RATE = 8_000
CHUNK_SECS = 0.02
CHUNK_BYTES = 320
HELLO, STOP = "Hello.", "Stop."


def sound(secs: float, rate: int = RATE, level: int = 8_000) -> bytes:
    return np.full(round(secs * rate), level, np.int16).tobytes()


def tone(secs: float) -> Audio:
    return Audio(sound(secs), RATE)


def hush(secs: float) -> Audio:
    return Audio(bytes(2 * round(secs * RATE)), RATE)


RECORDINGS = {HELLO: sound(1.0), STOP: sound(0.5)}


A_SECOND_LATER = AfterBot(1.0)


def script(*cues: Cue, hang_up: Cue = A_SECOND_LATER, patience_secs: float = 5.0) -> Script:
    """The cue of the first line, which is Hello, and of the others, which are Stop."""
    lines = tuple(Line(STOP if n else HELLO, "", cue) for n, cue in enumerate(cues))
    return Script("", "", lines, SUPPORT_CALL.insights, hang_up, patience_secs=patience_secs)


@dataclass
class Run:
    """What came of a conversation."""

    events: list[CallerEvent] = field(default_factory=list)
    sent: bytes = b""
    hung_up_at: float = 0.0
    conversation: Conversation | None = None

    def at(self, kind: EventKind) -> list[float]:
        return [round(event.at_secs, 2) for event in self.events if event.kind is kind]


Bot = Callable[[float, bytes], list[Frame]]


def run(script: Script, bot: Bot, held_up: tuple[float, float] = (0.0, 0.0)) -> Run:
    """Let them talk until the caller hangs up; the bot hears each chunk and may answer.

    ``held_up`` is when whoever runs the call is held up, and for how many seconds.
    """
    result = Run()
    conversation = Conversation(
        script,
        RECORDINGS,
        sample_rate=RATE,
        chunk_bytes=CHUNK_BYTES,
        on_event=result.events.append,
    )
    result.conversation = conversation
    for step in range(round(120 / CHUNK_SECS)):
        now = step * CHUNK_SECS
        now += held_up[1] if now >= held_up[0] else 0.0
        chunk = conversation.say(now)
        if chunk is None:
            result.hung_up_at = round(now, 2)
            return result
        result.sent += chunk
        for frame in bot(now, chunk):
            conversation.hear(frame, now)
    raise AssertionError(f"the caller never hung up: {result.events}")


class Scripted:
    """A bot that sends frames at given times, and nothing in answer to anything."""

    def __init__(self, *frames: tuple[float, Frame]) -> None:
        self._frames = list(frames)

    def __call__(self, now: float, chunk: bytes) -> list[Frame]:
        due = [frame for at, frame in self._frames if at <= now + 1e-9]
        self._frames = self._frames[len(due) :]
        return due


class Polite:
    """A bot that greets, replies half a second after each line, and stops when spoken over."""

    def __init__(self, greeting: float, reply: float, stops_after: float = 0.3) -> None:
        self._owed: list[float] = [greeting]
        self._reply, self._stops_after = reply, stops_after
        self._speaks_until = 0.0
        self._quiet_since: float | None = None
        self._heard_for = 0.0

    def __call__(self, now: float, chunk: bytes) -> list[Frame]:
        if any(chunk):
            self._heard_for += CHUNK_SECS
            self._quiet_since = None
            if now < self._speaks_until and self._heard_for >= self._stops_after:
                self._speaks_until = now
                return [Interruption()]
            return []
        if self._heard_for:
            self._quiet_since, self._heard_for = now, 0.0
        if self._quiet_since is not None and now - self._quiet_since >= 0.5:
            self._quiet_since = None
            self._owed.append(self._reply)
        if not self._owed:
            return []
        secs = self._owed.pop()
        self._speaks_until = now + secs
        return [tone(secs)]


def test_a_line_comes_when_the_bot_has_been_silent_for_long_enough():
    call = run(script(AfterBot(1.0)), Polite(greeting=2.0, reply=1.5))
    assert call.at(EventKind.LINE_STARTED) == [pytest.approx(3.0, abs=0.05)]
    assert call.at(EventKind.LINE_ENDED) == [pytest.approx(4.0, abs=0.05)]
    assert call.at(EventKind.BOT_STARTED) == [pytest.approx(t, abs=0.05) for t in (0.0, 4.5)]
    assert call.at(EventKind.BOT_STOPPED) == [pytest.approx(t, abs=0.05) for t in (2.0, 6.0)]
    assert call.hung_up_at == pytest.approx(7.0, abs=0.05)


def test_a_pause_between_sentences_is_not_the_end_of_the_turn():
    bot = Scripted((0, tone(1.0)), (1.6, tone(1.0)), (3.0, tone(1.0)))
    call = run(script(AfterBot(1.0), patience_secs=1.0), bot)
    assert call.at(EventKind.LINE_STARTED) == [pytest.approx(5.0, abs=0.05)]


def test_quiet_that_the_bot_sends_is_silence():
    bot = Scripted((0, tone(1.0)), *[(1.0 + n / 10, hush(0.1)) for n in range(40)])
    call = run(script(AfterBot(1.0), patience_secs=1.0), bot)
    assert call.at(EventKind.LINE_STARTED) == [pytest.approx(2.0, abs=0.05)]


@pytest.mark.parametrize("held_up_secs", [0.0, 3.0])
def test_a_caller_who_is_held_up_does_not_take_that_for_silence(held_up_secs: float):
    heard_on = held_up_secs + 0.5
    call = run(
        script(AfterBot(1.0)),
        Scripted((0, tone(0.4)), (heard_on, tone(0.5)), (heard_on + 3, tone(0.5))),
        held_up=(0.4, held_up_secs),
    )
    assert call.at(EventKind.LINE_STARTED) == [pytest.approx(heard_on + 1.5, abs=0.06)]


def test_an_interruption_begins_in_the_midst_of_the_bots_speech():
    call = run(script(AfterBot(0.5), Interrupt(2.0)), Polite(greeting=1.0, reply=6.0))
    (said,) = call.conversation.interruptions
    assert said.line == STOP
    assert said.after_secs == pytest.approx(2.0, abs=0.05)
    reply_began = call.at(EventKind.BOT_STARTED)[1]
    assert said.at_secs == pytest.approx(reply_began + 2.0, abs=0.05)
    assert call.at(EventKind.INTERRUPTION) == [pytest.approx(said.at_secs + 0.3, abs=0.05)]
    assert call.at(EventKind.BOT_STOPPED)[1] == pytest.approx(said.at_secs + 0.3, abs=0.05)


def test_what_an_interruption_cuts_off_is_not_heard():
    call = run(script(AfterBot(0.5), Interrupt(2.0)), Polite(greeting=1.0, reply=6.0))
    heard = call.conversation.playback.heard_secs(call.hung_up_at)
    assert heard == pytest.approx(1.0 + 2.3 + 6.0, abs=0.1)


def test_after_an_interruption_the_caller_waits_for_the_new_reply():
    cues = (AfterBot(0.5), Interrupt(2.0), AfterBot(0.5))
    call = run(script(*cues), Polite(greeting=1.0, reply=6.0))
    interrupting_ended, last_line = call.at(EventKind.LINE_ENDED)[1], 2
    new_reply = call.at(EventKind.BOT_STARTED)[2]
    assert new_reply > interrupting_ended
    assert call.at(EventKind.LINE_STARTED)[last_line] == pytest.approx(new_reply + 6.5, abs=0.05)


def test_a_bot_that_stops_late_has_not_begun_its_reply():
    """Its old speech runs on past a short line, and its reply takes longer than the cue."""
    cues = (AfterBot(0.5), Interrupt(2.0), AfterBot(0.4))
    call = run(script(*cues), Polite(greeting=1.0, reply=6.0, stops_after=0.48))
    assert call.at(EventKind.LINE_STARTED)[2] > call.at(EventKind.BOT_STARTED)[2] + 6


def test_a_bot_too_brief_to_be_interrupted_is_answered():
    call = run(script(AfterBot(0.5), Interrupt(4.0)), Polite(greeting=1.0, reply=2.0))
    assert call.conversation.interruptions == []
    stopped = call.at(EventKind.BOT_STOPPED)[1]
    assert call.at(EventKind.LINE_STARTED)[1] == pytest.approx(stopped + 1.5, abs=0.05)


def test_a_bot_that_ignores_the_caller_is_still_hung_up_on():
    bot = Scripted((0, tone(1.0)), *[(3.0 + n, tone(1.0)) for n in range(20)])
    call = run(script(AfterBot(0.5), Interrupt(2.0)), bot)
    assert len(call.conversation.interruptions) == 1
    assert call.hung_up_at == pytest.approx(24.0, abs=0.1)


def test_a_caller_runs_out_of_patience_with_a_bot_that_says_nothing():
    call = run(script(AfterBot(), Interrupt(), patience_secs=5.0), Scripted())
    first, second = call.at(EventKind.LINE_STARTED)
    assert (first, second) == (pytest.approx(5.0), pytest.approx(11.0, abs=0.05))
    assert call.hung_up_at == pytest.approx(16.5, abs=0.05)


@pytest.mark.parametrize("greeting", [0.0, 30.0])
def test_who_speaks_unasked_waits_for_nothing_and_then_for_the_answer(greeting: float):
    call = run(script(Unasked(2.0), patience_secs=60.0), Polite(greeting=greeting, reply=1.0))
    assert call.at(EventKind.LINE_STARTED) == [pytest.approx(2.0, abs=0.05)]
    assert call.hung_up_at == pytest.approx(call.at(EventKind.BOT_STOPPED)[-1] + 1.0, abs=0.05)


def test_a_caller_may_hang_up_on_a_bot_that_is_speaking():
    bot = Polite(greeting=1.0, reply=30.0)
    call = run(script(AfterBot(0.5), hang_up=Interrupt(3.0)), bot)
    assert call.hung_up_at == pytest.approx(call.at(EventKind.BOT_STARTED)[1] + 3.0, abs=0.05)


def test_a_call_without_lines_is_a_caller_who_only_listens():
    call = run(script(hang_up=AfterBot(1.0)), Polite(greeting=2.0, reply=1.0))
    assert call.hung_up_at == pytest.approx(3.0, abs=0.05)
    assert len(call.sent) == round(call.hung_up_at / CHUNK_SECS) * CHUNK_BYTES
    assert not any(call.sent)


def test_the_microphone_sends_the_recordings_whole_amid_silence():
    call = run(script(AfterBot(0.5), AfterBot(0.5)), Polite(greeting=1.0, reply=1.0))
    assert len(call.sent) == round(call.hung_up_at / CHUNK_SECS) * CHUNK_BYTES
    spoken = [part for part in call.sent.split(b"\0\0" * 200) if part.strip(b"\0")]
    assert [part.strip(b"\0") for part in spoken] == [RECORDINGS[HELLO], RECORDINGS[STOP]]


@pytest.mark.parametrize(
    ("frame", "kind", "detail"),
    [
        (Text("hi"), EventKind.TEXT, "hi"),
        (Transcription("hi"), EventKind.TRANSCRIPTION, "hi"),
        (Data("{}"), EventKind.MESSAGE, "{}"),
        (Interruption(), EventKind.INTERRUPTION, ""),
    ],
)
def test_what_the_bot_sends_besides_sound_is_told(frame: Frame, kind: EventKind, detail: str):
    call = run(script(hang_up=AfterBot(0.5)), Scripted((0, tone(0.5)), (0.2, frame)))
    told = [e for e in call.events if e.kind is kind]
    assert [(round(e.at_secs, 2), e.detail) for e in told] == [(0.2, detail)]


@settings(max_examples=60)
@given(st.lists(st.floats(0.02, 0.5), min_size=1, max_size=8), st.floats(1.0, 50.0))
def test_sound_that_comes_early_is_played_one_piece_after_another(
    pieces: list[float], speed: float
):
    playback, now = Playback(), 0.0
    for secs in pieces:
        playback.play(tone(secs), now)
        now += tone(secs).seconds / speed
    total = sum(tone(secs).seconds for secs in pieces)
    assert playback.heard_secs(total) == pytest.approx(total)
    assert playback.heard_secs(total / 2) == pytest.approx(total / 2)
    turn = playback.turn(0.0, total + 0.5)
    assert turn is not None
    assert (turn.started, turn.silent_secs) == (0.0, pytest.approx(0.5))
    assert playback.turn(0.0, total / 2).silent_secs == 0.0


@settings(max_examples=60)
@given(st.floats(0.1, 5.0), st.floats(0.0, 6.0))
def test_nothing_sounds_after_the_playback_was_stopped(secs: float, at: float):
    playback = Playback()
    playback.play(tone(secs), 0.0)
    playback.stop(at)
    assert playback.heard_secs(at + 10) == pytest.approx(min(tone(secs).seconds, at))
    playback.play(tone(1.0), at + 1)
    assert playback.heard_secs(at + 10) == pytest.approx(min(tone(secs).seconds, at) + 1)


@pytest.mark.parametrize(
    "audio", [Audio(b"", RATE), Audio(b"\1", RATE), Audio(bytes(320), 0, 0), hush(0.1)]
)
def test_odd_audio_is_no_speech(audio: Audio):
    playback = Playback()
    playback.play(audio, 0.0)
    assert playback.turn(0.0, 0.05) is None
