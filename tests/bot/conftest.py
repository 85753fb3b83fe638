"""Owners and recorders for the bot's tests."""

from __future__ import annotations

from uuid import uuid4

import pytest

from flow.domain.estimate import warm_up
from flow.domain.usage import Owner, UsageEvent


class Notebook:
    """Takes events as a recorder does, and shows them."""

    def __init__(self) -> None:
        self.begun: list[UsageEvent] = []
        self.events: list[UsageEvent] = []
        self.discarded: list[UsageEvent] = []

    def begin(self, event: UsageEvent) -> None:
        self.begun.append(event)

    def record(self, event: UsageEvent) -> None:
        self.events.append(event)

    def discard(self, event: UsageEvent) -> None:
        self.discarded.append(event)

    @property
    def open(self) -> set[object]:
        """Ids of work that was begun and never ended."""
        ended = {event.id for event in (*self.events, *self.discarded)}
        return {event.id for event in self.begun} - ended


@pytest.fixture(scope="session", autouse=True)
def _warm() -> None:
    """The tokenizer's words are loaded before a request is under way, as the service does it."""
    warm_up()


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


@pytest.fixture
def owner() -> Owner:
    return Owner(uuid4(), uuid4(), "team_a", "voice_bot", True)
