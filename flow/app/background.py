"""What follows the calls of a service: durable workflows, sweeps and webhooks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from flow.app.resources import Ground
from flow.db.database import Database
from flow.domain.calls.thread import Thread
from flow.insights.extract import ExtractInsightsStep
from flow.ledger.recorder import Recorder
from flow.settings import Settings
from flow.vendors.endpoint import Endpoint
from flow.vendors.posthog import capture_trace
from flow.vendors.posthog_wrapper import PosthogWrapper
from flow.vendors.webhooks import WebhookSender

if TYPE_CHECKING:
    from flow.workflows.deliver import Deliverer
    from flow.workflows.durable import Finishing
    from flow.workflows.finish import FinishCall, InThisProcess, Steps
    from flow.workflows.identity import Identity
    from flow.workflows.insights import CallInsights
    from flow.workflows.room_queue import RoomWork

logger = structlog.get_logger(__name__)

# For what follows the last calls of a process that is asked to stop.
DRAIN_SECS = 20.0


@dataclass(frozen=True, slots=True)
class AfterCalls:
    """What a process's calls are told of: its name, and what to do when one is over.

    ``rooms`` takes calls in rooms from the queue, where there is one.
    """

    name: str
    finish: FinishCall
    rooms: RoomWork | None


@asynccontextmanager
async def after_calls(
    ground: Ground, recorder: Recorder, openai: Endpoint
) -> AsyncIterator[AfterCalls]:
    """Finish calls, those of this process's forerunner first, as long as the block lasts.

    With ``FLOW_WORKFLOWS=off`` other processes run the workflows that are started here. When
    the block is left, what was started here is waited for, within bounds.

    Without the URL of a Postgres to keep workflows in, the process that had a call finishes it
    by itself, and what a killed process left half done is begun anew by the sweep.

    Args:
        openai: where insights are asked for.

    Raises:
        ConfigurationError: a living process on another host has the name of this one.
        DatabaseUnavailable: the database cannot be reached.
    """
    from flow.workflows.executors import claimed
    from flow.workflows.finish import FinishCall, InThisProcess, Steps
    from flow.workflows.identity import identity

    settings, database = ground.settings, ground.database
    async with AsyncExitStack() as stack:
        webhooks = await stack.enter_async_context(_delivering(ground))
        insights = _insights(ground, openai, recorder)
        steps = Steps(database, recorder, insights, lambda thread: _tell(ground, webhooks, thread))
        own = stack.enter_context(identity(settings.data_dir, settings.executor_id))
        await stack.enter_async_context(claimed(database, own))
        name = own.name
        # Whoever had this name is gone, and no call of this process has been claimed under it.
        free = [] if ground.url is None else await database.room_calls.free_of(name)
        left = await database.take_over_threads_of(name)
        finishing: Finishing | InThisProcess
        rooms: RoomWork | None = None
        if ground.url is None:
            finishing = InThisProcess(steps)
            _beat(stack, database, own)
            _sweep(stack, settings, database, finishing)
        else:
            finishing, rooms = await _durable(stack, ground, ground.url, own, steps)
            for place in free:
                await rooms.queue.put(place)
        finish = FinishCall(database, recorder, finishing.start)
        until_left(stack, finish.take_up(left), "take-up")
        yield AfterCalls(name, finish, rooms)


@asynccontextmanager
async def _delivering(ground: Ground) -> AsyncIterator[Deliverer]:
    """Webhooks are delivered for as long as the block lasts."""
    from flow.workflows.deliver import Deliverer

    sender = WebhookSender(allow_private=ground.settings.webhooks_allow_private)
    deliverer = Deliverer(ground.database.webhooks, sender.send, registry=ground.registry)
    deliverer.start()
    try:
        yield deliverer
    finally:
        await deliverer.close()
        await sender.aclose()


def _insights(ground: Ground, openai: Endpoint, recorder: Recorder) -> CallInsights:
    from flow.workflows.insights import CallInsights

    settings = ground.settings
    step = ExtractInsightsStep(
        openai,
        settings.insights_model,
        recorder,
        wrapper=None if ground.posthog is None else PosthogWrapper(ground.posthog, ground.price),
        capture_content=settings.capture_content,
    )
    return CallInsights(
        step,
        ground.products.insights,
        settings.insights_model,
        standing=ground.database.get_thread_standing,
        enabled=lambda owner: ground.flag.enabled(owner.api_key_id, owner.team_id),
        forced=ground.forced,
    )


def _tell(ground: Ground, webhooks: Deliverer, thread: Thread) -> None:
    """A thread is settled: its webhook is due, and its trace complete."""
    webhooks.nudge()
    started = thread.connected_at or thread.created_at
    capture_trace(
        ground.posthog,
        thread.owner,
        started_at=started,
        ended_at=thread.ended_at or started,
        error=str(thread.error.get("code")) if thread.error else None,
    )


async def _durable(
    stack: AsyncExitStack, ground: Ground, url: str, own: Identity, steps: Steps
) -> tuple[Finishing, RoomWork]:
    from flow.db.database_url import url_of
    from flow.workflows.durable import Finishing
    from flow.workflows.room_queue import RoomQueue, RoomWork

    url = url_of(url, connect_timeout=3, application_name="flow-workflows")
    finishing = await Finishing.open(url)
    stack.push_async_callback(finishing.close)
    settings = ground.settings
    rooms = RoomWork(
        RoomQueue(finishing.client),
        at_once=settings.max_calls,
        per_key=settings.room_calls_per_key,
    )
    if settings.workflows == "on":
        await _run_workflows(stack, ground, url, own, finishing, steps, rooms)
    else:
        _beat(stack, ground.database, own)
    return finishing, rooms


async def _run_workflows(
    stack: AsyncExitStack,
    ground: Ground,
    url: str,
    own: Identity,
    finishing: Finishing,
    steps: Steps,
    rooms: RoomWork,
) -> None:
    from flow.workflows.durable import Executor
    from flow.workflows.executors import Heartbeat

    database = ground.database
    executor = await Executor.launch(url, own.name, steps.all, rooms)
    stack.push_async_callback(executor.close)
    until_left(stack, Heartbeat(database, own, executor.recover).forever(), "heartbeat")
    _sweep(stack, ground.settings, database, finishing)
    stack.push_async_callback(_drained, finishing)


def _beat(stack: AsyncExitStack, database: Database, own: Identity) -> None:
    """Signs of life of a process that runs no workflows, and so takes up nothing of others."""
    from flow.workflows.executors import FORGOTTEN_SECS, Heartbeat, nothing_to_recover

    beat = Heartbeat(database, own, nothing_to_recover, dead_secs=FORGOTTEN_SECS)
    until_left(stack, beat.forever(), "heartbeat")


def _sweep(
    stack: AsyncExitStack,
    settings: Settings,
    database: Database,
    finishing: Finishing | InThisProcess,
) -> None:
    from flow.workflows.sweep import Sweep

    sweep = Sweep(database, finishing, settings.join_token_secs)
    until_left(stack, sweep.forever(), "sweep")


async def _drained(finishing: Finishing) -> None:
    if not await finishing.settled(DRAIN_SECS):
        logger.warning("workflows_left", meaning="another process, or the next start, goes on")


def until_left(stack: AsyncExitStack, work: Coroutine[Any, Any, None], name: str) -> None:
    """Do some work on the side until the block is left."""
    task = asyncio.create_task(work, name=name)

    async def stop() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(stop)
