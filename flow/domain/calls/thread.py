"""A workflow thread: one call from its join to its settled account."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.latency import TurnLatency
from flow.domain.calls.thread_status import Status as Status
from flow.domain.calls.tool_call import ToolCall
from flow.domain.calls.trace_parent import TraceParent
from flow.domain.usage.events import Owner


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance. ``seq`` counts from 0 within the thread and makes saving it idempotent.

    ``interrupted`` marks an assistant turn the caller cut off: ``content`` is what was spoken.
    ``latency`` is how long the caller waited for an assistant turn that is a reply.
    """

    seq: int
    role: str
    content: str
    started_at: datetime
    interrupted: bool = False
    latency: TurnLatency | None = None

    def to_json(self) -> dict[str, Any]:
        """The turn as the database takes it: one flat object."""
        return {
            "seq": self.seq,
            "role": self.role,
            "content": self.content,
            "started_at": self.started_at.isoformat(),
            "interrupted": self.interrupted,
            "latency": None if self.latency is None else self.latency.to_json(),
        }


@dataclass(frozen=True, slots=True)
class ThreadTurn:
    """A turn and the thread it was said in."""

    workflow_thread_id: UUID
    turn: Turn

    def to_json(self) -> dict[str, Any]:
        """The turn as ``save_turns`` takes it: one flat object."""
        return {"workflow_thread_id": str(self.workflow_thread_id), **self.turn.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The turn that `to_json` wrote.

        Raises:
            KeyError, ValueError, TypeError: the object is not one `to_json` wrote.
        """
        latency = data.get("latency")
        return cls(
            UUID(data["workflow_thread_id"]),
            Turn(
                seq=int(data["seq"]),
                role=data["role"],
                content=data["content"],
                started_at=datetime.fromisoformat(data["started_at"]),
                interrupted=data["interrupted"],
                latency=latency and TurnLatency.from_json(latency),
            ),
        )


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a running call needs to know of its thread: where it is, and whether it is to end."""

    status: Status
    end_requested: bool


@dataclass(frozen=True, slots=True)
class Thread:
    """A row of ``workflow_threads`` with its transcript, and what its bot did beside talking.

    ``join`` is the accepted join request; ``usage_stats`` the running account (for
    reading; the ledger is the truth); ``insights`` what was extracted, or
    ``{"status": "skipped" | "failed", "reason": ...}``. ``trace`` is the span of the join, known
    only where its token was shown: it is in the token, and not in the database.
    """

    id: UUID
    api_key_id: UUID
    team_id: str
    product: str
    billable: bool
    status: Status
    join: JoinRequest
    transcript: tuple[Turn, ...]
    insights: dict[str, Any] | None
    usage_stats: dict[str, Any]
    metadata: dict[str, Any]
    error: dict[str, Any] | None
    end_reason: str | None
    end_requested: bool
    created_at: datetime
    connected_at: datetime | None
    ended_at: datetime | None
    completed_at: datetime | None
    trace: TraceParent | None = None
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def owner(self) -> Owner:
        """Whom this call's usage belongs to."""
        return Owner(self.id, self.api_key_id, self.team_id, self.product, self.billable)
