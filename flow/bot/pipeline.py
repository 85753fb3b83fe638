"""The pipeline of one call, from the caller's audio to the bot's and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from pipecat.frames.frames import InputAudioRawFrame, OutputAudioRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker, ProcessorUnusablePolicy
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMAssistantAggregator,
    LLMContextAggregatorPair,
    LLMUserAggregator,
    LLMUserAggregatorParams,
)
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.transports.base_transport import BaseTransport
from pipecat.turns.user_turn_strategies import UserTurnStrategies

from flow.bot.idle import IdleWatch
from flow.bot.intake import AudioEnd
from flow.bot.models import ListeningModels
from flow.bot.named import Joined, span_attributes
from flow.bot.service_meters import ServiceMeters
from flow.bot.spending import Spending
from flow.bot.transports import SAMPLE_RATE_IN, SAMPLE_RATE_OUT
from flow.bot.vendors import VENDORS
from flow.bot.vendors.spec import Build, Choice, Tap
from flow.domain.join import JoinRequest
from flow.domain.thread import Turn
from flow.domain.usage import Kind, Owner, UsageEvent
from flow.metering.evidence import Opening
from flow.metering.meter import Meter, Service
from flow.metering.request import Recording
from flow.metering.taps.http import MeteredTransport
from flow.vendors.endpoint import Endpoint

SYSTEM_PROMPT = (
    "You are a helpful assistant on a phone call. Your words are spoken aloud: answer in short,"
    " plain sentences without lists, markup or emoji."
)


@dataclass(frozen=True, slots=True)
class BotSettings:
    """What is the same for every call of a process.

    ``interrupted_streams`` says how a generation that a caller cut off is counted: ``estimate``
    or ``drain`` (see `MeteredTransport`). ``contents`` receives the messages and output of each
    generation by event id, where capturing content is switched on. ``joined`` is there where
    calls are traced.
    """

    endpoints: Mapping[str, Endpoint]
    models: ListeningModels
    idle_timeout_secs: float
    interrupted_streams: Literal["estimate", "drain"]
    contents: dict[UUID, tuple[list[object], str]] | None
    joined: Joined | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A built pipeline and the parts of it that a session listens to."""

    worker: PipelineWorker
    user: LLMUserAggregator
    assistant: LLMAssistantAggregator
    idle: IdleWatch
    meters: ServiceMeters
    taps: Sequence[MeteredTransport] = ()

    async def close(self) -> None:
        """Count whatever is still under way; the pipeline has ended."""
        for tap in self.taps:
            await tap.finish()
        self.meters.close()


def build_line(
    join: JoinRequest,
    owner: Owner,
    transport: BaseTransport,
    recorder: Recording,
    settings: BotSettings,
    spending: Spending,
    said: Sequence[Turn] = (),
) -> Line:
    """Build the pipeline a join asks for. ``join`` has its vendors and models filled in.

    ``said`` is what the bot remembers of the conversation, where it comes in later.
    """
    meters = ServiceMeters(owner, recorder, spending.control)
    built = _Services(owner, recorder, settings, spending, meters)
    stt, llm, tts = built.build(join)
    context = LLMContext([{"role": turn.role, "content": turn.content} for turn in said])  # type: ignore[misc]
    pair = LLMContextAggregatorPair(
        context,
        user_params=LLMUserAggregatorParams(
            vad_analyzer=settings.models.vad(),
            user_turn_strategies=UserTurnStrategies(stop=[settings.models.turn_stop()]),
        ),
    )
    idle = IdleWatch(settings.idle_timeout_secs, name="idle")
    worker = PipelineWorker(
        Pipeline(
            [
                transport.input(),
                stt,
                pair.user(),
                AudioEnd(InputAudioRawFrame, name="heard"),
                idle,
                llm,
                tts,
                meters.processor,
                transport.output(),
                AudioEnd(OutputAudioRawFrame, name="spoken"),
                pair.assistant(),
            ]
        ),
        params=PipelineParams(
            audio_in_sample_rate=SAMPLE_RATE_IN,
            audio_out_sample_rate=SAMPLE_RATE_OUT,
            enable_metrics=True,
            enable_usage_metrics=True,
            send_initial_empty_metrics=False,
        ),
        idle_timeout_secs=None,  # `IdleWatch` costs less
        processor_unusable_policy=ProcessorUnusablePolicy.CONTINUE,
        enable_rtvi=False,
        # Spans are made by what follows the turns, which costs a little on every frame.
        enable_turn_tracking=settings.joined is not None,
        enable_tracing=settings.joined is not None,
        additional_span_attributes=span_attributes(owner),
        conversation_id=str(owner.workflow_thread_id),
    )
    return Line(worker, pair.user(), pair.assistant(), idle, meters, built.taps)


class _Services:
    """Builds the services of one call, each with its meter on it."""

    def __init__(
        self,
        owner: Owner,
        recorder: Recording,
        settings: BotSettings,
        spending: Spending,
        meters: ServiceMeters,
    ) -> None:
        self._owner = owner
        self._recorder = recorder
        self._settings = settings
        self._spending = spending
        self._meters = meters
        self.taps: list[MeteredTransport] = []

    def build(self, join: JoinRequest) -> tuple[FrameProcessor, FrameProcessor, FrameProcessor]:
        """STT, LLM and TTS as a resolved join asks for them."""
        bot = join.bot
        stt = self._built(Kind.STT, bot.stt, {"language": bot.language})
        instructed = {
            "system_instruction": bot.system_prompt or SYSTEM_PROMPT,
            "temperature": bot.llm.temperature,
            "max_tokens": bot.llm.max_tokens,
        }
        llm = self._built(Kind.LLM, bot.llm, instructed)
        return stt, llm, self._built(Kind.TTS, bot.tts, {"voice": bot.tts.voice})

    def _built(self, kind: Kind, part: Any, options: Mapping[str, Any]) -> FrameProcessor:
        assert part.provider, "the join was not resolved"
        assert part.model, "the join was not resolved"
        spec = VENDORS[part.provider].services[kind]
        endpoint = self._settings.endpoints[part.provider]
        meter = Meter(
            Service(
                kind,
                part.provider,
                part.model,
                capture=not (kind is Kind.LLM and endpoint.gateway_captures),
            ),
            self._owner,
            self._recorder,
            control=self._spending.control,
            on_closed=self._keep_content,
        )
        way = endpoint.transport(self._owner, self._spending.control)
        if spec.tap is Tap.HTTP and spec.wire is not None:
            way = MeteredTransport(
                way,
                meter,
                spec.wire(),
                shape=self._spending.request if kind is Kind.LLM else None,
                drain=kind is Kind.LLM and self._settings.interrupted_streams == "drain",
            )
            self.taps.append(way)
        service = spec.make(
            Build(Choice(part.provider, part.model, options), endpoint, way, kind.value)
        )
        self._meters.add(service, meter, by_frames=spec.tap is Tap.FRAMES)
        return service

    def _keep_content(self, event: UsageEvent, opening: Opening, text: str) -> None:
        if self._settings.contents is not None and event.kind is Kind.LLM:
            self._settings.contents[event.id] = (list(opening.content or ()), text)
