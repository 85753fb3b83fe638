"""Asking the model nothing more once the call is over."""

from __future__ import annotations

from typing import Any

from pipecat.frames.frames import Frame, LLMContextFrame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor


class QuestionGate(FrameProcessor):
    """Stands before the model, and lets it be asked until it is closed.

    When a pipeline is cancelled while the caller's turn is open, Pipecat's aggregator asks the
    model for a reply to what was said so far. Nobody would hear it, and it would be paid for.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(enable_direct_mode=True, **options)
        self._is_closed = False

    def close(self) -> None:
        """The call is over."""
        self._is_closed = True

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Pass every frame on, but for questions that come too late."""
        await super().process_frame(frame, direction)
        if not (self._is_closed and isinstance(frame, LLMContextFrame)):
            await self.push_frame(frame, direction)
