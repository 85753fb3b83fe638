"""A thread as an operator sees it: whose it is, where it runs and what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from flow.domain.calls.thread import Status


@dataclass(frozen=True, slots=True)
class ThreadOverview:
    """A thread of any key, without what was said in it and asked for.

    ``host`` is the process that runs the call, or ran it; ``None`` where nobody connected.
    """

    workflow_thread_id: UUID
    api_key_id: UUID
    key_name: str | None
    team_id: str
    product: str
    billable: bool
    status: Status
    transport: str
    host: str | None
    heartbeat_at: datetime | None
    created_at: datetime
    connected_at: datetime | None
    ended_at: datetime | None
    completed_at: datetime | None
    end_reason: str | None
    end_requested: bool
    error: dict[str, Any] | None
    usage_stats: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ThreadFilter:
    """Which threads a list shows; ``None`` and ``False`` leave nothing out.

    ``running`` are those that a process holds or is being connected to, ``host`` the one that
    does. ``first`` and ``last`` are days of joins (UTC), both included.
    """

    api_key_id: UUID | None = None
    team_id: str | None = None
    product: str | None = None
    status: Status | None = None
    running: bool = False
    host: str | None = None
    first: date | None = None
    last: date | None = None
