"""A recorder that shows what it was given."""

from __future__ import annotations

from uuid import UUID

from flow.domain.calls.tool_call import ToolCall
from flow.domain.usage.events import UsageEvent


class Notebook:
    """Takes events as a recorder does, and shows them."""

    def __init__(self) -> None:
        self.begun: list[UsageEvent] = []
        self.events: list[UsageEvent] = []
        self.tool_calls: list[ToolCall] = []

    def begin(self, event: UsageEvent) -> None:
        self.begun.append(event)

    def record(self, event: UsageEvent) -> None:
        self.events.append(event)

    def record_tool_call(self, thread_id: UUID, call: ToolCall) -> None:
        self.tool_calls.append(call)

    @property
    def open(self) -> set[object]:
        """Ids of work that was begun and never ended."""
        return {event.id for event in self.begun} - {event.id for event in self.events}
