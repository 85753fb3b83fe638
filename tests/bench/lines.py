"""Calls without a network: a microphone and a loudspeaker in real time, and what is between.

Three pipelines of the same vendors: ``flow`` is a call as Flow runs it; ``bare`` the same
processors without metering, ledger, PostHog and session; ``default`` what Pipecat builds when
asked for nothing in particular.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADAnalyzer
from pipecat.frames.frames import (
    InputAudioRawFrame,
    OutputAudioRawFrame,
    StartFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.processors.aggregators.llm_text_processor import LLMTextProcessor
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.openai.stt import OpenAISTTService
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import BaseTransport, TransportParams

from flow.bot.audio_input import AudioEnd, direct
from flow.bot.first_clause import FirstClauseAggregator
from flow.bot.service_choices import SYSTEM_PROMPT
from flow.bot.speech_detection import ListeningModels

RATE_IN, RATE_OUT = 16_000, 24_000
FRAME_SECS = 0.02
FRAME_BYTES = int(RATE_IN * FRAME_SECS) * 2
GREETING = "Good evening! How may I help you today?"


@dataclass
class Lags:
    """How late audio was, in seconds: when it had been listened to, and when it was played."""

    measuring: bool = False
    heard: list[float] = field(default_factory=list)
    played: list[float] = field(default_factory=list)
    seconds_played: float = 0.0

    def add(self, to: list[float], lag: float) -> None:
        """Note a lag, once measuring has begun."""
        if self.measuring:
            to.append(lag)


class Microphone:
    """When each moment of the caller's audio was there to be heard."""

    def __init__(self, speech: bytes, lags: Lags) -> None:
        self._speech = speech
        self._lags = lags
        self._begun = 0.0
        self._heard_bytes = 0

    async def speak(self, push: Callable[[InputAudioRawFrame], Any]) -> None:
        """Give a frame every 20 ms, over and over; one held up is given as soon as can be."""
        self._begun = time.monotonic()
        at = sent = 0
        while True:
            sent += 1
            due = self._begun + sent * FRAME_SECS
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            frame = self._speech[at : at + FRAME_BYTES]
            at = (at + FRAME_BYTES) % len(self._speech)
            await push(InputAudioRawFrame(frame, RATE_IN, 1))

    def watched(self, analyzer: VADAnalyzer) -> VADAnalyzer:
        """The analyzer, noting how long ago the last of what it has heard was said."""
        analyze = analyzer.analyze_audio

        async def timed(buffer: bytes) -> Any:
            state = await analyze(buffer)
            self._heard_bytes += len(buffer)
            said = self._begun + self._heard_bytes / (2 * RATE_IN)
            self._lags.add(self._lags.heard, time.monotonic() - said)
            return state

        analyzer.analyze_audio = timed  # type: ignore[method-assign]
        return analyzer


class _Ear(BaseInputTransport):
    """The pipeline's end of a microphone."""

    microphone: Microphone
    stage: Stage

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.stage.connected()
        await self.set_transport_ready(frame)
        self._talking = self.create_task(self.microphone.speak(self.push_audio_frame))

    async def cleanup(self) -> None:
        await super().cleanup()
        if (talking := getattr(self, "_talking", None)) is not None:
            await self.cancel_task(talking)


class _Loudspeaker(BaseOutputTransport):
    """Plays at the speed of sound, as a transport's output paces itself."""

    lags: Lags

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        self._due = 0.0
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        wait = self._due - time.monotonic()
        secs = frame.num_frames / frame.sample_rate
        if wait > 0:
            await asyncio.sleep(wait)
            self.lags.add(self.lags.played, time.monotonic() - self._due)
            self._due += secs
        else:
            await asyncio.sleep(0)
            self._due = time.monotonic() + secs
        if self.lags.measuring:
            self.lags.seconds_played += secs
        return True


class Stage(BaseTransport):
    """A transport between a microphone and a loudspeaker in this process."""

    def __init__(self, microphone: Microphone, lags: Lags, *, takes_in_directly: bool) -> None:
        super().__init__()
        self._register_event_handler("on_client_connected")
        self._register_event_handler("on_client_disconnected")
        params = TransportParams(audio_in_enabled=True, audio_out_enabled=True)
        kind = direct(_Ear) if takes_in_directly else _Ear
        self._ear, self._loudspeaker = kind(params), _Loudspeaker(params)
        self._ear.microphone, self._ear.stage = microphone, self
        self._loudspeaker.lags = lags

    def input(self) -> FrameProcessor:
        return self._ear

    def output(self) -> FrameProcessor:
        return self._loudspeaker

    async def connected(self) -> None:
        """Tell whoever listens that the caller is there."""
        await self._call_event_handler("on_client_connected", self)


def services(environment: dict[str, str]) -> tuple[FrameProcessor, FrameProcessor, FrameProcessor]:
    key, url = environment["OPENAI_API_KEY"], environment["OPENAI_BASE_URL"]
    llm = OpenAILLMService.Settings(model="gpt-4.1", system_instruction=SYSTEM_PROMPT)
    voice = OpenAITTSService.Settings(model="gpt-4o-mini-tts", voice="alloy")
    ears = OpenAISTTService.Settings(model="gpt-4o-transcribe")
    return (
        OpenAISTTService(api_key=key, base_url=url, settings=ears),
        OpenAILLMService(api_key=key, base_url=url, settings=llm),
        OpenAITTSService(api_key=key, base_url=url, settings=voice),
    )


def default_worker(
    stage: Stage, microphone: Microphone, environment: dict[str, str]
) -> PipelineWorker:
    """Pipecat's own choices throughout, with metrics switched on."""
    stt, llm, tts = services(environment)
    params = LLMUserAggregatorParams(vad_analyzer=microphone.watched(SileroVADAnalyzer()))
    user, assistant = LLMContextAggregatorPair(LLMContext(), user_params=params)
    line = [stage.input(), stt, user, llm, tts, stage.output(), assistant]
    return PipelineWorker(
        Pipeline(line),
        params=PipelineParams(
            audio_in_sample_rate=RATE_IN,
            audio_out_sample_rate=RATE_OUT,
            enable_metrics=True,
            enable_usage_metrics=True,
        ),
    )


def bare_worker(
    stage: Stage, microphone: Microphone, environment: dict[str, str], models: ListeningModels
) -> PipelineWorker:
    """Flow's pipeline, with services that nobody meters."""
    stt, llm, tts = services(environment)
    listening = models.listening("silence", stt)
    params = LLMUserAggregatorParams(
        vad_analyzer=microphone.watched(listening.vad), user_turn_strategies=listening.strategies
    )
    user, assistant = LLMContextAggregatorPair(LLMContext(), user_params=params)
    heard, spoken = AudioEnd(InputAudioRawFrame), AudioEnd(OutputAudioRawFrame)
    text = LLMTextProcessor(text_aggregator=FirstClauseAggregator(), enable_direct_mode=True)  # type: ignore[no-untyped-call]
    line = [stage.input(), stt, user, heard, llm, text, tts, stage.output(), spoken, assistant]
    return PipelineWorker(
        Pipeline(line),
        params=PipelineParams(
            audio_in_sample_rate=RATE_IN,
            audio_out_sample_rate=RATE_OUT,
            enable_metrics=True,
            enable_usage_metrics=True,
            send_initial_empty_metrics=False,
        ),
        idle_timeout_secs=None,
        enable_rtvi=False,
        enable_turn_tracking=False,
    )


def greet(stage: Stage, worker: PipelineWorker) -> None:
    """Have the bot of an unmetered call say its greeting, as a session would."""

    async def connected(*_: Any) -> None:
        await worker.queue_frame(TTSSpeakFrame(GREETING))

    stage.add_event_handler("on_client_connected", connected)
