"""Background work of a process: finishing calls, sweeps, heartbeats, room calls and webhooks.

`open_finishing` prepares what a call needs when it ends, `run_background` does the work. Calls are
built between the two: they need the first, and the second holds calls from the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from flow.app.clients import Clients
from flow.app.shared_resources import Resources
from flow.domain.calls.host import HostReport
from flow.domain.calls.room_call import Place
from flow.domain.calls.thread import Thread
from flow.insights.extract import ExtractInsightsStep
from flow.ledger.recorder import Recorder
from flow.recordings.recordings import Recordings
from flow.vendors.model_endpoint import Endpoint
from flow.vendors.posthog import capture_trace
from flow.vendors.posthog_wrapper import PosthogWrapper
from flow.vendors.webhook_sender import WebhookSender

if TYPE_CHECKING:
    from flow.workflows.finish import FinishCall, InThisProcess, Steps
    from flow.workflows.finish_workflow import Finishing
    from flow.workflows.insights import CallInsights
    from flow.workflows.process_identity import Identity
    from flow.workflows.room_queue import RoomQueue
    from flow.workflows.webhook_delivery import Deliverer

logger = structlog.get_logger(__name__)

# For the workflows of the last calls, when a process is asked to stop.
DRAIN_SECS = 20.0
# Signs of life of a call to one of its process.
BEAT_OF_CALLS = 2

HoldCall = Callable[[Place], Awaitable[bool]]
"""Runs a call in a room to its end; ``False``: there is no room for it here and now."""


@dataclass(frozen=True, slots=True)
class DurableQueues:
    """The queues that DBOS keeps in the Postgres at ``url``: calls to finish, calls in rooms."""

    url: str
    finishing: Finishing
    rooms: RoomQueue


@dataclass(frozen=True, slots=True)
class CallFinishing:
    """How the calls of this process are finished.

    Attributes:
        executor: the name of this process, and its data folder.
        finish: called by each call when it is over.
        steps: the steps of a call's workflow.
        queues: ``None`` where no Postgres keeps workflows.
    """

    executor: Identity
    finish: FinishCall
    steps: Steps
    queues: DurableQueues | None


@asynccontextmanager
async def open_finishing(
    resources: Resources,
    recorder: Recorder,
    openai: Endpoint,
    recordings: Recordings | None = None,
) -> AsyncIterator[CallFinishing]:
    """Prepare to finish calls, and deliver webhooks, as long as the block lasts.

    Without the URL of a Postgres to keep workflows in, the process that had a call finishes it
    by itself, and the sweep begins anew what a killed process left unfinished.

    Args:
        openai: where insights are requested.
        recordings: waited for by calls that are recorded.

    Raises:
        ConfigurationError: a living process on another host has the name of this one.
        DatabaseUnavailable: the database cannot be reached.
    """
    from flow.workflows.executors import claimed
    from flow.workflows.finish import FinishCall, InThisProcess, Steps
    from flow.workflows.process_identity import identity

    settings, database = resources.settings, resources.database
    async with AsyncExitStack() as stack:
        webhooks = await stack.enter_async_context(_delivering(resources))
        insights = _insights(resources, openai, recorder)
        steps = Steps(
            database,
            recorder,
            insights,
            lambda thread: _settled(resources, webhooks, thread),
            None if recordings is None else recordings.settled,
        )
        executor = stack.enter_context(identity(settings.data_dir, settings.executor_id))
        await stack.enter_async_context(claimed(database, executor))
        queues = None
        if resources.url is not None:
            queues = await stack.enter_async_context(_open_queues(resources.url))
        start = InThisProcess(steps).start if queues is None else queues.finishing.start
        yield CallFinishing(executor, FinishCall(database, recorder, start), steps, queues)


@asynccontextmanager
async def run_background(
    resources: Resources,
    clients: Clients,
    recorder: Recorder,
    finishing: CallFinishing,
    hold: HoldCall | None,
    report: Callable[[], HostReport],
) -> AsyncIterator[None]:
    """Finish calls as long as the block lasts, those this process's predecessor left first.

    With ``FLOW_WORKFLOWS=off`` other processes run the workflows that are started here. Leaving
    the block waits, within bounds, for the workflows that were started here.

    Args:
        hold: holds calls from the room queue, where there is one.
        report: what each sign of life says of this process.

    Raises:
        DatabaseUnavailable: the database cannot be reached.
    """
    from flow.workflows.finish import InThisProcess

    database, queues = resources.database, finishing.queues
    async with AsyncExitStack() as stack:
        # Whoever had this name is gone, and this process has claimed no call yet.
        name = finishing.executor.name
        free = [] if queues is None else await database.room_calls.free_of(name)
        left = await database.take_over_threads_of(name)
        if queues is None:
            _beat(stack, resources, finishing.executor, report)
            _sweep(stack, resources, InThisProcess(finishing.steps))
        elif resources.settings.workflows == "on":
            assert hold is not None, "where there is a room queue, its calls can be held"
            await _run_workflows(stack, resources, clients, finishing, queues, hold, report)
        else:
            _beat(stack, resources, finishing.executor, report)
        if queues is not None:
            for place in free:
                await queues.rooms.put(place)
        run_until_left(stack, finishing.finish.take_up(left), "take-up")
        _telephone(stack, resources, clients, recorder)
        yield


@asynccontextmanager
async def _delivering(resources: Resources) -> AsyncIterator[Deliverer]:
    """Deliver webhooks as long as the block lasts."""
    from flow.workflows.webhook_delivery import Deliverer

    sender = WebhookSender(allow_private=resources.settings.may_reach_private)
    deliverer = Deliverer(resources.database.webhooks, sender.send, registry=resources.registry)
    deliverer.start()
    try:
        yield deliverer
    finally:
        await deliverer.close()
        await sender.aclose()


def _insights(resources: Resources, openai: Endpoint, recorder: Recorder) -> CallInsights:
    from flow.workflows.insights import CallInsights

    settings, posthog = resources.settings, resources.posthog
    step = ExtractInsightsStep(
        openai,
        settings.insights_model,
        recorder,
        wrapper=None if posthog is None else PosthogWrapper(posthog, resources.price),
        capture_content=settings.capture_content,
    )
    return CallInsights(
        step,
        resources.products.insights,
        settings.insights_model,
        standing=resources.database.get_thread_standing,
        enabled=lambda owner: resources.flag.enabled(owner.api_key_id, owner.team_id),
        forced=resources.forced_cost_controls,
    )


def _settled(resources: Resources, webhooks: Deliverer, thread: Thread) -> None:
    """Deliver the webhook of a settled thread, and capture its trace."""
    webhooks.nudge()
    started = thread.connected_at or thread.created_at
    capture_trace(
        resources.posthog,
        thread.owner,
        started_at=started,
        ended_at=thread.ended_at or started,
        error=str(thread.error.get("code")) if thread.error else None,
    )


@asynccontextmanager
async def _open_queues(url: str) -> AsyncIterator[DurableQueues]:
    from flow.db.connection_url import url_of
    from flow.workflows.finish_workflow import Finishing
    from flow.workflows.room_queue import RoomQueue

    url = url_of(url, connect_timeout=3, application_name="flow-workflows")
    finishing = await Finishing.open(url)
    try:
        yield DurableQueues(url, finishing, RoomQueue(finishing.client))
    finally:
        await finishing.close()


async def _run_workflows(
    stack: AsyncExitStack,
    resources: Resources,
    clients: Clients,
    finishing: CallFinishing,
    queues: DurableQueues,
    hold: HoldCall,
    report: Callable[[], HostReport],
) -> None:
    from flow.workflows.executors import Heartbeat
    from flow.workflows.finish_workflow import Executor
    from flow.workflows.room_queue import RoomWork
    from flow.workflows.room_watch import RoomWatch

    settings, database, executor = resources.settings, resources.database, finishing.executor
    rooms = RoomWork(
        queues.rooms, hold, at_once=settings.max_calls, per_key=settings.room_calls_per_key
    )
    engine = await Executor.launch(queues.url, executor.name, finishing.steps.all, rooms)
    stack.push_async_callback(engine.close)
    heartbeat = Heartbeat(
        database,
        executor,
        engine.recover,
        report,
        beat_secs=BEAT_OF_CALLS * settings.heartbeat_secs,
    )
    run_until_left(stack, heartbeat.forever(), "heartbeat")
    _sweep(stack, resources, queues.finishing)
    stack.push_async_callback(_drain, queues.finishing)
    watch = RoomWatch(
        database.room_calls, queues.rooms.put, clients.rooms.close, settings.heartbeat_secs
    )
    run_until_left(stack, watch.forever(), "room-watch")


def _beat(
    stack: AsyncExitStack,
    resources: Resources,
    executor: Identity,
    report: Callable[[], HostReport],
) -> None:
    """Give signs of life of a process that runs no workflows, and so recovers none."""
    from flow.workflows.executors import FORGOTTEN_SECS, Heartbeat, nothing_to_recover

    heartbeat = Heartbeat(
        resources.database,
        executor,
        nothing_to_recover,
        report,
        dead_secs=FORGOTTEN_SECS,
        beat_secs=BEAT_OF_CALLS * resources.settings.heartbeat_secs,
    )
    run_until_left(stack, heartbeat.forever(), "heartbeat")


def _sweep(
    stack: AsyncExitStack, resources: Resources, finishing: Finishing | InThisProcess
) -> None:
    from flow.workflows.sweep import Sweep

    settings = resources.settings
    sweep = Sweep(resources.database, finishing, settings.join_token_secs, settings.sweep_secs)
    run_until_left(stack, sweep.forever(), "sweep")


def _telephone(
    stack: AsyncExitStack, resources: Resources, clients: Clients, recorder: Recorder
) -> None:
    """Place calls and wait for their prices, where a carrier is set up that does so."""
    from flow.workflows.phone_work import PhoneWork

    diallers = {
        name: carrier.dialler
        for name, carrier in clients.carriers.items()
        if carrier.dialler is not None
    }
    if diallers:
        database = resources.database
        work = PhoneWork(database.telephony, database, recorder, diallers)
        run_until_left(stack, work.forever(), "telephone")


async def _drain(finishing: Finishing) -> None:
    if not await finishing.settled(DRAIN_SECS):
        logger.warning("workflows_left", meaning="another process, or the next start, goes on")


def run_until_left(stack: AsyncExitStack, work: Coroutine[Any, Any, None], name: str) -> None:
    """Run a task that is cancelled when the stack is left; one that fails before is logged."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_log_failure)

    async def stop() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(stop)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("background_task_failed", task=task.get_name(), exc_info=error)
