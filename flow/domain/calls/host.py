"""The processes that run calls and workflows, as an operator sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

# Some missed heartbeats: so long that a stalled process is not taken for a dead one.
SILENT_SECS = 60.0


@dataclass(frozen=True, slots=True)
class HostReport:
    """What a process says of itself with each sign of life.

    ``calls`` run in it, of at most ``capacity``. ``spool_events`` wait for the database, the oldest
    for ``spool_oldest_secs``. ``workflows``: it finishes calls, its own and those of others.
    ``None``: a process of another version said nothing of it.
    """

    version: str | None
    calls: int | None
    capacity: int | None
    draining: bool | None
    workflows: bool | None
    spool_events: int | None
    spool_oldest_secs: float | None

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """The report of a process of any version: what is not known here is left out."""
        return cls(**{one.name: told.get(one.name) for one in fields(cls)})


class HostState(StrEnum):
    """``SILENT``: it has not stopped by itself, and gives no signs of life."""

    ALIVE = "alive"
    SILENT = "silent"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Host:
    """A process by the name it claims calls under.

    ``held_calls`` are the running threads that are in its name, which outlive it until they are
    taken over. ``report`` is ``None`` until its first sign of life.
    """

    name: str
    is_stopped: bool
    started_at: datetime
    heartbeat_at: datetime
    silent_secs: float
    held_calls: int
    report: HostReport | None

    @property
    def state(self) -> HostState:
        """Whether it lives, as far as anybody can say."""
        if self.is_stopped:
            return HostState.STOPPED
        return HostState.SILENT if self.silent_secs > SILENT_SECS else HostState.ALIVE
