"""Running a few processors as a pipeline does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pipecat.frames.frames import Frame, StartFrame, TextFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner

from flow.bot.rtvi import CallerRtvi


class Witness(FrameProcessor):
    """Keeps what passes, with its direction, and passes it on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Frame, FrameDirection]] = []
        self.started = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        self.seen.append((frame, direction))
        await self.push_frame(frame, direction)
        if isinstance(frame, StartFrame):
            self.started.set()

    async def sees(self, worker: PipelineWorker) -> None:
        """Return when everything sent down before now has passed."""
        last = TextFrame("the last frame")
        await worker.queue_frame(last)
        async with asyncio.timeout(10):
            while not any(frame is last for frame, _ in self.seen):
                await asyncio.sleep(0.001)

    def of(self, kind: type[Frame]) -> list[Any]:
        return [frame for frame, _ in self.seen if isinstance(frame, kind)]


@asynccontextmanager
async def started(
    processors: Sequence[FrameProcessor], rtvi: CallerRtvi | None = None
) -> AsyncIterator[PipelineWorker]:
    """A running pipeline, which its end sees started; ``rtvi`` stands before it."""
    end = Witness()
    worker = PipelineWorker(
        Pipeline([*processors, end]),
        idle_timeout_secs=None,
        enable_rtvi=rtvi is not None,
        rtvi_processor=rtvi,
        rtvi_observer_params=None if rtvi is None else rtvi.observing,
        capabilities=None if rtvi is None else rtvi.capabilities,
        enable_turn_tracking=False,
    )
    runner = WorkerRunner(handle_sigint=False, check_dangling_tasks=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    try:
        async with asyncio.timeout(10):
            await end.started.wait()
        yield worker
    finally:
        await worker.cancel(reason="the test is over")
        await asyncio.wait_for(running, 10)
