"""A recorder that shows what it was given."""

from __future__ import annotations

from flow.domain.usage.events import UsageEvent


class Notebook:
    """Takes events as a recorder does, and shows them."""

    def __init__(self) -> None:
        self.begun: list[UsageEvent] = []
        self.events: list[UsageEvent] = []

    def begin(self, event: UsageEvent) -> None:
        self.begun.append(event)

    def record(self, event: UsageEvent) -> None:
        self.events.append(event)

    @property
    def open(self) -> set[object]:
        """Ids of work that was begun and never ended."""
        return {event.id for event in self.begun} - {event.id for event in self.events}
