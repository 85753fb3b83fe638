"""The bots of a service: the calls that run in this process, over any transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID

from flow.app.background_work import CallFinishing
from flow.app.clients import Clients
from flow.app.recordings import RecordingParts
from flow.app.shared_resources import Resources
from flow.domain.calls.bot_part import BotPart
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.thread import Thread
from flow.domain.limits.budget import Standing
from flow.errors import ConfigurationError, FlowError
from flow.ledger.recorder import Recorder
from flow.settings import Settings

if TYPE_CHECKING:
    from flow.api.dependencies import Transports
    from flow.bot.calls.call_manager import CallManager
    from flow.bot.calls.registry import CallRegistry
    from flow.bot.calls.room_calls import RoomCalls
    from flow.bot.calls.room_leases import RoomLeases
    from flow.bot.cost_control import Spending
    from flow.bot.model_choices import VendorModelChoices
    from flow.bot.pipeline import BotSettings
    from flow.bot.tools.open_tools import ToolSettings
    from flow.bot.transports.room_packages import RoomMedia

Contents = dict[UUID, tuple[list[object], str]]


async def build_calls(
    resources: Resources,
    clients: Clients,
    recorder: Recorder,
    finishing: CallFinishing,
    registry: CallRegistry,
    contents: Contents,
    tools: ToolSettings,
    recording: RecordingParts | None = None,
) -> CallManager:
    """The calls of this process, warmed up.

    Args:
        contents: receives prompts and answers, where the operator wants them captured.
        tools: what the tools of calls use.
        recording: ``None`` where no call can be recorded.

    Raises:
        ConfigurationError: a bot of the operator's own cannot be had.
    """
    from flow.bot.calls.call_manager import CallManager
    from flow.bot.join_defaults import Resolver
    from flow.bot.transports import TRANSPORTS
    from flow.bot.warmup import rehearse

    settings = resources.settings
    bot = await _bot_settings(resources, clients, contents, tools)
    defaults = bot_defaults(settings)
    resolver = Resolver(
        resources.products,
        defaults,
        clients.models,
        settings.turn_detection,
        bots=bot.bots,
        recording_days=None if recording is None else recording.days,
    )
    calls = CallManager(
        registry=registry,
        threads=resources.database,
        recorder=recorder,
        settings=bot,
        resolver=resolver,
        transports=TRANSPORTS,
        spending=_cost_control(resources),
        finish=finishing.finish,
        name=finishing.executor.name,
        watch=resources.watch,
        recorders=None if recording is None else recording.recorders(),
    )
    with suppress(FlowError):  # a service without a default bot has nothing to warm up
        join = resolver.resolve(JoinRequest())
        await rehearse(join, bot, resources.products.for_call(join.product))
    return calls


def build_room_calls(
    resources: Resources,
    clients: Clients,
    recorder: Recorder,
    finishing: CallFinishing,
    calls: CallManager,
    media: RoomMedia | None,
) -> tuple[RoomCalls, RoomLeases | None]:
    """The calls in rooms, and the leases by which processes share them.

    Without the URL of a Postgres there is no queue, so no lease: calls run where they are joined.
    """
    from flow.bot.calls.room_calls import RoomCalls
    from flow.bot.calls.room_leases import RoomLeases
    from flow.bot.transports import TRANSPORTS, of_kind
    from flow.bot.transports.room_packages import InstalledRoomMedia
    from flow.bot.transports.spec import RoomSpec

    specs = of_kind(RoomSpec, TRANSPORTS)
    media = media or InstalledRoomMedia(specs)
    if finishing.queues is None:
        return RoomCalls(specs, clients.rooms, media, calls), None
    leases = RoomLeases(
        rooms=clients.rooms,
        media=media,
        manager=calls,
        records=resources.database.room_calls,
        queue=finishing.queues.rooms,
        finish=finishing.finish,
        stored=recorder.drain,
        rejoin_secs=resources.settings.rejoin_grace_secs,
    )
    return RoomCalls(specs, clients.rooms, media, calls, leases), leases


def build_transports(resources: Resources, clients: Clients, calls: CallManager) -> Transports:
    """The ways in which callers connect, for the API."""
    from flow.api.dependencies import Transports
    from flow.bot.calls.caller_calls import MediaStreamCalls, OfferCalls, SocketCalls
    from flow.bot.transports import TRANSPORTS, of_kind
    from flow.bot.transports.spec import MediaStreamSpec, OfferSpec, SocketSpec

    sockets, offers = of_kind(SocketSpec, TRANSPORTS), of_kind(OfferSpec, TRANSPORTS)
    streams = of_kind(MediaStreamSpec, TRANSPORTS)
    legs, prefixes = resources.database.telephony, resources.settings.dial_prefixes
    return Transports(
        specs=TRANSPORTS,
        sockets={name: SocketCalls(spec, calls) for name, spec in sockets.items()},
        offers={name: OfferCalls(spec, calls) for name, spec in offers.items()},
        streams={
            name: MediaStreamCalls(streams[name], carrier, calls, legs, prefixes)
            for name, carrier in clients.carriers.items()
        },
    )


def build_model_choices(resources: Resources, clients: Clients) -> VendorModelChoices:
    """The vendors and models that joins can choose from."""
    from flow.bot.model_choices import VendorModelChoices

    return VendorModelChoices(clients.models, resources.has_price, resources.models_of)


async def _bot_settings(
    resources: Resources, clients: Clients, contents: Contents, tools: ToolSettings
) -> BotSettings:
    from flow.bot.custom.bot_functions import find_bots
    from flow.bot.pipeline import BotSettings
    from flow.bot.speech_detection import ListeningModels

    settings = resources.settings
    return BotSettings(
        endpoints=clients.models,
        models=await asyncio.to_thread(
            ListeningModels, settings.turn_detection, settings.turn_silence_secs
        ),
        idle_timeout_secs=settings.idle_timeout_secs,
        heartbeat_secs=settings.heartbeat_secs,
        interrupted_streams=settings.interrupted_streams,
        contents=contents if settings.capture_content else None,
        tools=tools,
        joined=None if resources.tracing is None else resources.tracing.joined,
        bots=await asyncio.to_thread(find_bots, settings.bots),
        has_price=resources.has_price,
    )


def bot_defaults(settings: Settings) -> dict[str, dict[str, str]]:
    """Vendor, model and voice where neither join nor product names one, by the part of a bot.

    Raises:
        ConfigurationError: a vendor is set without its model.
    """
    return {part.value: _default(settings, part) for part in BotPart}


def _default(settings: Settings, part: BotPart) -> dict[str, str]:
    provider, model = (getattr(settings, f"{part}_{name}") for name in ("provider", "model"))
    is_usual = provider == Settings.model_fields[f"{part}_provider"].default
    if not is_usual and f"{part}_model" not in settings.model_fields_set:
        raise ConfigurationError(
            f"FLOW_{part.upper()}_MODEL is missing: name a model of {provider!r}, which"
            f" FLOW_{part.upper()}_PROVIDER names."
        )
    # OpenAI's usual voice is one that no other vendor has.
    voice = getattr(settings, f"{part}_voice", None) or ("alloy" if is_usual else None)
    has_voice = part in (BotPart.TTS, BotPart.REALTIME) and voice
    return {"provider": provider, "model": model, **({"voice": voice} if has_voice else {})}


def _cost_control(resources: Resources) -> Callable[[Thread, JoinRequest, Standing], Spending]:
    from flow.bot.cost_control import Spending

    def cost_control(thread: Thread, join: JoinRequest, standing: Standing) -> Spending:
        return Spending(
            resources.products.for_call(thread.product),
            cache_key=str(thread.id),
            join_mode=join.save_mode,
            standing=standing,
            enabled=lambda: resources.flag.enabled(thread.api_key_id, thread.team_id),
            forced=resources.forced_cost_controls,
            on_engaged=resources.watch.saving,
        )

    return cost_control
