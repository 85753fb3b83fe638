"""Why a context reaches a model that hears by itself.

Pipecat sends it both when the caller has said something, which such a model has heard and answers
unasked, and when the bot is to speak: after an `LLMRunFrame`, or with messages that are appended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipecat.frames.frames import (
    DataFrame,
    Frame,
    InterruptionFrame,
    LLMContextUserTurnFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection

_ORDERED = "ordered"


@dataclass
class ConversationNote(DataFrame):
    """A message that was added to the context, for a model that keeps a conversation of its own.

    ``respond``: the model is to answer it at once.
    """

    message: Any
    respond: bool


def ordered_interruption() -> InterruptionFrame:
    """The bot is to stop what it is saying, for something that it is told to say at once.

    A model that speaks by itself hears of that something a moment later, and what it says until
    then would be taken for it. Not a class of its own: serializers go by the class.
    """
    frame = InterruptionFrame()
    frame.metadata[_ORDERED] = True
    return frame


def is_ordered(frame: Frame) -> bool:
    """Whether it is such an interruption."""
    return isinstance(frame, InterruptionFrame) and _ORDERED in frame.metadata


class ContextFrames:
    """Follows what leads to each context that comes down the pipeline."""

    def __init__(self) -> None:
        self._is_callers = False
        self._told: Any = None

    def note(self, frame: Frame, direction: FrameDirection) -> None:
        """A frame has come; the aggregator announces a turn of the caller ahead of its context."""
        if isinstance(frame, LLMContextUserTurnFrame) and direction is FrameDirection.DOWNSTREAM:
            self._is_callers = True

    def asks(self, direction: FrameDirection) -> bool:
        """Whether the bot is to speak on the context that has come now."""
        is_downstream = direction is FrameDirection.DOWNSTREAM
        is_asked = is_downstream and not self._is_callers
        if is_downstream:
            self._is_callers = False
        return is_asked

    def new_instruction(self, context: LLMContext) -> Any:
        """The last message that tells the bot what to do, unless there is none or it was told."""
        told = (m for m in reversed(context.get_messages()) if _role(m) == "developer")
        last = next(told, None)
        is_new, self._told = last is not self._told, last
        return last if is_new else None


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None
