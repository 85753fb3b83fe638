"""Telling that a call has gone quiet.

Pipecat's own idle timeout watches every frame at every step, through a queue and a task of its
own, which is a tenth of what a call costs. What it looks for passes one place in the pipeline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from pipecat.frames.frames import (
    BotSpeakingFrame,
    Frame,
    LLMContextFrame,
    StartFrame,
    UserSpeakingFrame,
    UserStartedSpeakingFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

# A transcription goes no further than the user's aggregator; what it leads to is a context.
SIGNS_OF_LIFE = (
    StartFrame,
    BotSpeakingFrame,
    UserSpeakingFrame,
    UserStartedSpeakingFrame,
    LLMContextFrame,
)


class IdleWatch(FrameProcessor):
    """Stands after the user's aggregator and notes when either party last spoke.

    Args:
        timeout_secs: for how long nobody may speak.
        now: a clock, in seconds.
    """

    def __init__(
        self, timeout_secs: float, *, now: Callable[[], float] = time.monotonic, **options: Any
    ) -> None:
        super().__init__(enable_direct_mode=True, **options)
        self._timeout_secs = timeout_secs
        self._now = now
        self._started = asyncio.Event()
        self._last = 0.0

    @property
    def left_secs(self) -> float:
        """How much longer nobody may speak; meaningless before the pipeline has started."""
        return self._last + self._timeout_secs - self._now()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Note a sign of life, and pass every frame on."""
        await super().process_frame(frame, direction)
        if isinstance(frame, SIGNS_OF_LIFE):
            self.begin()
        await self.push_frame(frame, direction)

    def begin(self) -> None:
        """Count from now on, whatever was before."""
        self._last = self._now()
        self._started.set()

    async def idle(self) -> None:
        """Return once the pipeline has run, and nobody spoke, for as long as is allowed."""
        await self._started.wait()
        while True:
            if (left := self.left_secs) <= 0:
                return
            await asyncio.sleep(left)
