"""The states of a thread, by themselves: the command line needs their names at its start."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """Where a thread is. The legal moves are a table in the database, which refuses all others."""

    CREATED = "created"
    CONNECTING = "connecting"
    IN_CALL = "in_call"
    ENDED = "ended"
    EXTRACTING = "extracting"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def has_call(self) -> bool:
        """Whether a call is under way, or being connected."""
        return self in {self.CONNECTING, self.IN_CALL}

    @property
    def is_final(self) -> bool:
        """Whether no move leads out of this state."""
        return self in {self.COMPLETED, self.FAILED, self.EXPIRED, self.CANCELLED}
