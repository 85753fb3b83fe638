"""Events as PostHog takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4


class BadEvent(ValueError):
    """An event without what every event has."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event as it arrived; ``path`` is the way it took."""

    uuid: str
    name: str
    distinct_id: str
    timestamp: str | None
    properties: Mapping[str, Any]
    path: str

    def to_json(self) -> dict[str, Any]:
        """The event as ``/_sandbox/events`` shows it."""
        return {
            "uuid": self.uuid,
            "event": self.name,
            "distinct_id": self.distinct_id,
            "timestamp": self.timestamp,
            "properties": dict(self.properties),
            "path": self.path,
        }


def read_event(raw: Any, path: str) -> Event:
    """An event of a request's body.

    Raises:
        BadEvent: it has no name, nobody's id, or properties that are no object.
    """
    if not isinstance(raw, dict) or not isinstance(raw.get("event"), str):
        raise BadEvent("An event has no name.")
    properties = raw.get("properties") or {}
    if not isinstance(properties, dict):
        raise BadEvent(f"The properties of the event {raw['event']!r} are no object.")
    distinct_id = raw.get("distinct_id") or properties.get("distinct_id")
    if not distinct_id:
        raise BadEvent(f"The event {raw['event']!r} has no distinct_id.")
    return Event(
        uuid=str(raw.get("uuid") or uuid4()),
        name=raw["event"],
        distinct_id=str(distinct_id),
        timestamp=raw.get("timestamp"),
        properties=properties,
        path=path,
    )
