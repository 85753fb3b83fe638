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
from prometheus_client import CollectorRegistry, Counter, Gauge
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
from flow.store import database_of
from flow.usage.recorder import Recorder
from flow.vendors.openai import OpenAIClients
from flow.vendors.posthog import (
    capture_llm_generation,
    capture_trace,
    get_posthog_client,
    shutdown_posthog,
)
from flow.vendors.posthog_flags import FeatureFlag
from flow.vendors.quota_source import QuotaSource
from flow.vendors.unkey import DebugKeys, KeyVerifier

if TYPE_CHECKING:
    from flow.bot.calls import Calls
    from flow.bot.models import ListeningModels
    from flow.bot.pipeline import BotSettings
    from flow.bot.spending import Spending
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
async def running(settings: Settings) -> AsyncIterator[Service]:
    """A running service; leaving the context ends its calls and brings their usage home.

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
    from flow.workflows.finish import FinishCall
    from flow.workflows.sweep import Sweep

    async with AsyncExitStack() as stack:
        registry = CollectorRegistry()
        products = read_products(settings.products_file, vendors_by_part())
        price = (await asyncio.to_thread(Pricer.read, settings.prices_file)).price
        database = await stack.enter_async_context(database_of(settings))
        posthog = get_posthog_client(
            settings.posthog_api_key,
            settings.posthog_host,
            capture_content=settings.capture_content,
            price=price,
        )
        stack.push_async_callback(shutdown_posthog, posthog)
        flag = FeatureFlag(posthog, registry=registry)
        stack.push_async_callback(flag.aclose)
        contents: dict[UUID, tuple[list[object], str]] = {}
        recorder, listeners = _recorder(
            settings.data_dir / "spool", database, price, posthog, contents, registry
        )
        stack.push_async_callback(recorder.close)
        recorder.start()
        clients = _clients(settings, posthog)
        stack.push_async_callback(clients["openai"].close)
        models = await asyncio.to_thread(ListeningModels, settings.turn_detection)
        bot = _bot_settings(settings, clients, models, contents)
        resolver = Resolver(products, _defaults(settings), clients)
        calls = Calls(
            threads=database,
            recorder=recorder,
            settings=bot,
            resolver=resolver,
            spending=_spending(settings, products, flag),
            finish=FinishCall(
                database,
                recorder,
                _insights(settings, products, clients["openai"], recorder, database, flag),
                lambda thread: _capture_trace(posthog, thread),
            ),
            most=settings.max_calls,
        )
        listeners.append(calls)
        stack.push_async_callback(calls.close, DRAIN_GRACE_SECS)
        keys = _keys(settings, registry)
        stack.push_async_callback(keys.aclose)
        with suppress(AuthUnavailable):
            # The SDK is slow at its first call, which is not to be a customer's.
            await keys.check()
        _measure(registry, recorder, calls)
        quotas = _quotas(settings, registry)
        if quotas is not None:
            stack.push_async_callback(quotas.aclose)
        sweep = asyncio.create_task(
            Sweep(database, settings.join_token_secs).forever(), name="sweep"
        )
        stack.callback(sweep.cancel)
        services = Services(
            database=database,
            keys=keys,
            calls=calls,
            products=products,
            quotas=quotas,
            secret=_secret(settings),
            registry=registry,
            public_url=settings.public_url,
            join_token_secs=settings.join_token_secs,
        )
        await asyncio.to_thread(warm_up)
        with suppress(FlowError):  # a service without a default bot has nothing to rehearse
            join = resolver.resolve(JoinRequest())
            await rehearse(join, bot, products.for_call(join.product))
        yield Service(create_app(services), database, recorder, registry)


def _recorder(
    spool: Path,
    database: Database,
    price: Callable[[UsageEvent], UsageEvent],
    posthog: Posthog | None,
    contents: dict[UUID, tuple[list[object], str]],
    registry: CollectorRegistry,
) -> tuple[Recorder, list[Calls]]:
    """The recorder, and the list of whoever is to hear what the ledger says of running calls."""
    listeners: list[Calls] = []
    unpriced = Counter(
        "flow_unpriced_events",
        "Ledger rows for which no price is known.",
        ["kind"],
        registry=registry,
    )

    def on_recorded(events: Sequence[UsageEvent], recorded: Recorded) -> None:
        for event in events:
            if event.cost is None and event.id in recorded.new:
                unpriced.labels(event.kind.value).inc()
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
) -> BotSettings:
    from flow.bot.pipeline import BotSettings

    return BotSettings(
        clients=clients,
        models=models,
        idle_timeout_secs=settings.idle_timeout_secs,
        interrupted_streams=settings.interrupted_streams,
        contents=contents if settings.capture_content else None,
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
    settings: Settings, products: Products, flag: FeatureFlag
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
        )

    return spending


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


def _measure(registry: CollectorRegistry, recorder: Recorder, calls: Calls) -> None:
    waiting = Gauge("flow_spool_events", "Events waiting for the ledger.", registry=registry)
    waiting.set_function(lambda: recorder.depth)
    running = Gauge("flow_calls_running", "Calls running in this process.", registry=registry)
    running.set_function(lambda: calls.running)
