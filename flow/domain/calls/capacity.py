"""How many calls a process may run, and why it takes no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flow.errors import Refused

Full = Literal["at_capacity", "shutting_down"]

# Others take calls while this one goes away; where every place is taken, one has to come free.
_RETRY_SECS: dict[Full, int] = {"at_capacity": 5, "shutting_down": 1}
_SENTENCES: dict[Full, str] = {
    "at_capacity": "This server runs as many calls as it can.",
    "shutting_down": "This server is being shut down and takes no more calls; try again.",
}


@dataclass(frozen=True, slots=True)
class Capacity:
    """The calls of a process: how many run, how many may, and whether it is being shut down."""

    running: int
    most: int
    draining: bool = False

    @property
    def full(self) -> Full | None:
        """Why no more calls are taken, as the code of a refusal; ``None``: they are."""
        if self.draining:
            return "shutting_down"
        return "at_capacity" if self.running >= self.most else None

    def require_room(self) -> None:
        """Raise `Refused`, code ``shutting_down`` or ``at_capacity``, if no more are taken."""
        if (code := self.full) is not None:
            raise Refused(code, _SENTENCES[code], _RETRY_SECS[code])
