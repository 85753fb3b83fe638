"""The variables that Flow gives each call, beside those of its join: ``{{flow.date}}``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID
from zoneinfo import ZoneInfo

from flow.domain.agents.templates import RESERVED

SYSTEM_VARIABLES: Mapping[str, str] = {
    f"{RESERVED}thread_id": "the id of the call's thread",
    f"{RESERVED}date": "the date when the call was joined, such as 2026-11-30",
    f"{RESERVED}time": "the time then, such as 18:05",
    f"{RESERVED}weekday": "the day of the week then, in English",
    f"{RESERVED}timezone": "the time zone of these: the bot's timezone, UTC where it has none",
    f"{RESERVED}agent": "the name of the agent; not known without one",
    f"{RESERVED}caller_number": "the caller's telephone number; known of telephone calls",
    f"{RESERVED}called_number": "the number that was called; known of telephone calls",
}
"""Every name, and what its value is."""


@dataclass(frozen=True, slots=True)
class CallFacts:
    """What is known of a call when it is joined."""

    thread_id: UUID
    now: datetime
    agent: str | None = None
    caller_number: str | None = None
    called_number: str | None = None

    def variables(self, timezone: str | None) -> dict[str, str]:
        """The values that are known, by the names of `SYSTEM_VARIABLES`; times in ``timezone``."""
        zone = timezone or "UTC"
        then = self.now.astimezone(ZoneInfo(zone))
        values = {
            "thread_id": str(self.thread_id),
            "date": then.date().isoformat(),
            "time": f"{then:%H:%M}",
            "weekday": f"{then:%A}",
            "timezone": zone,
            "agent": self.agent,
            "caller_number": self.caller_number,
            "called_number": self.called_number,
        }
        return {f"{RESERVED}{name}": value for name, value in values.items() if value is not None}
