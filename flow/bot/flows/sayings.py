"""What a flow itself has the bot say, and when that is over."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    ControlFrame,
    Frame,
    TTSSpeakFrame,
)
from pipecat.pipeline.worker import PipelineWorker

LEAST_SECS = 5.0
MOST_SECS = 30.0
CHARACTERS_A_SEC = 8.0
"""Of slow speech."""


@dataclass
class Said(ControlFrame):
    """Comes to the pipeline's end after what was said before it; an interruption leaves it."""

    interruptible: bool = field(default=False, init=False)


class Sayings:
    """Says texts in the call's pipeline, one at a time.

    Args:
        worker: of the pipeline. What reaches its end is what is waited for, and it is told of
            after all who have asked before this was made.
    """

    def __init__(self, worker: PipelineWorker) -> None:
        self._worker = worker
        self._marks: dict[int, asyncio.Event] = {}
        self._is_silent = asyncio.Event()
        self._is_silent.set()
        kinds = (BotStartedSpeakingFrame, BotStoppedSpeakingFrame, Said)
        worker.add_reached_downstream_filter(kinds)
        worker.add_event_handler("on_frame_reached_downstream", self._reached)

    async def say(self, text: str, *, is_waited_for: bool) -> None:
        """Have the bot say a text; return when it is said, or late, or at once.

        One that an interruption takes away is over then.
        """
        mark, reached = Said(), asyncio.Event()
        self._marks[mark.id] = reached
        try:
            await self._worker.queue_frames([TTSSpeakFrame(text), mark])
            if is_waited_for:
                longest = min(LEAST_SECS + len(text) / CHARACTERS_A_SEC, MOST_SECS)
                with suppress(TimeoutError):
                    async with asyncio.timeout(longest):
                        await reached.wait()
                        await self._is_silent.wait()
        finally:
            del self._marks[mark.id]

    async def _reached(self, _: Any, frame: Frame) -> None:
        match frame:
            case BotStartedSpeakingFrame():
                self._is_silent.clear()
            case BotStoppedSpeakingFrame():
                self._is_silent.set()
            case Said() if (reached := self._marks.get(frame.id)) is not None:
                reached.set()
