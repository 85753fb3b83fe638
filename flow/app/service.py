"""The service: everything that is shared in a process is built here and passed on as values.

Parts are closed in the opposite order of building, so that calls end before what they report to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client import CollectorRegistry

from flow.app.background_work import open_finishing, run_background, run_until_left
from flow.app.bots import (
    bot_defaults,
    build_calls,
    build_model_choices,
    build_room_calls,
    build_transports,
)
from flow.app.clients import open_clients, secret_of
from flow.app.gateway import open_gateway
from flow.app.recordings import open_recordings
from flow.app.shared_resources import Resources, open_resources
from flow.app.start_warnings import warn
from flow.app.tools import open_tool_settings
from flow.app.usage_recording import UsagePublisher, open_recorder
from flow.db.database import Database
from flow.domain.calls.host import HostReport
from flow.domain.pricing.unpriced_models import of_configuration
from flow.domain.products.product import ModelName
from flow.domain.usage.token_estimates import warm_up
from flow.gateway.gateway import Gateway
from flow.gateway.leased_admission import LeasedAdmission
from flow.kit.installed import version
from flow.ledger.recorder import Recorder
from flow.settings import Settings
from flow.telemetry import logs as log
from flow.telemetry.prometheus_exposition import exposed
from flow.vendors.posthog_identities import PosthogIdentities

if TYPE_CHECKING:
    from flow.api.event_feed import EventFeed
    from flow.api.pages import DevPages
    from flow.bot.calls.registry import CallRegistry
    from flow.bot.transports.room_packages import RoomMedia

logger = structlog.get_logger(__name__)

# For running calls when a service is left that nobody has drained before.
GRACE_SECS = 10.0


@dataclass(frozen=True, slots=True)
class Service:
    """A running service: its ASGI app, and the parts that commands and tests look into.

    ``operations`` is the ASGI app of health and metrics alone.
    """

    app: Any
    operations: Any
    database: Database
    recorder: Recorder
    registry: CollectorRegistry
    calls: CallRegistry
    gateway: Gateway
    feed: EventFeed
    drain_secs: float

    async def drain(self) -> None:
        """Refuse new calls and wait for the running ones; after ``drain_secs`` end those left."""
        logger.info("draining", calls=self.calls.capacity.running, within_secs=self.drain_secs)
        self.gateway.stop()
        await self.calls.close(self.drain_secs)
        self.feed.close()
        logger.info("drained", calls=self.calls.capacity.running)


@asynccontextmanager
async def run_service(
    settings: Settings, *, media: RoomMedia | None = None, dev_pages: DevPages | None = None
) -> AsyncIterator[Service]:
    """Run a service; leaving the block ends its calls and records their usage.

    ``media`` takes the place of what carries sound into the rooms of vendors; with ``dev_pages``
    the service's pages are those of development.

    Raises:
        ConfigurationError: the settings do not allow a start.
        DatabaseUnavailable: the database cannot be reached.
    """
    # Pipecat takes seconds to import, and only a process that serves calls needs it.
    from flow.api.app import create_app, create_operations_app
    from flow.api.dependencies import Services
    from flow.api.event_feed import EventFeed
    from flow.bot.calls.commands import CallCommands
    from flow.bot.calls.registry import CallRegistry

    async with AsyncExitStack() as stack:
        resources = await stack.enter_async_context(open_resources(settings))
        warn(settings, _unpriced(resources))
        running = CallRegistry(settings.max_calls)
        clients = await stack.enter_async_context(open_clients(resources))
        admission = LeasedAdmission(
            resources.database.gateway_leases,
            resources.products.terms,
            resources.price,
            clients.quotas,
        )
        admission.start()
        stack.push_async_callback(admission.aclose)
        publisher = UsagePublisher(resources, running, admission.recorded)
        recorder = await stack.enter_async_context(open_recorder(resources, publisher))
        recording = await stack.enter_async_context(open_recordings(resources))
        finishing = await stack.enter_async_context(
            open_finishing(
                resources,
                recorder,
                clients.models["openai"],
                None if recording is None else recording.recordings,
            )
        )
        tools = await stack.enter_async_context(open_tool_settings(resources))
        calls = await build_calls(
            resources,
            clients,
            recorder,
            finishing,
            running,
            publisher.contents,
            tools,
            recording,
        )
        gateway = await stack.enter_async_context(
            open_gateway(resources, clients, recorder, admission, publisher.contents)
        )
        room_calls, leases = build_room_calls(resources, clients, recorder, finishing, calls, media)
        hold = None if leases is None else leases.hold
        report = partial(_report, resources, recorder, running)
        await stack.enter_async_context(
            run_background(resources, clients, recorder, finishing, hold, report)
        )
        commands = CallCommands(running, resources.database.during_calls)
        run_until_left(stack, commands.forever(), "commands")
        stack.push_async_callback(_end_calls, running)
        registry = await stack.enter_async_context(
            exposed(resources.registry, lambda: _sample(resources, recorder, running))
        )
        feed = EventFeed(resources.database)
        stack.callback(feed.close)
        services = Services(
            database=resources.database,
            keys=clients.keys,
            calls=calls,
            products=resources.products,
            models=build_model_choices(resources, clients),
            has_price=resources.has_price,
            quotas=clients.quotas,
            transports=build_transports(resources, clients, calls),
            rooms=room_calls,
            gateway=gateway,
            unkey=clients.unkey,
            secret=secret_of(settings),
            feed=feed,
            registry=registry,
            metrics=resources.metrics,
            traces=resources.tracing,
            public_url=settings.public_url,
            billing_url=settings.billing_url,
            cors_origins=settings.cors_origins,
            join_token_secs=settings.join_token_secs,
            allow_private_webhooks=settings.may_reach_private,
            on_command=commands.nudge,
            dial_prefixes=settings.dial_prefixes,
            on_key=PosthogIdentities(resources.posthog),
            recordings=None if recording is None else recording.storage,
            recording_link_secs=settings.recordings_link_secs,
            dev_pages=dev_pages,
        )
        # Only a reply that is cut off needs the tokenizer, later than it takes to load.
        tokenizer = asyncio.create_task(asyncio.to_thread(warm_up), name="tokenizer")
        stack.push_async_callback(asyncio.wait, [tokenizer])
        yield Service(
            app=create_app(services),
            operations=create_operations_app(services),
            database=resources.database,
            recorder=recorder,
            registry=registry,
            calls=running,
            gateway=gateway,
            feed=feed,
            drain_secs=settings.drain_secs,
        )


async def _end_calls(calls: CallRegistry) -> None:
    """End the calls that are left; those of a drained service have had their time."""
    await calls.close(0 if calls.capacity.draining else GRACE_SECS)


def _unpriced(resources: Resources) -> dict[str, ModelName]:
    """The configured models without a price, by where they are set."""
    from flow.workflows.insights import PROVIDER

    settings = resources.settings
    insights = ModelName(PROVIDER, settings.insights_model)
    return of_configuration(
        resources.products, bot_defaults(settings), insights, resources.has_price
    )


def _report(resources: Resources, recorder: Recorder, calls: CallRegistry) -> HostReport:
    """What operators see of this process, at each sign of life."""
    capacity = calls.capacity
    return HostReport(
        version=version(),
        calls=capacity.running,
        capacity=capacity.most,
        draining=capacity.draining,
        workflows=resources.settings.workflows == "on",
        spool_events=recorder.depth,
        spool_oldest_secs=round(resources.flushes.oldest_secs, 1),
    )


def _sample(resources: Resources, recorder: Recorder, calls: CallRegistry) -> None:
    """Set the gauges, right before the metrics are read."""
    metrics, capacity = resources.metrics, calls.capacity
    metrics.spool_events.set(recorder.depth)
    metrics.spool_oldest_secs.set(resources.flushes.oldest_secs)
    metrics.calls_running.set(capacity.running)
    metrics.calls_capacity.set(capacity.most)
    metrics.draining.set(capacity.draining)
    metrics.log_lines_dropped.inc(log.take_dropped())
    resources.watch.show_tiers(calls.tiers)
