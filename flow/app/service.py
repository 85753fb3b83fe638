"""A service, put together.

Everything that is shared in a process is made here and passed on as values. Things are closed
in the opposite order of making, so that what a call still has to say finds somebody to hear it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client import CollectorRegistry

from flow.app.background import after_calls
from flow.app.bots import bot_defaults, talking
from flow.app.clients import outside, secret_of
from flow.app.resources import Ground, ground
from flow.app.room_calls import in_rooms
from flow.app.start_warnings import warn
from flow.app.usage_recording import recording
from flow.db.database import Database
from flow.domain.pricing.unpriced import of_configuration
from flow.domain.products.product import ModelName
from flow.domain.usage.token_estimates import warm_up
from flow.ledger.recorder import Recorder
from flow.settings import Settings
from flow.telemetry import logs as log
from flow.telemetry.exposition import exposed

if TYPE_CHECKING:
    from flow.bot.calls.registry import Roster
    from flow.bot.transports.room import Media

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """A running service: its ASGI app, and the parts that commands and tests look into.

    ``operations`` is an ASGI app too: health and metrics alone.
    """

    app: Any
    operations: Any
    database: Database
    recorder: Recorder
    registry: CollectorRegistry
    roster: Roster
    drain_secs: float

    async def drain(self) -> None:
        """Take no more calls and wait for those that run; the time over, end them."""
        logger.info("draining", calls=self.roster.capacity.running, within_secs=self.drain_secs)
        await self.roster.close(self.drain_secs)
        logger.info("drained", calls=self.roster.capacity.running)


@asynccontextmanager
async def running(settings: Settings, *, media: Media | None = None) -> AsyncIterator[Service]:
    """A running service; leaving the context ends its calls and brings their usage home.

    ``media`` takes the place of what carries sound into the rooms of Daily and LiveKit.

    Raises:
        ConfigurationError: the settings do not allow a start.
        DatabaseUnavailable: the database cannot be reached.
    """
    # Pipecat takes seconds to import, and only a process that serves calls needs it.
    from flow.api.app import create_app, create_operations_app
    from flow.api.dependencies import Services

    async with AsyncExitStack() as stack:
        base = await stack.enter_async_context(ground(settings))
        warn(settings, _unpriced(base))
        recorder, announcer = await stack.enter_async_context(recording(base))
        others = await stack.enter_async_context(outside(base))
        after = await stack.enter_async_context(
            after_calls(base, recorder, others.models["openai"])
        )
        calls = await stack.enter_async_context(talking(base, others, recorder, announcer, after))
        rooms = await stack.enter_async_context(
            in_rooms(base, others, recorder, calls, after, media)
        )
        registry = await stack.enter_async_context(
            exposed(base.registry, lambda: _sample(base, recorder, calls.roster))
        )
        services = Services(
            database=base.database,
            keys=others.keys,
            calls=calls,
            products=base.products,
            has_price=base.has_price,
            quotas=others.quotas,
            telephone=others.telephone,
            rooms=rooms,
            secret=secret_of(settings),
            registry=registry,
            metrics=base.metrics,
            traces=base.tracing,
            public_url=settings.public_url,
            join_token_secs=settings.join_token_secs,
            allow_private_webhooks=settings.webhooks_allow_private,
        )
        # Only a reply that is cut off needs it, which takes longer to come about.
        counting = asyncio.create_task(asyncio.to_thread(warm_up), name="vocabulary")
        stack.push_async_callback(asyncio.wait, [counting])
        yield Service(
            app=create_app(services),
            operations=create_operations_app(services),
            database=base.database,
            recorder=recorder,
            registry=registry,
            roster=calls.roster,
            drain_secs=settings.drain_secs,
        )


def _unpriced(base: Ground) -> dict[str, ModelName]:
    """The configured models without a price, by where they are set."""
    from flow.workflows.insights import PROVIDER

    insights = ModelName(PROVIDER, base.settings.insights_model)
    return of_configuration(base.products, bot_defaults(base.settings), insights, base.has_price)


def _sample(base: Ground, recorder: Recorder, roster: Roster) -> None:
    base.metrics.spool_events.set(recorder.depth)
    base.metrics.spool_oldest_secs.set(base.flushes.oldest_secs)
    capacity = roster.capacity
    base.metrics.calls_running.set(capacity.running)
    base.metrics.calls_capacity.set(capacity.most)
    base.metrics.draining.set(capacity.draining)
    base.metrics.log_lines_dropped.inc(log.take_dropped())
    base.watch.show_tiers(roster.tiers)
