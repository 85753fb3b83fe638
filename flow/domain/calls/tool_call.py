"""One use of a tool in a call: what the bot did beside talking, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from math import isfinite
from typing import Any, Self
from uuid import UUID


class ToolOutcome(StrEnum):
    """What came of a use of a tool. The values are stored and shown."""

    RUNNING = "running"
    OK = "ok"
    FAILED = "failed"
    """The tool could not be reached, or answered with an error or with what cannot be read."""
    TIMEOUT = "timeout"
    INVALID_ARGUMENTS = "invalid_arguments"
    """The model's arguments do not fit the tool's schema: nothing was sent."""
    REFUSED = "refused"
    """Flow did not let it happen: nothing was sent."""
    CANCELLED = "cancelled"
    """The call was over and the tool was not waited for any longer: its effect is not known."""
    UNKNOWN = "unknown"
    """The process that ran the call is gone: whether the tool had its effect is not known."""

    @property
    def is_failure(self) -> bool:
        """Whether something went wrong with the tool itself."""
        return self in {ToolOutcome.FAILED, ToolOutcome.TIMEOUT, ToolOutcome.UNKNOWN}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A use of a tool, when it starts (``running``) and again when it is over.

    ``id`` names the use everywhere: HTTP tools see it as ``webhook-id`` and ``Idempotency-Key``.
    ``arguments`` are the model's, and ``result`` is what the model was told; both are content.
    ``status`` is of the HTTP answer. ``seconds`` are from the start to the outcome.
    ``transition_to`` is the node of the bot's flow that the call goes to with it; a function that
    is but a transition is a use of its own.
    """

    id: UUID
    name: str
    arguments: Mapping[str, Any]
    started_at: datetime
    outcome: ToolOutcome = ToolOutcome.RUNNING
    seconds: float | None = None
    status: int | None = None
    result: Mapping[str, Any] | None = None
    transition_to: str | None = None

    @property
    def ended_at(self) -> datetime | None:
        """When it was over; ``None`` while it runs, and where that is not known."""
        return None if self.seconds is None else self.started_at + timedelta(seconds=self.seconds)

    def to_json(self) -> dict[str, Any]:
        """The use as the database takes it: one object, of what is `storable`."""
        return {
            "id": str(self.id),
            "name": self.name,
            "arguments": storable(self.arguments),
            "started_at": self.started_at.isoformat(),
            "outcome": self.outcome.value,
            "seconds": self.seconds,
            "status": self.status,
            "result": storable(self.result),
            "transition_to": self.transition_to,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The use that `to_json` wrote.

        Raises:
            KeyError, ValueError, TypeError: the object is not one `to_json` wrote.
        """
        seconds = data["seconds"]
        return cls(
            id=UUID(data["id"]),
            name=data["name"],
            arguments=data["arguments"],
            started_at=datetime.fromisoformat(data["started_at"]),
            outcome=ToolOutcome(data["outcome"]),
            seconds=None if seconds is None else float(seconds),
            status=data["status"],
            result=data["result"],
            transition_to=data["transition_to"],
        )


@dataclass(frozen=True, slots=True)
class ThreadToolCall:
    """A use of a tool and the thread it happened in."""

    workflow_thread_id: UUID
    call: ToolCall

    def to_json(self) -> dict[str, Any]:
        """The use as ``save_tool_calls`` takes it: one object."""
        return {"workflow_thread_id": str(self.workflow_thread_id), **self.call.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The use that `to_json` wrote; raises as `ToolCall.from_json`."""
        return cls(UUID(data["workflow_thread_id"]), ToolCall.from_json(data))


def storable(value: Any) -> Any:
    """JSON without what cannot be stored, nor sent to a model: NUL, halves of characters, numbers
    that are none."""
    match value:
        case str():
            return value.replace("\x00", "").encode(errors="replace").decode()
        case float():
            return value if isfinite(value) else None
        case Mapping():
            return {storable(str(name)): storable(item) for name, item in value.items()}
        case list() | tuple():
            return [storable(item) for item in value]
    return value
