"""Recording a call: both sides are tapped at the transport, and written by another thread.

The bot is recorded where its sound is handed to the transport, and what a caller's device or
network drops when it interrupts is taken out again; so the recording has what sounded, not what was
said to be spoken. The caller is recorded as the bot hears it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import uuid4

from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    OutputAudioRawFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import BaseTransport

from flow.bot import clock
from flow.bot.transports.spec import AudioFormat, BotTransportSpec
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.recording import RecordingRequest
from flow.domain.calls.thread import Thread
from flow.recordings.journal import BOT, CALLER, Journal, JournalWriter, PartHeader, Sound
from flow.recordings.recordings import Recordings
from flow.recordings.timeline import OPEN_SECS, SAMPLE_BYTES, HeardTrack, PlayedTrack

# Silence before the first sound: what comes next may show that it sounded sooner.
LEAD_IN_SECS = 0.25
# From one writing to the next.
WRITE_SECS = 1.0
LAST_WRITE_SECS = 5.0


class SoundRecorder:
    """Records one part of a call, from the first sound on: a bot may wait in a room for minutes.

    Args:
        begin: opens the journal of a recording that began so many seconds ago.
        rates: samples a second of what is heard and what is said.
        now: seconds that go on whatever becomes of the process.
    """

    def __init__(
        self,
        begin: Callable[[float], Journal],
        rates: AudioFormat,
        now: Callable[[], float] = clock.seconds,
    ) -> None:
        self._begin = begin
        self._caller = HeardTrack(rates.sample_rate_in)
        self._bot = PlayedTrack(rates.sample_rate_out)
        self._clock = now
        self._journal: Journal | None = None
        self._began = 0.0
        self._written = 0.0

    def tap(self, transport: BaseTransport, *, drops_when_interrupted: bool) -> None:
        """Record what passes a transport.

        In the transport itself: one more processor would cost every frame one more hop.
        """
        _tap_input(transport.input(), self._hear)
        output = transport.output()
        assert isinstance(output, BaseOutputTransport)
        _tap_output(output, self._play, self._cut)
        if drops_when_interrupted:
            _tap_interruptions(output, self._cut)

    async def close(self) -> None:
        """Write the rest; a disk that takes longer than some seconds is left alone with it."""
        if self._journal is None:
            return
        now = self._now()
        self._bot.cut(now)
        self._write(self._journal, None, now)
        if (done := self._journal.close(now)) is not None:
            # Not `wait_for`: it would cancel the end of a journal, which then stays locked.
            await asyncio.wait([asyncio.wrap_future(done)], timeout=LAST_WRITE_SECS)

    def _now(self) -> float:
        return self._clock() - self._began

    def _hear(self, pcm: bytes) -> None:
        # A piece that arrives has sounded already.
        secs = len(pcm) / SAMPLE_BYTES / self._caller.rate
        journal = self._begun(secs)
        now = self._now()
        self._caller.add(now, pcm)
        self._write_if_due(journal, now)

    def _play(self, pcm: bytes) -> None:
        journal = self._begun(0.0)
        now = self._now()
        self._bot.add(now, pcm)
        self._write_if_due(journal, now)

    def _cut(self) -> None:
        self._bot.cut(self._now())

    def _begun(self, sounded_secs: float) -> Journal:
        if self._journal is None:
            ago = sounded_secs + LEAD_IN_SECS
            self._began = self._clock() - ago
            self._journal = self._begin(ago)
        return self._journal

    def _write_if_due(self, journal: Journal, now: float) -> None:
        if now - self._written >= WRITE_SECS:
            self._written = now
            self._write(journal, now - OPEN_SECS, now - OPEN_SECS)

    def _write(self, journal: Journal, until: float | None, settled: float) -> None:
        sounds = [
            *(Sound(CALLER, piece) for piece in self._caller.settle(until)),
            *(Sound(BOT, piece) for piece in self._bot.settle(until)),
        ]
        journal.append(sounds, max(settled, 0.0))


class SoundRecorders:
    """Makes the recorders of a process's calls, for joins that ask for one.

    Args:
        writer: writes the journals.
        recordings: is told of the parts, and stores them.
        days: how long recordings are kept at the longest.
    """

    def __init__(self, writer: JournalWriter, recordings: Recordings, days: int) -> None:
        self._writer = writer
        self._recordings = recordings
        self.days = days

    def record(
        self, thread: Thread, join: JoinRequest, transport: BaseTransport, spec: BotTransportSpec
    ) -> SoundRecorder | None:
        """Begin to record a call where its join asks for that."""
        if join.recording is None:
            return None
        recorder = SoundRecorder(
            partial(self._begin, thread, join.recording, spec.audio), spec.audio
        )
        recorder.tap(transport, drops_when_interrupted=spec.drops_when_interrupted)
        return recorder

    async def finish(self, recorder: SoundRecorder) -> None:
        """End a recording, and have it stored."""
        await recorder.close()
        self._recordings.nudge()

    def _begin(
        self, thread: Thread, asked: RecordingRequest, audio: AudioFormat, ago_secs: float
    ) -> Journal:
        days = asked.retention_days or self.days
        rates = audio.sample_rate_in, audio.sample_rate_out
        began = datetime.now(UTC) - timedelta(seconds=ago_secs)
        header = PartHeader(thread.id, uuid4(), began, days, *rates)
        self._recordings.begun(header)
        return self._writer.open(header)


def _tap_input(source: FrameProcessor, hear: Callable[[bytes], None]) -> None:
    push = source.push_frame

    async def push_heard(
        frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM
    ) -> None:
        if isinstance(frame, InputAudioRawFrame) and direction is FrameDirection.DOWNSTREAM:
            hear(frame.audio)
        await push(frame, direction)

    source.push_frame = push_heard  # type: ignore[method-assign]


def _tap_output(
    output: BaseOutputTransport, play: Callable[[bytes], None], cut: Callable[[], None]
) -> None:
    write = output.write_audio_frame

    async def write_played(frame: OutputAudioRawFrame) -> bool:
        # Before it is sent: sending takes as long as the sound, in part or whole.
        play(frame.audio)
        sent = await write(frame)
        if not sent:
            cut()
        return sent

    output.write_audio_frame = write_played  # type: ignore[method-assign]


def _tap_interruptions(output: BaseOutputTransport, cut: Callable[[], None]) -> None:
    process = output.process_frame

    async def process_and_cut(frame: Frame, direction: FrameDirection) -> None:
        await process(frame, direction)
        if isinstance(frame, InterruptionFrame):
            # What has been sent is dropped by who was to play it, which has been told by now.
            cut()

    output.process_frame = process_and_cut  # type: ignore[method-assign]
