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

from flow.bot.generation import ChatWatch
from flow.bot.idle import IdleWatch
from flow.bot.intake import AudioEnd
from flow.bot.metering import Meter, Recording, Service
from flow.bot.metrics import UsageMetricsProcessor
from flow.bot.models import ListeningModels
from flow.bot.named import Joined, span_attributes
from flow.bot.services import VENDORS, Build, Choice
from flow.bot.spending import Spending
from flow.bot.transports import SAMPLE_RATE_IN, SAMPLE_RATE_OUT
from flow.domain.join import JoinRequest
from flow.domain.thread import Turn
from flow.domain.usage import Owner
from flow.vendors.openai import OpenAIClients

SYSTEM_PROMPT = (
    "You are a helpful assistant on a phone call. Your words are spoken aloud: answer in short,"
    " plain sentences without lists, markup or emoji."
)


@dataclass(frozen=True, slots=True)
class BotSettings:
    """What is the same for every call of a process.

    ``interrupted_streams`` says how a generation that a caller cut off is counted: ``estimate``
    or ``drain`` (see `ChatWatch`). ``contents`` receives the messages and output of each
    generation by event id, where capturing content is switched on. ``joined`` is there where
    calls are traced.
    """

    clients: Mapping[str, OpenAIClients]
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
    watches: list[ChatWatch] = field(default_factory=list)
    meters: list[Meter] = field(default_factory=list)

    async def close(self) -> None:
        """Count whatever is still under way; the pipeline has ended."""
        for watch in self.watches:
            await watch.close()
        for meter in self.meters:
            meter.close()


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
    watches: list[ChatWatch] = []
    meters: list[Meter] = []

    def meter(service: Service) -> Meter:
        meters.append(Meter(service, owner, recorder, spending.control))
        return meters[-1]

    def watch(meter: Meter) -> ChatWatch:
        keep = None
        if (contents := settings.contents) is not None:

            def keep(event_id: UUID, messages: list[object], output: str) -> None:
                contents[event_id] = (messages, output)

        drain = settings.interrupted_streams == "drain"
        watches.append(ChatWatch(meter, shape=spending.request, drain=drain, keep_content=keep))
        return watches[-1]

    stt, llm, tts = _services(join, Build(owner, meter, watch, settings.clients))
    context = LLMContext([{"role": turn.role, "content": turn.content} for turn in said])  # type: ignore[misc]
    pair = LLMContextAggregatorPair(
        context,
        user_params=LLMUserAggregatorParams(
            vad_analyzer=settings.models.vad(),
            user_turn_strategies=UserTurnStrategies(stop=[settings.models.turn_stop()]),
        ),
    )
    metrics = UsageMetricsProcessor(
        owner,
        recorder,
        metered=[stt.name, llm.name, tts.name],
        control=spending.control,
        name="usage",
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
                metrics,
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
    return Line(worker, pair.user(), pair.assistant(), idle, watches, meters)


def _services(
    join: JoinRequest, build: Build
) -> tuple[FrameProcessor, FrameProcessor, FrameProcessor]:
    bot = join.bot
    stt, llm, tts = bot.stt, bot.llm, bot.tts
    chosen = (
        (VENDORS[stt.provider or ""].stt, stt, {"language": bot.language}),
        (
            VENDORS[llm.provider or ""].llm,
            llm,
            {
                "system_instruction": bot.system_prompt or SYSTEM_PROMPT,
                "temperature": llm.temperature,
                "max_tokens": llm.max_tokens,
            },
        ),
        (VENDORS[tts.provider or ""].tts, tts, {"voice": tts.voice}),
    )
    made = []
    for make, part, options in chosen:
        assert make, f"{part.provider} has no such service"
        assert part.provider, "the join was not resolved"
        assert part.model, "the join was not resolved"
        made.append(make(Choice(part.provider, part.model, options), build))
    return made[0], made[1], made[2]
