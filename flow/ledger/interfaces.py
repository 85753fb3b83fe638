"""The interfaces that a recorder needs: its ledger, and an observer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol
from uuid import UUID

from flow.db.database import Recorded
from flow.domain.calls.thread import ThreadTurn
from flow.domain.calls.tool_call import ThreadToolCall
from flow.domain.usage.events import UsageEvent


class Ledger(Protocol):
    """Where events and turns end up: `flow.db.database.Database`, across the network."""

    async def record_usage(self, events: Sequence[UsageEvent]) -> Recorded:
        """Write what is new in one transaction and say what was new; raises `Unavailable`."""
        ...

    async def save_turns(self, turns: Sequence[ThreadTurn]) -> frozenset[UUID]:
        """Store what is new and say which threads do not exist; raises `Unavailable`."""
        ...

    async def save_tool_calls(self, calls: Sequence[ThreadToolCall]) -> frozenset[UUID]:
        """Store what is new and say which threads do not exist; raises `Unavailable`."""
        ...


class Watch(Protocol):
    """Sees what becomes of events. Must not block."""

    def recorded(self, event_id: UUID) -> None:
        """An event waits for the ledger from now on."""
        return

    def committed(self, event_ids: Iterable[UUID], *, is_all: bool) -> None:
        """These wait no longer. ``is_all``: nor does any other."""
        return

    def rejected(self, events: int) -> None:
        """The ledger put so many aside."""
        return

    def failed(self) -> None:
        """The ledger could not be reached."""
        return


class Unwatched(Watch):
    """Nobody looks."""
