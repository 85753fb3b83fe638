"""What follows calls, put together: a part of the composition root."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from flow.db.functions import Database
from flow.settings import Settings
from flow.usage.recorder import Recorder

if TYPE_CHECKING:
    from flow.workflows.durable import Finishing
    from flow.workflows.finish import FinishCall, InThisProcess, Steps

logger = structlog.get_logger(__name__)

# For what follows the last calls of a process that is asked to stop.
DRAIN_SECS = 20.0


@dataclass(frozen=True, slots=True)
class AfterCalls:
    """What a process's calls are told of: its name, and what to do when one is over."""

    name: str
    finish: FinishCall


@asynccontextmanager
async def after_calls(
    settings: Settings, url: str | None, database: Database, recorder: Recorder, steps: Steps
) -> AsyncIterator[AfterCalls]:
    """Finish calls, those of this process's forerunner first, as long as the block lasts.

    With ``FLOW_WORKFLOWS=off`` other processes run the workflows that are started here. When
    the block is left, what was started here is waited for, within bounds.

    Without ``url``, that of the Postgres to keep workflows in, the process that had a call
    finishes it by itself, and what a killed process left half done is begun anew by the sweep.

    Raises:
        DatabaseUnavailable: the database cannot be reached.
    """
    from flow.workflows.finish import FinishCall, InThisProcess
    from flow.workflows.identity import executor_name

    async with AsyncExitStack() as stack:
        name = stack.enter_context(executor_name(settings.data_dir, settings.executor_id))
        # Whoever had this name is gone, and no call of this process has been claimed under it.
        left = await database.take_over_threads_of(name)
        finishing: Finishing | InThisProcess
        if url is None:
            logger.warning(
                "workflows_not_durable",
                meaning="without DATABASE_URL each process finishes its own calls",
            )
            finishing = InThisProcess(steps)
            _sweep(stack, settings, database, finishing)
        else:
            finishing = await _durable(stack, settings, url, name, database, steps)
        finish = FinishCall(database, recorder, finishing.start)
        _until_left(stack, finish.take_up(left), "take-up")
        yield AfterCalls(name, finish)


async def _durable(
    stack: AsyncExitStack,
    settings: Settings,
    url: str,
    name: str,
    database: Database,
    steps: Steps,
) -> Finishing:
    from flow.db.address import url_of
    from flow.workflows.durable import Finishing

    url = url_of(url, connect_timeout=3, application_name="flow-workflows")
    finishing = await Finishing.open(url)
    stack.push_async_callback(finishing.close)
    if settings.workflows == "on":
        await _run_workflows(stack, settings, url, name, database, finishing, steps)
    return finishing


async def _run_workflows(
    stack: AsyncExitStack,
    settings: Settings,
    url: str,
    name: str,
    database: Database,
    finishing: Finishing,
    steps: Steps,
) -> None:
    from flow.workflows.durable import Executor
    from flow.workflows.executors import Heartbeat

    executor = await Executor.launch(url, name, steps.all)
    stack.push_async_callback(executor.close)
    _until_left(stack, Heartbeat(database, name, executor.recover).forever(), "heartbeat")
    _sweep(stack, settings, database, finishing)
    stack.push_async_callback(_drained, finishing)


def _sweep(
    stack: AsyncExitStack,
    settings: Settings,
    database: Database,
    finishing: Finishing | InThisProcess,
) -> None:
    from flow.workflows.sweep import Sweep

    sweep = Sweep(database, finishing, settings.join_token_secs)
    _until_left(stack, sweep.forever(), "sweep")


async def _drained(finishing: Finishing) -> None:
    if not await finishing.settled(DRAIN_SECS):
        logger.warning("workflows_left", meaning="another process, or the next start, goes on")


def _until_left(stack: AsyncExitStack, work: Coroutine[Any, Any, None], name: str) -> None:
    """Do some work on the side until the block is left."""
    task = asyncio.create_task(work, name=name)

    async def stop() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(stop)
