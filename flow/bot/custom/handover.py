"""What passes between a bot's function and whoever runs the pipeline that it gives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor

from flow.domain.calls.ending import EndReason

Given = FrameProcessor | Sequence[FrameProcessor]
"""A pipeline as a bot gives it: a `Pipeline`, or the processors of one in their order."""


class Handover:
    """The three things that one side waits for and the other knows.

    Attributes:
        given: the pipeline, where the function runs it and does not return it.
        worker: what runs the pipeline, once there is one.
        over: why the call ended, or why its pipeline could not be made.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.given: asyncio.Future[Given] = loop.create_future()
        self.worker: asyncio.Future[PipelineWorker] = loop.create_future()
        self.over: asyncio.Future[EndReason] = loop.create_future()
