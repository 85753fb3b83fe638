"""The transcript of a running call: its turns, numbered as they happen."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from flow.domain.calls.latency import TurnLatency
from flow.domain.calls.thread import Turn


class Transcript:
    """Numbers the turns of one thread.

    Args:
        record: keeps a turn, whatever becomes of this process; see `flow.ledger.recorder`.
        first: the number of the first turn, where others have been said before.
        caller_said: told of each turn of the caller's.
    """

    def __init__(
        self,
        record: Callable[[UUID, Turn], None],
        thread_id: UUID,
        *,
        first: int = 0,
        caller_said: Callable[[], None] = lambda: None,
    ) -> None:
        self._record = record
        self._caller_said = caller_said
        self._thread_id = thread_id
        self._turns = first
        self._latency: TurnLatency | None = None

    def answered(self, latency: TurnLatency) -> None:
        """The caller begins to hear a reply, whose turn follows, after having waited so long."""
        self._latency = latency

    def add(self, role: str, content: str, started_at: str, *, interrupted: bool = False) -> None:
        """Take a finished turn. ``started_at`` is Pipecat's ISO 8601 time; empty turns are none."""
        text = content.replace("\x00", "").strip()
        if not text:
            return
        latency = None
        if role == "assistant":
            latency, self._latency = self._latency, None
        elif role == "user":
            self._caller_said()
        turn = Turn(self._turns, role, text, _time(started_at), interrupted, latency)
        self._turns += 1
        self._record(self._thread_id, turn)


def _time(text: str) -> datetime:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
