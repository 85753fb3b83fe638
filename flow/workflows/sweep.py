"""The sweep: finishes threads that no process works on, because no caller came or it is gone."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import structlog

from flow.domain.calls.thread import Status, Thread
from flow.errors import FlowError, NotFound

log = structlog.get_logger(__name__)

# How long a caller that connects at the last moment may take.
UNUSED_SECS = 60.0
# Beyond a call's lease: heartbeats that a database was away for are given time to come.
LOST_SECS = 75
# Beyond it too: how long a call waits for the usage in the spool of its process to be replayed.
# What comes later is still added to its account.
MISSING_SECS = 300
# How long what a workflow leaves can be looked at.
KEPT = timedelta(days=7)


class Threads(Protocol):
    """What sweeping needs of `flow.db.database.Database`."""

    async def expire_threads(self, created_before: datetime) -> list[UUID]:
        """Expire the threads nobody connected to."""
        ...

    async def take_over_lost_threads(self, lost_secs: int, missing_secs: int) -> list[UUID]:
        """End the threads whose process is gone; those that are to be finished."""
        ...

    async def get_workflow_thread_data(self, thread_id: UUID) -> Thread:
        """The thread."""
        ...

    async def finish_thread(
        self, thread_id: UUID, status: Status, *, error: dict[str, Any] | None = None
    ) -> Thread:
        """Settle the thread in a final state."""
        ...


class Finishing(Protocol):
    """What sweeping needs of `flow.workflows.finish_workflow.Finishing`."""

    async def start(self, thread_id: UUID) -> None:
        """Have the thread finished, once however often it is asked for."""
        ...

    async def is_over(self, thread_id: UUID) -> bool:
        """Whether the thread's workflow came to an end."""
        ...

    async def forget(self, before: datetime) -> int:
        """Delete some of what is left of workflows that ended before then."""
        ...


class Sweep:
    """One process's sweeping; any number of processes may sweep one database.

    Args:
        waiting_secs: how long a caller may take to connect.
        sweep_secs: from one sweep to the next.
    """

    def __init__(
        self,
        threads: Threads,
        finishing: Finishing,
        waiting_secs: float,
        sweep_secs: float = 15.0,
    ) -> None:
        self._threads = threads
        self._finishing = finishing
        self._unused_secs = waiting_secs + UNUSED_SECS
        self._sweep_secs = sweep_secs
        self._was_away = True

    async def forever(self) -> None:
        """Sweep a few times a minute."""
        while True:
            await self.once(datetime.now(UTC))
            await asyncio.sleep(self._sweep_secs)

    async def once(self, now: datetime) -> None:
        """Expire and take up what is due; a database that is away is only logged.

        After one that was away nothing is given up before its calls could say that they live.
        """
        try:
            expired = await self._threads.expire_threads(now - timedelta(seconds=self._unused_secs))
            if expired:
                log.info("threads_expired", threads=len(expired))
            if not self._was_away:
                await self._take_up_lost()
                await self._finishing.forget(now - KEPT)
            self._was_away = False
        except FlowError as error:
            self._was_away = True
            log.warning("sweep_missed", error=str(error))

    async def _take_up_lost(self) -> None:
        for thread_id in await self._threads.take_over_lost_threads(LOST_SECS, MISSING_SECS):
            log.warning("thread_lost", workflow_thread_id=str(thread_id))
            await self._finishing.start(thread_id)
            if await self._finishing.is_over(thread_id):
                await self._give_up(thread_id)

    async def _give_up(self, thread_id: UUID) -> None:
        """Fail a thread whose workflow ended without finishing it: it would not do better again."""
        try:
            thread = await self._threads.get_workflow_thread_data(thread_id)
        except NotFound:
            return
        if not thread.status.is_final:
            log.error("thread_given_up", workflow_thread_id=str(thread_id))
            error = {"code": "finish_failed", "message": "what follows a call failed"}
            await self._threads.finish_thread(thread_id, Status.FAILED, error=error)
