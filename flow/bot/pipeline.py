"""The pipeline of one call, from the caller's audio to the bot's and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
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

from flow.bot.audio_input import AudioEnd
from flow.bot.cost_control import Spending
from flow.bot.idle_detection import IdleWatch
from flow.bot.log_context import Joined, span_attributes
from flow.bot.services import CallServices
from flow.bot.speech_detection import ListeningModels
from flow.bot.transports.spec import AudioFormat
from flow.bot.turn_latency import LatencyProcessor
from flow.bot.vendors import VENDORS
from flow.bot.vendors.spec import Choice, Vendor
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.thread import Turn
from flow.domain.usage.events import Kind, Owner
from flow.metering.request import Recording
from flow.vendors.model_endpoint import Endpoint

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
    calls are traced. ``heartbeat_secs`` are from one sign of life of a call to the next.
    """

    endpoints: Mapping[str, Endpoint]
    models: ListeningModels
    idle_timeout_secs: float
    interrupted_streams: Literal["estimate", "drain"]
    contents: dict[UUID, tuple[list[object], str]] | None
    joined: Joined | None = None
    heartbeat_secs: float = 5.0
    vendors: Mapping[str, Vendor] = field(default_factory=lambda: VENDORS)


@dataclass(frozen=True, slots=True)
class CallPipeline:
    """A built pipeline and the parts of it that a session listens to."""

    worker: PipelineWorker
    user: LLMUserAggregator
    assistant: LLMAssistantAggregator
    idle: IdleWatch
    latency: LatencyProcessor
    services: CallServices

    async def close(self) -> None:
        """Count whatever is still under way; the pipeline has ended."""
        await self.services.close()


def build_pipeline(
    join: JoinRequest,
    owner: Owner,
    transport: BaseTransport,
    audio: AudioFormat,
    recorder: Recording,
    settings: BotSettings,
    spending: Spending,
    said: Sequence[Turn] = (),
) -> CallPipeline:
    """Build the pipeline a join asks for. ``join`` has its vendors and models filled in.

    ``said`` is what the bot remembers of the conversation, where it comes in later.
    """
    services = CallServices(
        owner,
        recorder,
        settings.endpoints,
        control=spending.control,
        shape=spending.request,
        drain=settings.interrupted_streams == "drain",
        contents=settings.contents,
        vendors=settings.vendors,
    )
    stt, llm, tts = _services(join, services)
    context = LLMContext([{"role": turn.role, "content": turn.content} for turn in said])  # type: ignore[misc]
    pair = LLMContextAggregatorPair(
        context,
        user_params=LLMUserAggregatorParams(
            vad_analyzer=settings.models.vad(),
            user_turn_strategies=UserTurnStrategies(stop=[settings.models.turn_stop()]),
        ),
    )
    latency = LatencyProcessor(services.kind_of, name="latency")
    idle = IdleWatch(settings.idle_timeout_secs, name="idle")
    processors = [
        transport.input(),
        stt,
        pair.user(),
        AudioEnd(InputAudioRawFrame, name="heard"),
        idle,
        llm,
        tts,
        services.usage_processor,
        latency,
        transport.output(),
        AudioEnd(OutputAudioRawFrame, name="spoken"),
        pair.assistant(),
    ]
    services.adopt(processors)
    worker = PipelineWorker(
        Pipeline(processors),
        params=PipelineParams(
            audio_in_sample_rate=audio.sample_rate_in,
            audio_out_sample_rate=audio.sample_rate_out,
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
    return CallPipeline(worker, pair.user(), pair.assistant(), idle, latency, services)


def _services(
    join: JoinRequest, services: CallServices
) -> tuple[FrameProcessor, FrameProcessor, FrameProcessor]:
    """STT, LLM and TTS as a resolved join asks for them."""
    bot = join.bot
    chosen = (
        (Kind.STT, bot.stt, {"language": bot.language}),
        (
            Kind.LLM,
            bot.llm,
            {
                "system_instruction": bot.system_prompt or SYSTEM_PROMPT,
                "temperature": bot.llm.temperature,
                "max_tokens": bot.llm.max_tokens,
            },
        ),
        (Kind.TTS, bot.tts, {"voice": bot.tts.voice}),
    )
    made = []
    for kind, part, options in chosen:
        assert part.provider, "the join was not resolved"
        assert part.model, "the join was not resolved"
        made.append(services.build(kind, Choice(part.provider, part.model, options)))
    return made[0], made[1], made[2]
