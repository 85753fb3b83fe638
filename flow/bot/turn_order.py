"""What gathers the turns of both sides, with those of an interrupted call in their order.

Of a model that hears by itself, Pipecat writes the caller's turn a while after the answer to it has
begun, since its words may come late. An answer that is interrupted before that would be written
first. `tests/bot/test_turn_order.py` fails when Pipecat changes what this relies on.
"""

from __future__ import annotations

from typing import Any

from pipecat.frames.frames import InterruptionFrame
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMAssistantAggregator,
    LLMContextAggregatorPair,
    LLMUserAggregator,
    LLMUserAggregatorParams,
)


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
        self._user = _CallerTurns(context, params=user_params, _realtime_service_mode=realtime)
        self._assistant = _BotTurns(
            context, _realtime_service_mode=realtime, _paired_user_aggregator=self._user
        )


class _CallerTurns(LLMUserAggregator):
    _answered_since = ""

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
        if is_answering and isinstance(caller, _CallerTurns):
            await caller.write_answered()
        await super()._handle_interruptions(frame)
