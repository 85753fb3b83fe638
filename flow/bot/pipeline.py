"""The pipeline of one call, from the caller's audio to the bot's and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.adapters.llm.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    LLMMessagesAppendFrame,
    OutputAudioRawFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker, ProcessorUnusablePolicy
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMAssistantAggregator,
    LLMContextAggregatorPair,
    LLMUserAggregator,
    LLMUserAggregatorParams,
)
from pipecat.processors.aggregators.llm_text_processor import LLMTextProcessor
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.transports.base_transport import BaseTransport

from flow.bot.audio_input import AudioEnd
from flow.bot.cost_control import Spending
from flow.bot.first_clause import FirstClauseAggregator
from flow.bot.flows.call_flow import CallFlow, remembered
from flow.bot.idle_detection import IdleWatch
from flow.bot.log_context import Joined, span_attributes
from flow.bot.pressed_keys import PressedKeys
from flow.bot.question_gate import QuestionGate
from flow.bot.rtvi import CallerRtvi
from flow.bot.service_choices import choice_of
from flow.bot.services import CallServices
from flow.bot.speech_detection import CallListening, ListeningModels
from flow.bot.tools.call_tools import CallTools
from flow.bot.tools.memory import messages_of
from flow.bot.tools.open_tools import ToolSettings
from flow.bot.transports.spec import AudioFormat
from flow.bot.turn_latency import LatencyProcessor
from flow.bot.turn_order import CallerTurns, OrderedTurns
from flow.bot.vendors import VENDORS
from flow.bot.vendors.spec import Vendor
from flow.domain.calls.bot_part import CASCADE, BotPart
from flow.domain.calls.ending import EndReason
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.thread import Turn
from flow.domain.calls.tool_call import ToolCall
from flow.domain.pricing.unpriced_models import HasPrice
from flow.domain.usage.events import Owner
from flow.metering.request import Recording
from flow.vendors.model_endpoint import Endpoint

if TYPE_CHECKING:
    from flow.bot.custom.bot_functions import BotFunction
    from flow.bot.custom.bot_run import BotRun


@dataclass(frozen=True, slots=True)
class BotSettings:
    """What is the same for every call of a process.

    ``interrupted_streams`` says how a generation that a caller cut off is counted: ``estimate``
    or ``drain`` (see `MeteredTransport`). ``contents`` receives the messages and output of each
    generation by event id, where capturing content is switched on. ``joined`` is there where
    calls are traced. ``heartbeat_secs`` are from one sign of life of a call to the next. ``bots``
    are those of the operator's own, by the names that joins give them; ``has_price`` is asked of
    what they use.
    """

    endpoints: Mapping[str, Endpoint]
    models: ListeningModels
    idle_timeout_secs: float
    interrupted_streams: Literal["estimate", "drain"]
    contents: dict[UUID, tuple[list[object], str]] | None
    tools: ToolSettings
    joined: Joined | None = None
    heartbeat_secs: float = 5.0
    vendors: Mapping[str, Vendor] = field(default_factory=lambda: VENDORS)
    bots: Mapping[str, BotFunction] = field(default_factory=dict)
    has_price: HasPrice = lambda *_: True


Speak = Callable[[str], Frame]
"""Makes the frame that has the bot say a text."""


def spoken_by_voice(text: str) -> Frame:
    """Has the voice say a text, word for word."""
    return TTSSpeakFrame(text)


def spoken_by_model(text: str) -> Frame:
    """Has a model that speaks by itself say a text; it cannot be held to every word."""
    told = f"Say this to the caller now, word for word, and nothing else: {text}"
    return LLMMessagesAppendFrame([{"role": "developer", "content": told}], run_llm=True)


def speech_of(join: JoinRequest) -> Speak:
    """How the bot of a join is made to speak."""
    return spoken_by_voice if join.bot.realtime is None else spoken_by_model


@dataclass(frozen=True, slots=True)
class CallPipeline:
    """A built pipeline, the parts of it that a session listens to, and how it is made to speak.

    ``rtvi`` speaks with the caller's client, where that speaks RTVI. ``user`` and ``assistant``
    are ``None`` where nothing gathers what is said, ``questions`` where it is not Flow that asks;
    ``bot`` is the function of a bot of the operator's own, which may be at work as long as the
    call, and may have nothing that can be made to speak.
    """

    worker: PipelineWorker
    user: LLMUserAggregator | None
    assistant: LLMAssistantAggregator | None
    idle: IdleWatch
    questions: QuestionGate | None
    latency: LatencyProcessor
    services: CallServices
    speak: Speak = spoken_by_voice
    bot: BotRun | None = None
    rtvi: CallerRtvi | None = None
    can_speak: bool = True
    tools: CallTools | None = None
    keys: PressedKeys | None = None
    flow: CallFlow | None = None
    owes_reply: bool = False
    """The bot takes up a call in which it has said nothing yet of what a tool did."""

    @property
    def can_be_told(self) -> bool:
        """Whether a message can be added to the conversation from outside."""
        if self.bot is not None and self.speak is spoken_by_model:
            return False  # its model may be one that takes no notes
        return self.assistant is not None

    @property
    def tells_when_said(self) -> bool:
        """Whether what the bot is made to say comes later than whatever follows it down the
        pipeline, and is known to be said by the end of the assistant's turn alone."""
        return self.speak is spoken_by_model and self.assistant is not None

    def stop_listening(self) -> None:
        """Have a model that hears by itself answer nothing more: it would speak after the goodbye,
        and the caller would be hung up on only when all of that has sounded."""
        if self.tells_when_said and isinstance(self.user, CallerTurns):
            self.user.stop_listening()

    async def close(self, reason: EndReason = EndReason.PIPELINE_ENDED) -> None:
        """Count whatever is still under way; the pipeline has ended, for this reason."""
        if self.bot is not None:
            await self.bot.finish(reason)
        if self.tools is not None:
            await self.tools.close()
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
    tools: CallTools | None = None,
    used: Sequence[ToolCall] = (),
) -> CallPipeline:
    """Build the pipeline a join asks for. ``join`` has its vendors and models filled in.

    ``said`` and ``used`` are what the bot remembers of the conversation and of its tools, where it
    comes in later.
    """
    services = call_services(owner, recorder, settings, spending)
    bot = join.bot
    # A flow has others at each node.
    schemas = () if tools is None or bot.flow is not None else tools.schemas
    built = {part: services.build(part, choice_of(part, bot), schemas) for part in bot.parts}
    is_realtime = BotPart.REALTIME in built
    model: Any = built[BotPart.REALTIME if is_realtime else BotPart.LLM]
    if tools is not None and bot.flow is None:
        tools.register(model)
    listening = settings.models.listening(
        bot.turn_detection, services.hearing, spending.may_ask_early
    )
    # Without any tools (their server is gone) vendors refuse a conversation that has calls of them.
    messages = messages_of(said, used, in_words=is_realtime or not schemas)
    owes_reply = bool(messages) and messages[-1]["role"] in ("tool", "developer")
    if bot.flow is not None:
        messages = remembered(bot.flow, said, used)
    # A session has its tools from its beginning.
    context = context_of(messages, () if is_realtime else schemas)
    pair = aggregator_pair(context, listening)
    latency = LatencyProcessor(services.kind_of, name="latency")
    questions = QuestionGate(name="questions")
    idle = IdleWatch(settings.idle_timeout_secs, name="idle")
    keys = PressedKeys() if bot.keys else None
    between = [idle, questions, *([] if tools is None else [tools.voice])]
    heard = _hearing(transport, between, pair, built, bot.language)
    processors = [
        *(heard if keys is None else [heard[0], keys, *heard[1:]]),
        services.usage_processor,
        latency,
        transport.output(),
        AudioEnd(OutputAudioRawFrame, name="spoken"),
        pair.assistant(),
    ]
    services.adopt(processors)
    rtvi = rtvi_of(join, services)
    worker = pipeline_worker(processors, owner, audio, settings, rtvi)
    flow = None
    if bot.flow is not None and tools is not None:
        flow = CallFlow(bot.flow, tools, worker, pair, model, said, used, owes_reply=owes_reply)
    return CallPipeline(
        worker=worker,
        user=pair.user(),
        assistant=pair.assistant(),
        idle=idle,
        questions=questions,
        latency=latency,
        services=services,
        speak=speech_of(join),
        tools=tools,
        flow=flow,
        owes_reply=owes_reply,
        rtvi=rtvi,
        keys=keys,
    )


def call_services(
    owner: Owner, recorder: Recording, settings: BotSettings, spending: Spending
) -> CallServices:
    """What the services of one call are built by, each with its meter."""
    return CallServices(
        owner,
        recorder,
        settings.endpoints,
        control=spending.control,
        shape=spending.request,
        model=spending.model,
        drain=settings.interrupted_streams == "drain",
        contents=settings.contents,
        vendors=settings.vendors,
    )


def context_of(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[FunctionSchema] = ()
) -> LLMContext:
    """A context in which so much has been said and done, with these tools."""
    if not tools:
        return LLMContext([*messages])  # type: ignore[list-item]
    return LLMContext([*messages], ToolsSchema(standard_tools=[*tools]))  # type: ignore[list-item]


def aggregator_pair(context: LLMContext, listening: CallListening) -> LLMContextAggregatorPair:
    """What gathers the turns of both sides into a context."""
    return OrderedTurns(
        context,
        user_params=LLMUserAggregatorParams(
            vad_analyzer=listening.vad, user_turn_strategies=listening.strategies
        ),
    )


def rtvi_of(join: JoinRequest, services: CallServices) -> CallerRtvi | None:
    """What speaks RTVI with the caller's client, where the join asks for that."""
    allowed = join.transport.rtvi
    return None if allowed is None else CallerRtvi(allowed, services.kind_of)


def pipeline_worker(
    processors: Sequence[FrameProcessor],
    owner: Owner,
    audio: AudioFormat,
    settings: BotSettings,
    rtvi: CallerRtvi | None = None,
) -> PipelineWorker:
    """What runs a call's pipeline of these processors; ``rtvi`` stands before the first."""
    return PipelineWorker(
        Pipeline([*processors]),
        params=PipelineParams(
            audio_in_sample_rate=audio.sample_rate_in,
            audio_out_sample_rate=audio.sample_rate_out,
            enable_metrics=True,
            enable_usage_metrics=True,
            send_initial_empty_metrics=False,
        ),
        idle_timeout_secs=None,  # `IdleWatch` costs less
        processor_unusable_policy=ProcessorUnusablePolicy.CONTINUE,
        enable_rtvi=rtvi is not None,
        rtvi_processor=rtvi,
        rtvi_observer_params=None if rtvi is None else rtvi.observing,
        capabilities=None if rtvi is None else rtvi.capabilities,
        # Spans are made by what follows the turns, which costs a little on every frame.
        enable_turn_tracking=settings.joined is not None,
        enable_tracing=settings.joined is not None,
        additional_span_attributes=span_attributes(owner),
        conversation_id=str(owner.workflow_thread_id),
    )


def _hearing(
    transport: BaseTransport,
    between: Sequence[FrameProcessor],
    pair: LLMContextAggregatorPair,
    built: Mapping[BotPart, FrameProcessor],
    language: str | None,
) -> list[FrameProcessor]:
    """From the caller's sound to the bot's, with ``between`` before the model.

    A model that hears by itself needs the sound longer.
    """
    heard = AudioEnd(InputAudioRawFrame, name="heard")
    if (realtime := built.get(BotPart.REALTIME)) is not None:
        return [transport.input(), pair.user(), *between, realtime, heard]
    stt, llm, tts = (built[part] for part in CASCADE)
    clauses = FirstClauseAggregator(language=language)  # type: ignore[no-untyped-call]
    # It never waits, so it needs no task and queues of its own.
    text = LLMTextProcessor(text_aggregator=clauses, name="text", enable_direct_mode=True)
    return [transport.input(), stt, pair.user(), heard, *between, llm, text, tts]
