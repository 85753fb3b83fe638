"""What gathers the turns of both sides, with those of an interrupted call in their order.

It can stop listening to the caller, whom a model that hears by itself would answer otherwise.

Of a model that hears by itself, Pipecat writes the caller's turn a while after the answer to it has
begun, since its words may come late. An answer that is interrupted before that would be written
first. `tests/bot/test_turn_order.py` fails when Pipecat changes what this relies on.
"""

from __future__ import annotations

from typing import Any

from pipecat.frames.frames import Frame, InputAudioRawFrame, InterruptionFrame
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMAssistantAggregator,
    LLMContextAggregatorPair,
    LLMUserAggregator,
    LLMUserAggregatorParams,
)
from pipecat.processors.frame_processor import FrameDirection


class OrderedTurns(LLMContextAggregatorPair):
    """Pipecat's pair, whose assistant sees to it that the caller's turn comes before its own.

    Args:
        realtime: whether the model hears by itself; ``None``: it says so.
    """

    def __init__(
        self,
        context: LLMContext,
        user_params: LLMUserAggregatorParams,
        *,
        realtime: bool | None = None,
    ) -> None:
        self._user = CallerTurns(context, params=user_params, _realtime_service_mode=realtime)
        self._assistant = _BotTurns(
            context, _realtime_service_mode=realtime, _paired_user_aggregator=self._user
        )


class CallerTurns(LLMUserAggregator):
    """Gathers what the caller says."""

    _answered_since = ""
    _is_deaf = False

    def stop_listening(self) -> None:
        """Nothing that the caller says from now on is heard, here or further down; the words of
        what was said before may still come."""
        self._is_deaf = True

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Gather the frame, unless it is sound that is not to be heard."""
        if not (self._is_deaf and isinstance(frame, InputAudioRawFrame)):
            await super().process_frame(frame, direction)

    async def _on_user_turn_started(self, *about: Any) -> None:
        if self._aggregation:
            self._answered_since = self._user_turn_start_timestamp
        await super()._on_user_turn_started(*about)

    async def write_answered(self) -> None:
        """Write the turn that was being answered; the one that interrupts the answer goes on."""
        if not self._aggregation:
            return
        interrupting = self._user_turn_start_timestamp
        self._user_turn_start_timestamp = self._answered_since or interrupting
        await self._realtime_handoff_flush_immediate()
        self._user_turn_start_timestamp = interrupting if self._answered_since else ""
        self._answered_since = ""


class _BotTurns(LLMAssistantAggregator):
    async def _handle_interruptions(self, frame: InterruptionFrame) -> None:
        caller = self._paired_user_aggregator
        is_answering = self._realtime_service_mode and self._assistant_turn_start_timestamp
        if is_answering and isinstance(caller, CallerTurns):
            await caller.write_answered()
        await super()._handle_interruptions(frame)
