"""The pipeline of a call whose bot is of the operator's own: made of what its function gives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeVar

import structlog
from pipecat.processors.aggregators.llm_response_universal import (
    LLMAssistantAggregator,
    LLMUserAggregator,
)
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.processors.frameworks.rtvi import RTVIProcessor
from pipecat.services.llm_service import LLMService
from pipecat.services.tts_service import TTSService
from pipecat.transports.base_transport import BaseTransport

from flow.bot.cost_control import Spending
from flow.bot.custom.bot_run import GIVE_ONE, BotRun
from flow.bot.custom.call import Call
from flow.bot.custom.handover import Handover
from flow.bot.idle_detection import IdleWatch
from flow.bot.pipeline import (
    BotSettings,
    CallPipeline,
    call_services,
    pipeline_worker,
    rtvi_of,
    spoken_by_model,
    spoken_by_voice,
)
from flow.bot.services import CallServices, all_processors
from flow.bot.transports.spec import AudioFormat
from flow.bot.turn_latency import LatencyProcessor
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.thread import Turn
from flow.domain.pricing.unpriced_models import HasPrice
from flow.domain.products.product import ModelName
from flow.domain.usage.events import Owner
from flow.errors import BotFailed, ConfigurationError
from flow.metering.request import Recording

log = structlog.get_logger(__name__)

P = TypeVar("P", bound=FrameProcessor)


async def build_bot_pipeline(
    name: str,
    join: JoinRequest,
    owner: Owner,
    transport: BaseTransport,
    audio: AudioFormat,
    recorder: Recording,
    settings: BotSettings,
    spending: Spending,
    said: Sequence[Turn] = (),
) -> CallPipeline:
    """Have the bot called ``name`` give its pipeline. The rest is as for `build_pipeline`.

    Raises:
        BotFailed: there is no such bot here, it raised, it gave no pipeline, or one that cannot
            be run or metered.
    """
    function = settings.bots.get(name)
    if function is None:
        raise BotFailed(name, ConfigurationError("no such bot is registered here"))
    services = call_services(owner, recorder, settings, spending)
    handover = Handover()
    listen = partial(
        settings.models.listening, join.bot.turn_detection, may_ask_early=spending.may_ask_early
    )
    call = Call(join, owner, transport, audio, said, services, listen, handover)
    bound = log.bind(bot=name, workflow_thread_id=str(owner.workflow_thread_id))
    bot = BotRun(name, function(call), handover, bound)
    try:
        given = processors_of(await bot.given())
        everything = [*all_processors(given)]
        if transport.input() not in everything:
            raise ConfigurationError("call.transport.input() is not in its pipeline")
        if any(isinstance(one, RTVIProcessor) for one in everything):
            raise ConfigurationError(
                "its pipeline has an RTVIProcessor: Flow adds one where the join asks for RTVI"
            )
        services.adopt(given)
        if spending.needs_prices:
            _require_prices(services, settings.has_price)
        idle = IdleWatch(settings.idle_timeout_secs, name="idle")
        # Who speaks is told upstream too, where no sound passes; usage passes the end, wherever
        # in the pipeline it comes from.
        latency = LatencyProcessor(services.kind_of, name="latency")
        processors = [idle, *given, services.usage_processor, latency]
        rtvi = rtvi_of(join, services)
        worker = pipeline_worker(processors, owner, audio, settings, rtvi)
    except Exception as error:
        await bot.give_up(error)
        await services.close()
        raise BotFailed(name, error) from error
    except BaseException:
        bot.cancel()
        raise
    handover.worker.set_result(worker)
    has_model, has_voice = (
        any(isinstance(one, kind) for one in everything) for kind in (LLMService, TTSService)
    )
    return CallPipeline(
        worker=worker,
        user=_first(LLMUserAggregator, everything),
        assistant=_first(LLMAssistantAggregator, everything),
        idle=idle,
        questions=None,
        latency=latency,
        services=services,
        speak=spoken_by_model if has_model and not has_voice else spoken_by_voice,
        bot=bot,
        rtvi=rtvi,
        can_speak=has_voice or has_model,
    )


def processors_of(given: object) -> list[FrameProcessor]:
    """The processors of what a bot gave.

    Raises:
        ConfigurationError: it is no pipeline.
    """
    processors = [given] if isinstance(given, FrameProcessor) else given
    if not isinstance(processors, Sequence) or not processors:
        raise ConfigurationError(f"it gave {type(given).__name__}, not a pipeline: {GIVE_ONE}")
    for processor in processors:
        if not isinstance(processor, FrameProcessor):
            raise ConfigurationError(f"its pipeline has a {type(processor).__name__} in it")
    return [*processors]


def _require_prices(services: CallServices, has_price: HasPrice) -> None:
    without = {
        str(ModelName(one.provider, one.model))
        for one in services.all_metered
        if not has_price(one.kind, one.provider, one.model)
    }
    if without:
        raise ConfigurationError(
            f"no price is known for {', '.join(sorted(without))}, and this key has a budget, which"
            " cannot hold what has no price"
        )


def _first(kind: type[P], processors: Sequence[FrameProcessor]) -> P | None:
    return next((one for one in processors if isinstance(one, kind)), None)
