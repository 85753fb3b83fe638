"""Shared resources of a process: settings, products, prices, database, analytics and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from posthog import Posthog
from prometheus_client import CollectorRegistry

from flow.app.database import database_and_url
from flow.db.database import Database
from flow.domain.pricing.pricer import Pricer
from flow.domain.pricing.unpriced_models import HasPrice, remembered
from flow.domain.products.product import Products
from flow.domain.products.product_file import read_products
from flow.domain.usage.events import Kind, UsageEvent
from flow.settings import Settings
from flow.telemetry.calls import CallWatch
from flow.telemetry.database import MeasuredTransport
from flow.telemetry.ledger_lag import FlushWatch
from flow.telemetry.metric_definitions import Metrics
from flow.vendors.posthog import get_posthog_client, shutdown_posthog
from flow.vendors.posthog_flags import FeatureFlag

if TYPE_CHECKING:
    from flow.telemetry.tracing import Tracing


@dataclass(frozen=True, slots=True)
class Resources:
    """What every part of a service is built from.

    Attributes:
        price: the event with its cost, or without one where no price is known.
        models_of: the models of a vendor that prices are known for, by name.
        registry: holds the process's metrics.
        url: the Postgres connection string; ``None`` if only Supabase's API is known.
        posthog: ``None`` without an API key.
    """

    settings: Settings
    products: Products
    price: Callable[[UsageEvent], UsageEvent]
    has_price: HasPrice
    has_tier_price: Callable[[Kind, str, str, str], bool]
    models_of: Callable[[str], Iterable[str]]
    registry: CollectorRegistry
    metrics: Metrics
    watch: CallWatch
    flushes: FlushWatch
    tracing: Tracing | None
    database: Database
    url: str | None
    posthog: Posthog | None
    flag: FeatureFlag

    @property
    def forced_cost_controls(self) -> bool | None:
        """Whether cost controls are on; ``None``: the feature flag decides."""
        setting = self.settings.cost_controls
        return None if setting is None else setting == "on"


@asynccontextmanager
async def open_resources(settings: Settings) -> AsyncIterator[Resources]:
    """Open the resources; leaving the block closes them.

    Raises:
        ConfigurationError: a file of prices or products cannot be used, or a vendor has a service
            that nothing meters.
        DatabaseUnavailable: the database cannot be reached.
    """
    from flow.bot.vendors import require_meters, vendors_by_part

    require_meters()
    async with AsyncExitStack() as stack:
        registry = CollectorRegistry()
        tracing = _tracing(settings)
        if tracing is not None:
            stack.push_async_callback(tracing.aclose)
        products = read_products(settings.products_file, vendors_by_part())
        pricer = await asyncio.to_thread(Pricer.read, settings.prices_file)
        metrics = _metrics(registry, products)
        database, url = await stack.enter_async_context(
            database_and_url(settings, lambda transport: MeasuredTransport(transport, metrics))
        )
        posthog = get_posthog_client(
            settings.posthog_api_key,
            settings.posthog_host,
            capture_content=settings.capture_content,
            on_sent=metrics.posthog_sent.inc,
            on_lost=lambda reason, events: metrics.posthog_lost.labels(reason).inc(events),
        )
        stack.push_async_callback(shutdown_posthog, posthog)
        flag = FeatureFlag(posthog, registry=registry)
        stack.push_async_callback(flag.aclose)
        yield Resources(
            settings=settings,
            products=products,
            price=pricer.price,
            has_price=remembered(pricer.has_price),
            has_tier_price=pricer.has_tier_price,
            models_of=pricer.models_of,
            registry=registry,
            metrics=metrics,
            watch=CallWatch(metrics),
            flushes=FlushWatch(metrics),
            tracing=tracing,
            database=database,
            url=url,
            posthog=posthog,
            flag=flag,
        )


def _metrics(registry: CollectorRegistry, products: Products) -> Metrics:
    from flow.bot.vendors import VENDORS

    names = [product.name for product in products]
    return Metrics(registry, products=names, providers=[*VENDORS, "flow"])


def _tracing(settings: Settings) -> Tracing | None:
    """The exporter of spans, where one is configured; otherwise OpenTelemetry is not imported."""
    if settings.otel_exporter_otlp_endpoint is None:
        return None
    from flow.telemetry.tracing import Tracing

    return Tracing(capture_content=settings.capture_content)
