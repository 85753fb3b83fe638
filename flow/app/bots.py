"""The bots of a service: what their calls are made of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from flow.app.background import AfterCalls
from flow.app.clients import Outside
from flow.app.resources import Ground
from flow.app.usage_recording import Announcer
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.thread import Thread
from flow.domain.limits.budget import Standing
from flow.errors import FlowError
from flow.ledger.recorder import Recorder
from flow.settings import Settings

if TYPE_CHECKING:
    from flow.bot.calls.call_manager import Calls
    from flow.bot.cost_control import Spending
    from flow.bot.pipeline import BotSettings

# For calls of a service that nobody has drained before.
GRACE_SECS = 10.0


@asynccontextmanager
async def talking(
    ground: Ground, outside: Outside, recorder: Recorder, announcer: Announcer, after: AfterCalls
) -> AsyncIterator[Calls]:
    """The calls of this process; leaving the block ends those that do not end by themselves."""
    from flow.bot.calls.call_manager import Calls
    from flow.bot.calls.registry import Roster
    from flow.bot.join_resolver import Resolver
    from flow.bot.warmup import rehearse

    settings = ground.settings
    bot = await _bot_settings(ground, outside, announcer)
    resolver = Resolver(ground.products, bot_defaults(settings), outside.models)
    roster = Roster(settings.max_calls)
    calls = Calls(
        roster=roster,
        threads=ground.database,
        recorder=recorder,
        settings=bot,
        resolver=resolver,
        spending=_spending(ground),
        finish=after.finish,
        name=after.name,
        telephone=outside.telephone,
        watch=ground.watch,
    )
    announcer.calls = calls
    with suppress(FlowError):  # a service without a default bot has nothing to rehearse
        join = resolver.resolve(JoinRequest())
        await rehearse(join, bot, ground.products.for_call(join.product))
    try:
        yield calls
    finally:
        await roster.close(0 if roster.capacity.draining else GRACE_SECS)


async def _bot_settings(ground: Ground, outside: Outside, announcer: Announcer) -> BotSettings:
    from flow.bot.pipeline import BotSettings
    from flow.bot.speech_detection import ListeningModels

    settings = ground.settings
    return BotSettings(
        endpoints=outside.models,
        models=await asyncio.to_thread(ListeningModels, settings.turn_detection),
        idle_timeout_secs=settings.idle_timeout_secs,
        interrupted_streams=settings.interrupted_streams,
        contents=announcer.contents if settings.capture_content else None,
        joined=None if ground.tracing is None else ground.tracing.joined,
    )


def bot_defaults(settings: Settings) -> dict[str, dict[str, str]]:
    """Vendor, model and voice where neither join nor product names one, by the part of a bot."""
    return {
        "llm": {"provider": settings.llm_provider, "model": settings.llm_model},
        "stt": {"provider": settings.stt_provider, "model": settings.stt_model},
        "tts": {
            "provider": settings.tts_provider,
            "model": settings.tts_model,
            "voice": settings.tts_voice,
        },
    }


def _spending(ground: Ground) -> Callable[[Thread, JoinRequest, Standing], Spending]:
    from flow.bot.cost_control import Spending

    def spending(thread: Thread, join: JoinRequest, standing: Standing) -> Spending:
        return Spending(
            ground.products.for_call(thread.product),
            cache_key=str(thread.id),
            join_mode=join.save_mode,
            standing=standing,
            enabled=lambda: ground.flag.enabled(thread.api_key_id, thread.team_id),
            forced=ground.forced,
            on_engaged=ground.watch.saving,
        )

    return spending
