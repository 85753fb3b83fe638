"""The spool of a process that is killed, and what the next one finds in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from flow.db.database import Recorded
from flow.domain.calls.thread import ThreadTurn
from flow.domain.usage.events import UsageEvent
from flow.ledger.recorder import Recorder


class Ledger:
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.events: list[UsageEvent] = []

    async def record_usage(self, events: Sequence[UsageEvent]) -> Recorded:
        self.events += events
        ids = frozenset(event.id for event in events)
        return Recorded(new=ids, duplicates=frozenset(), rejected={}, threads={})

    async def save_turns(self, turns: Sequence[ThreadTurn]) -> frozenset[UUID]:
        return frozenset()


def spooling(ledger: Ledger, directory: Path) -> Recorder:
    """A recorder with its spool in a directory."""
    return Recorder(ledger, directory, price=lambda event: event, on_recorded=lambda *_: None)


async def found_in(directory: Path) -> list[UsageEvent]:
    """What a process that starts with this spool records of it."""
    ledger = Ledger()
    recorder = spooling(ledger, directory)
    recorder.start()
    await recorder.close()
    return ledger.events
