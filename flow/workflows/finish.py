"""From a hang-up to a settled account: drain the usage, extract insights, settle.

Each step may be repeated: the ledger keeps one row per event, a thread moves only where it may,
and settling recomputes the account from the ledger. While the database is away the steps wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol
from uuid import UUID

import structlog

from flow.domain.join import JoinRequest
from flow.domain.thread import Status, Thread
from flow.domain.usage import Owner, UsageEvent
from flow.errors import FlowError, Unavailable

log = structlog.get_logger(__name__)

RETRY_SECS = 1.0
DRAIN_SECS = 30.0


class Threads(Protocol):
    """What finishing needs of `flow.db.functions.Database`."""

    async def save_workflow_thread_data(
        self,
        thread_id: UUID,
        *,
        status: Status | None = None,
        insights: dict[str, Any] | None = None,
        end_reason: str | None = None,
        error: dict[str, Any] | None = None,
    ) -> Thread:
        """Store what is new about a thread and return it."""
        ...

    async def finish_thread(
        self, thread_id: UUID, status: Status, *, error: dict[str, Any] | None = None
    ) -> Thread:
        """Settle the thread in a final state."""
        ...


class Usage(Protocol):
    """What finishing needs of `flow.usage.recorder.Recorder`."""

    def record(self, event: UsageEvent) -> None:
        """Take a finished account."""

    async def drain(self, thread_id: UUID, timeout_secs: float) -> bool:
        """Wait until the ledger has all of a thread's events."""
        ...


Extract = Callable[[Thread, Owner], Awaitable[tuple[dict[str, Any], Sequence[UsageEvent]]]]


class FinishCall:
    """Brings an ended call to ``completed`` or ``failed``.

    Args:
        extract: the insights of a thread as JSON, and the usage of extracting them.
        finished: told the settled thread, for analytics; must not block.
    """

    def __init__(
        self,
        threads: Threads,
        usage: Usage,
        extract: Extract,
        finished: Callable[[Thread], None],
    ) -> None:
        self._threads = threads
        self._usage = usage
        self._extract = extract
        self._finished = finished

    async def __call__(self, thread_id: UUID, reason: str, error: dict[str, Any] | None) -> None:
        """Run every step; errors are logged and leave the thread where it got to."""
        try:
            await self._run(thread_id, reason, error)
        except FlowError as problem:
            log.error("finish_failed", workflow_thread_id=str(thread_id), error=str(problem))
        except Exception:
            log.exception("finish_failed", workflow_thread_id=str(thread_id))

    async def _run(self, thread_id: UUID, reason: str, error: dict[str, Any] | None) -> None:
        save = self._threads.save_workflow_thread_data
        persist = partial(_persist, thread_id)
        await persist(lambda: save(thread_id, status=Status.ENDED, end_reason=reason, error=error))
        if error is None:
            thread = await persist(lambda: save(thread_id, status=Status.EXTRACTING))
            insights = await self._insights(thread)
            await persist(lambda: save(thread_id, insights=insights))
        while not await self._usage.drain(thread_id, DRAIN_SECS):
            log.warning("usage_not_drained", workflow_thread_id=str(thread_id))
        final = Status.COMPLETED if error is None else Status.FAILED
        settled = await persist(lambda: self._threads.finish_thread(thread_id, final, error=error))
        self._finished(settled)

    async def _insights(self, thread: Thread) -> dict[str, Any]:
        if not JoinRequest.model_validate(thread.join).insights.enabled:
            return {"status": "skipped", "reason": "disabled"}
        insights, events = await self._extract(thread, thread.owner)
        for event in events:
            self._usage.record(event)
        return insights


async def _persist(thread_id: UUID, step: Callable[[], Awaitable[Thread]]) -> Thread:
    """Repeat a step until the database answers."""
    while True:
        try:
            return await step()
        except Unavailable as error:
            log.warning("step_waits", workflow_thread_id=str(thread_id), error=str(error))
            await asyncio.sleep(RETRY_SECS)
