"""Measuring how long the caller waits for each reply, and for what.

Pipecat's `UserBotLatencyObserver` measures the same. It is not used since an observer is handed
every frame of a call through a queue of its own, and since it takes the reply to a turn to begin
after the turn's end, which a model that is asked earlier does not.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from pipecat.frames.frames import (
    AggregatedTextFrame,
    BotStartedSpeakingFrame,
    Frame,
    LLMServiceMetadataFrame,
    MetricsFrame,
    TTSAudioRawFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.metrics.metrics import TTFBMetricsData
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from flow.domain.calls.latency import TurnLatency
from flow.domain.usage.units import Kind

MEASURED = "on_latency_measured"


class _Wait:
    """One wait for a reply: the moments of it that are known, in seconds of the clock."""

    def __init__(self, speech_ended: float, silence_noticed: float) -> None:
        self.speech_ended = speech_ended
        self.silence_noticed = silence_noticed
        self.transcript: float | None = None
        self.turn_ended: float | None = None
        self.first_token: float | None = None
        self.first_sentence: float | None = None
        self.first_audio: float | None = None

    def over(self, bot_started: float) -> TurnLatency:
        """The wait by its parts. A moment that lies before the one ahead of it cost nothing."""
        moments = (
            ("turn_detection_secs", self.silence_noticed),
            ("stt_secs", self.transcript),
            ("turn_detection_secs", self.turn_ended),
            ("llm_secs", self.first_token),
            ("first_sentence_secs", self.first_sentence),
            ("tts_secs", self.first_audio),
            ("output_secs", bot_started),
        )
        parts: defaultdict[str, float] = defaultdict(float)
        reached = self.speech_ended
        for name, moment in moments:
            if moment is not None and moment > reached:
                parts[name] += moment - reached
                reached = moment
        return TurnLatency(**{name: round(secs, 6) for name, secs in parts.items()})


class LatencyProcessor(FrameProcessor):
    """Stands after the last service and measures each wait, for the event ``on_latency_measured``.

    A wait begins when the caller's speech has ended, which is when voice activity detection
    noticed the silence less the silence it takes to notice it, and ends with the bot's first
    sound. One that the caller cuts short by speaking on is none.

    Args:
        kind_of: what kind of service is called by a name in the pipeline.
        now: seconds since the epoch, as frames of voice activity have them.
    """

    def __init__(
        self,
        kind_of: Callable[[str], Kind | None],
        *,
        now: Callable[[], float] = time.time,
        **options: Any,
    ) -> None:
        # It never waits, so it needs no task and queues of its own.
        super().__init__(enable_direct_mode=True, **options)
        self._kind_of = kind_of
        self._now = now
        self._wait: _Wait | None = None
        self._model_hears = False
        self._register_event_handler(MEASURED, sync=True)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Note the moments that frames mark, and pass every frame on."""
        await super().process_frame(frame, direction)
        if isinstance(frame, BotStartedSpeakingFrame):
            await self._end()
        elif direction is FrameDirection.DOWNSTREAM:
            self._note(frame)
        await self.push_frame(frame, direction)

    def _note(self, frame: Frame) -> None:
        if isinstance(frame, LLMServiceMetadataFrame):
            self._model_hears = self._model_hears or frame.is_realtime_service
        elif isinstance(frame, VADUserStoppedSpeakingFrame):
            self._wait = _Wait(frame.timestamp - frame.stop_secs, frame.timestamp)
        elif isinstance(frame, VADUserStartedSpeakingFrame):
            self._wait = None
        elif (wait := self._wait) is None or wait.first_audio is not None:
            return
        elif isinstance(frame, TTSAudioRawFrame):
            wait.first_audio = self._now()
        elif isinstance(frame, UserStoppedSpeakingFrame):
            wait.turn_ended = self._now()
        elif isinstance(frame, AggregatedTextFrame):
            wait.first_sentence = wait.first_sentence or self._now()
        elif isinstance(frame, MetricsFrame):
            self._note_metrics(frame, wait)

    def _note_metrics(self, frame: MetricsFrame, wait: _Wait) -> None:
        for data in frame.data:
            if isinstance(data, TTFBMetricsData):
                kind = self._kind_of(data.processor)
                if kind is Kind.STT:
                    # Pipecat measures it from the end of the speech.
                    wait.transcript = wait.speech_ended + data.value
                elif kind is Kind.LLM:
                    wait.first_token = self._now()

    async def _end(self) -> None:
        wait, self._wait = self._wait, None
        if wait is not None and self._model_hears:
            # It may answer before anything here takes the turn for ended, and without a word of
            # when it began to.
            wait.turn_ended = wait.turn_ended or wait.silence_noticed
            wait.first_token = wait.first_token or wait.first_audio or self._now()
        if wait is not None and wait.turn_ended is not None:
            await self._call_event_handler(MEASURED, wait.over(self._now()))
