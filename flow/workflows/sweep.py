"""Giving up on threads that nobody will finish: no caller came, or the process is gone."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

import structlog

from flow.errors import FlowError

log = structlog.get_logger(__name__)

SWEEP_SECS = 60.0
# Beyond a call's lease: heartbeats that a database was away for are given time to come.
LOST_AFTER_SECS = 75.0


class Threads(Protocol):
    """What sweeping needs of `flow.db.functions.Database`."""

    async def expire_threads(self, created_before: datetime) -> list[UUID]:
        """Expire the threads nobody connected to."""
        ...

    async def fail_lost_threads(self, lost_before: datetime) -> list[UUID]:
        """Fail the threads whose last sign of life lapsed before then."""
        ...


class Sweep:
    """One process's sweeping; any number of processes may sweep one database.

    Args:
        waiting_secs: how long a caller may take to connect.
    """

    def __init__(self, threads: Threads, waiting_secs: float) -> None:
        self._threads = threads
        self._unused_secs = waiting_secs + SWEEP_SECS
        self._was_away = True

    async def forever(self) -> None:
        """Sweep once a minute."""
        while True:
            await self.once(datetime.now(UTC))
            await asyncio.sleep(SWEEP_SECS)

    async def once(self, now: datetime) -> None:
        """Expire and fail what is due; a database that is away is only logged.

        After one that was away nothing is given up before its calls could say that they live.
        """
        try:
            expired = await self._threads.expire_threads(now - timedelta(seconds=self._unused_secs))
            if expired:
                log.info("threads_expired", threads=len(expired))
            if not self._was_away:
                await self._fail_lost(now - timedelta(seconds=LOST_AFTER_SECS))
            self._was_away = False
        except FlowError as error:
            self._was_away = True
            log.warning("sweep_missed", error=str(error))

    async def _fail_lost(self, lost_before: datetime) -> None:
        for thread_id in await self._threads.fail_lost_threads(lost_before):
            log.error("thread_lost", workflow_thread_id=str(thread_id))
