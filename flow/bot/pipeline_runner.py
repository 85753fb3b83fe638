"""A pipeline at work, and nothing left of it afterwards."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog
from pipecat.pipeline.worker import PipelineWorker
from pipecat.utils.asyncio.task_manager import TaskManager
from pipecat.workers.runner import WorkerRunner

log = structlog.get_logger(__name__)

# For handlers of the last events, which are tasks too.
LAST_WORDS_SECS = 0.2


class RunningPipeline:
    """Runs a worker and, however it ends, every task that its processors made.

    Pipecat 1.14 cleans up a pipeline that is cancelled before it has started, but some processors
    (`SegmentedSTTService` among them) end their tasks only on the frame that ends or cancels a
    pipeline, which one that has not started never sees.
    """

    def __init__(
        self, worker: PipelineWorker, task: asyncio.Task[None], tasks: TaskManager
    ) -> None:
        self._worker = worker
        self._tasks = tasks
        self.task = task

    @classmethod
    async def start(cls, worker: PipelineWorker, name: str) -> RunningPipeline:
        """Set the pipeline going; ``task`` is done when it is over."""
        tasks = TaskManager(loop=asyncio.get_running_loop())
        runner = WorkerRunner(handle_sigint=False, check_dangling_tasks=False, task_manager=tasks)
        await runner.add_workers(worker)
        return cls(worker, asyncio.create_task(runner.run(), name=name), tasks)

    async def stop(self, within_secs: float) -> None:
        """Cancel the pipeline; one that does not stop in time is cut off."""
        with suppress(Exception):
            async with asyncio.timeout(within_secs):
                await self._worker.cancel(reason="the call is over")
                await asyncio.shield(self.task)
        if not self.task.done():
            log.warning("pipeline_cut_off", worker=self._worker.name)
            self.task.cancel()
            await asyncio.wait({self.task}, timeout=within_secs)
        await self._clear(within_secs)

    async def _clear(self, within_secs: float) -> None:
        if left := self._tasks.current_tasks():
            await asyncio.wait(left, timeout=LAST_WORDS_SECS)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=within_secs)
