"""The composition root: settings in, a running service out.

Everything that is shared in a process is made here and passed on as values. Things are closed
in the opposite order of making, so that what a call still has to say finds somebody to hear it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from posthog import Posthog
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from flow.db.functions import Database, Recorded
from flow.domain.analytics import Content
from flow.domain.budget import Standing
from flow.domain.estimate import warm_up
from flow.domain.join import JoinRequest
from flow.domain.price import Pricer
from flow.domain.product import Products
from flow.domain.product_file import read_products
from flow.domain.thread import Thread
from flow.domain.usage import UsageEvent
from flow.errors import AuthUnavailable, FlowError
from flow.insights.extract import ExtractInsightsStep
from flow.settings import Settings
from flow.store import database_and_url
from flow.telemetry.calls import CallWatch
from flow.telemetry.database import MeasuredTransport
from flow.telemetry.exposition import exposed
from flow.telemetry.flushes import FlushWatch
from flow.telemetry.metrics import Metrics
from flow.telemetry.usage import count_usage
from flow.usage.recorder import Recorder
from flow.vendors.daily import Daily
from flow.vendors.livekit import LiveKit
from flow.vendors.openai import OpenAIClients
from flow.vendors.posthog import (
    capture_llm_generation,
    capture_trace,
    get_posthog_client,
    shutdown_posthog,
)
from flow.vendors.posthog_flags import FeatureFlag
from flow.vendors.quota_source import QuotaSource
from flow.vendors.rooms import Rooms
from flow.vendors.twilio import Twilio
from flow.vendors.unkey import DebugKeys, KeyVerifier
from flow.vendors.webhooks import WebhookSender

if TYPE_CHECKING:
    from flow.bot.calls import Calls
    from flow.bot.models import ListeningModels
    from flow.bot.pipeline import BotSettings
    from flow.bot.rooms import Media
    from flow.bot.spending import Spending
    from flow.telemetry.tracing import Tracing
    from flow.workflows.deliver import Deliverer
    from flow.workflows.insights import CallInsights

logger = structlog.get_logger(__name__)

SECRET_BYTES = 32
DRAIN_GRACE_SECS = 10.0
NO_KEY = "not-needed"


@dataclass(frozen=True, slots=True)
class Service:
    """A running service: its ASGI app, and the parts that commands and tests look into."""

    app: Any
    database: Database
    recorder: Recorder
    registry: CollectorRegistry


@asynccontextmanager
async def running(settings: Settings, *, media: Media | None = None) -> AsyncIterator[Service]:
    """A running service; leaving the context ends its calls and brings their usage home.

    ``media`` takes the place of what carries sound into the rooms of Daily and LiveKit.

    Raises:
        ConfigurationError: the settings do not allow a start.
        DatabaseUnavailable: the database cannot be reached.
    """
    # Pipecat takes seconds to import, and only a process that serves calls needs it.
    from flow.api.app import create_app
    from flow.api.services import Services
    from flow.bot.calls import Calls
    from flow.bot.models import ListeningModels
    from flow.bot.rehearsal import rehearse
    from flow.bot.resolve import Resolver, vendors_by_part
    from flow.bot.room_calls import RoomCalls
    from flow.bot.rooms import VendorMedia
    from flow.finishing import after_calls
    from flow.workflows.finish import Steps

    async with AsyncExitStack() as stack:
        registry = CollectorRegistry()
        tracing = _tracing(settings)
        if tracing is not None:
            stack.push_async_callback(tracing.aclose)
        products = read_products(settings.products_file, vendors_by_part())
        metrics = _metrics(registry, products)
        watch, flushes = CallWatch(metrics), FlushWatch(metrics)
        price = (await asyncio.to_thread(Pricer.read, settings.prices_file)).price
        database, url = await stack.enter_async_context(
            database_and_url(settings, lambda transport: MeasuredTransport(transport, metrics))
        )
        posthog = get_posthog_client(
            settings.posthog_api_key,
            settings.posthog_host,
            capture_content=settings.capture_content,
            price=price,
            on_lost=lambda reason, events: metrics.posthog_lost.labels(reason).inc(events),
        )
        stack.push_async_callback(shutdown_posthog, posthog)
        flag = FeatureFlag(posthog, registry=registry)
        stack.push_async_callback(flag.aclose)
        contents: dict[UUID, tuple[list[object], str]] = {}
        recorder, listeners = _recorder(
            settings.data_dir / "spool", database, price, posthog, contents, metrics, flushes
        )
        stack.push_async_callback(recorder.close)
        recorder.start()
        clients = _clients(settings, posthog)
        stack.push_async_callback(clients["openai"].close)
        webhooks = await stack.enter_async_context(_delivering(settings, database, registry))
        steps = Steps(
            database,
            recorder,
            _insights(settings, products, clients["openai"], recorder, database, flag),
            lambda thread: _finished(posthog, webhooks, thread),
        )
        after = await stack.enter_async_context(
            after_calls(settings, url, database, recorder, steps)
        )
        telephone = _telephone(settings)
        if telephone is not None:
            stack.push_async_callback(telephone.aclose)
        rooms = _rooms(settings)
        stack.push_async_callback(rooms.aclose)
        models = await asyncio.to_thread(ListeningModels, settings.turn_detection)
        bot = _bot_settings(settings, clients, models, contents, tracing)
        resolver = Resolver(products, _defaults(settings), clients)
        calls = Calls(
            threads=database,
            recorder=recorder,
            settings=bot,
            resolver=resolver,
            spending=_spending(settings, products, flag, watch),
            finish=after.finish,
            most=settings.max_calls,
            name=after.name,
            telephone=telephone,
            watch=watch,
        )
        listeners.append(calls)
        stack.push_async_callback(calls.close, DRAIN_GRACE_SECS)
        keys = _keys(settings, registry)
        stack.push_async_callback(keys.aclose)
        with suppress(AuthUnavailable):
            # The SDK is slow at its first call, which is not to be a customer's.
            await keys.check()
        quotas = _quotas(settings, registry)
        if quotas is not None:
            stack.push_async_callback(quotas.aclose)
        shown = await stack.enter_async_context(
            exposed(registry, lambda: _sample(metrics, recorder, flushes, calls, watch))
        )
        services = Services(
            database=database,
            keys=keys,
            calls=calls,
            products=products,
            quotas=quotas,
            telephone=telephone,
            rooms=RoomCalls(rooms, media or VendorMedia(), calls),
            secret=_secret(settings),
            registry=shown,
            metrics=metrics,
            traces=tracing,
            public_url=settings.public_url,
            join_token_secs=settings.join_token_secs,
            allow_private_webhooks=settings.webhooks_allow_private,
        )
        await asyncio.to_thread(warm_up)
        with suppress(FlowError):  # a service without a default bot has nothing to rehearse
            join = resolver.resolve(JoinRequest())
            await rehearse(join, bot, products.for_call(join.product))
        yield Service(create_app(services), database, recorder, shown)


def _recorder(
    spool: Path,
    database: Database,
    price: Callable[[UsageEvent], UsageEvent],
    posthog: Posthog | None,
    contents: dict[UUID, tuple[list[object], str]],
    metrics: Metrics,
    flushes: FlushWatch,
) -> tuple[Recorder, list[Calls]]:
    """The recorder, and the list of whoever is to hear what the ledger says of running calls."""
    listeners: list[Calls] = []

    def on_recorded(events: Sequence[UsageEvent], recorded: Recorded) -> None:
        count_usage(metrics, events, recorded.new)
        for event in events:
            kept = contents.pop(event.id, None)
            said = kept and Content(kept[0], [{"role": "assistant", "content": kept[1]}])
            capture_llm_generation(posthog, event, content=said)
        for thread_id, account in recorded.threads.items():
            for calls in listeners:
                calls.heard(
                    thread_id, end_requested=account.end_requested, standing=account.standing
                )

    recorder = Recorder(
        database,
        spool,
        price=price,
        on_recorded=on_recorded,
        watch=flushes,
    )
    return recorder, listeners


def _clients(settings: Settings, posthog: Posthog | None) -> dict[str, OpenAIClients]:
    """Clients for OpenAI and for every other vendor whose key is in the environment."""
    from flow.bot.services import VENDORS

    openai = OpenAIClients(
        settings.openai_api_key or SecretStr(NO_KEY), settings.openai_base_url, posthog=posthog
    )
    clients = {"openai": openai}
    for name, vendor in VENDORS.items():
        key = os.environ.get(vendor.key, "")
        url = os.environ.get(vendor.base_url_variable) or vendor.base_url
        if key and url and name != "openai":
            clients[name] = openai.elsewhere(SecretStr(key), url)
    return clients


def _bot_settings(
    settings: Settings,
    clients: Mapping[str, OpenAIClients],
    models: ListeningModels,
    contents: dict[UUID, tuple[list[object], str]],
    tracing: Tracing | None,
) -> BotSettings:
    from flow.bot.pipeline import BotSettings

    return BotSettings(
        clients=clients,
        models=models,
        idle_timeout_secs=settings.idle_timeout_secs,
        interrupted_streams=settings.interrupted_streams,
        contents=contents if settings.capture_content else None,
        joined=None if tracing is None else tracing.joined,
    )


def _defaults(settings: Settings) -> dict[str, dict[str, str]]:
    return {
        "llm": {"provider": settings.llm_provider, "model": settings.llm_model},
        "stt": {"provider": settings.stt_provider, "model": settings.stt_model},
        "tts": {
            "provider": settings.tts_provider,
            "model": settings.tts_model,
            "voice": settings.tts_voice,
        },
    }


def _insights(
    settings: Settings,
    products: Products,
    clients: OpenAIClients,
    recorder: Recorder,
    database: Database,
    flag: FeatureFlag,
) -> CallInsights:
    from flow.workflows.insights import CallInsights

    step = ExtractInsightsStep(
        clients,
        settings.insights_model,
        capture_content=settings.capture_content,
        begin=recorder.begin,
    )
    return CallInsights(
        step,
        products.insights,
        settings.insights_model,
        standing=database.get_thread_standing,
        enabled=lambda owner: flag.enabled(owner.api_key_id, owner.team_id),
        forced=_forced(settings),
    )


def _forced(settings: Settings) -> bool | None:
    """What the environment says in place of the feature flag."""
    return None if settings.cost_controls is None else settings.cost_controls == "on"


def _spending(
    settings: Settings, products: Products, flag: FeatureFlag, watch: CallWatch
) -> Callable[[Thread, JoinRequest, Standing], Spending]:
    from flow.bot.spending import Spending

    def spending(thread: Thread, join: JoinRequest, standing: Standing) -> Spending:
        return Spending(
            products.for_call(thread.product),
            cache_key=str(thread.id),
            join_mode=join.save_mode,
            standing=standing,
            enabled=lambda: flag.enabled(thread.api_key_id, thread.team_id),
            forced=_forced(settings),
            on_engaged=watch.saving,
        )

    return spending


@asynccontextmanager
async def _delivering(
    settings: Settings, database: Database, registry: CollectorRegistry
) -> AsyncIterator[Deliverer]:
    """Webhooks are delivered for as long as the block lasts."""
    from flow.workflows.deliver import Deliverer

    sender = WebhookSender(allow_private=settings.webhooks_allow_private)
    deliverer = Deliverer(database.webhooks, sender.send, registry=registry)
    deliverer.start()
    try:
        yield deliverer
    finally:
        await deliverer.close()
        await sender.aclose()


def _finished(posthog: Posthog | None, webhooks: Deliverer, thread: Thread) -> None:
    webhooks.nudge()
    _capture_trace(posthog, thread)


def _capture_trace(posthog: Posthog | None, thread: Thread) -> None:
    started = thread.connected_at or thread.created_at
    capture_trace(
        posthog,
        thread.owner,
        started_at=started,
        ended_at=thread.ended_at or started,
        error=str(thread.error.get("code")) if thread.error else None,
    )


def _keys(settings: Settings, registry: CollectorRegistry) -> KeyVerifier | DebugKeys:
    if settings.unkey_root_key is not None:
        root_key = settings.unkey_root_key.get_secret_value()
        return KeyVerifier(root_key, base_url=settings.unkey_base_url, registry=registry)
    logger.warning(
        "debug_mode",
        meaning="no Unkey: every caller with the debug key is let in; never expose this service",
    )
    return DebugKeys(settings.debug_api_key.get_secret_value())


def _quotas(settings: Settings, registry: CollectorRegistry) -> QuotaSource | None:
    if settings.quota_url is None:
        return None
    return QuotaSource(settings.quota_url, token=settings.quota_token, registry=registry)


def _telephone(settings: Settings) -> Twilio | None:
    if settings.twilio_account_sid is None or settings.twilio_auth_token is None:
        return None
    return Twilio(settings.twilio_account_sid, settings.twilio_auth_token, settings.twilio_base_url)


def _rooms(settings: Settings) -> Rooms:
    daily = livekit = None
    if settings.daily_api_key is not None:
        daily = Daily(settings.daily_api_key, settings.daily_api_url)
    url, key, secret = settings.livekit_url, settings.livekit_api_key, settings.livekit_api_secret
    if url is not None and key is not None and secret is not None:
        livekit = LiveKit(url, key, secret)
    return Rooms(daily, livekit)


def _secret(settings: Settings) -> bytes:
    """The signing secret: the operator's, or one made once and kept in the data folder."""
    if settings.secret is not None:
        return settings.secret.get_secret_value().encode()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    path = settings.data_dir / "secret"
    with suppress(FileExistsError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_urlsafe(SECRET_BYTES))
    return path.read_bytes()


def _metrics(registry: CollectorRegistry, products: Products) -> Metrics:
    from flow.bot.services import VENDORS

    names = [product.name for product in products]
    return Metrics(registry, products=names, providers=[*VENDORS, "flow"])


def _sample(
    metrics: Metrics, recorder: Recorder, flushes: FlushWatch, calls: Calls, watch: CallWatch
) -> None:
    metrics.spool_events.set(recorder.depth)
    metrics.spool_oldest_secs.set(flushes.oldest_secs)
    metrics.calls_running.set(calls.running)
    watch.show_tiers(calls.tiers)


def _tracing(settings: Settings) -> Tracing | None:
    """Where spans go, if anywhere; OpenTelemetry's exporter is not even imported otherwise."""
    if settings.otel_exporter_otlp_endpoint is None:
        return None
    from flow.telemetry.tracing import Tracing

    return Tracing(capture_content=settings.capture_content)
