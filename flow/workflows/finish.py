"""Finishing a call, from its end to the settled account.

The process that had the call stores how it ended, waits until its usage is in the ledger, and hands
the thread over (`FinishCall`). The rest is one workflow of `Steps`, which any process may run, and
repeat: insights are extracted unless they are stored, a thread only moves to a status it may have,
and settling computes the account from the ledger. While the database is away, all of it waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar
from uuid import UUID

import structlog

from flow.domain.calls.ending import Ending, EndReason
from flow.domain.calls.thread import Status, Thread
from flow.domain.usage.events import Owner
from flow.errors import CallTakenOver, FlowError, NotFound, Unavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")

RETRY_SECS = 1.0
DRAIN_SECS = 30.0


class Threads(Protocol):
    """What finishing needs of `flow.db.database.Database`."""

    async def get_workflow_thread_data(self, thread_id: UUID) -> Thread:
        """The thread with its transcript."""
        ...

    async def save_workflow_thread_data(
        self,
        thread_id: UUID,
        *,
        status: Status | None = None,
        end_reason: EndReason | None = None,
        error: dict[str, Any] | None = None,
    ) -> Thread:
        """Store what is new about a thread and return it."""
        ...

    async def save_insights(self, thread_id: UUID, insights: dict[str, Any]) -> Thread:
        """Store insights where there are none."""
        ...

    async def finish_thread(self, thread_id: UUID, status: Status) -> Thread:
        """Settle the thread in a final state."""
        ...


class Save(Protocol):
    """`save_workflow_thread_data`, or the same for a call that may be somebody else's by now."""

    def __call__(
        self,
        thread_id: UUID,
        *,
        status: Status | None = None,
        end_reason: EndReason | None = None,
        error: dict[str, Any] | None = None,
    ) -> Awaitable[Thread]:
        """Store what is new, or raise `CallTakenOver`."""
        ...


class Usage(Protocol):
    """What finishing needs of `flow.ledger.recorder.Recorder`."""

    async def drain(self, thread_id: UUID, timeout_secs: float) -> bool:
        """Wait until the ledger has all of a thread's events."""
        ...


Extract = Callable[[Thread, Owner], Awaitable[dict[str, Any]]]


class FinishCall:
    """What the process that had a call does when it is over.

    Args:
        start: starts the workflow of `Steps` for a thread; once, however often it is asked to.
            Raises `Unavailable` when it cannot be asked now.
    """

    def __init__(
        self, threads: Threads, usage: Usage, start: Callable[[UUID], Awaitable[None]]
    ) -> None:
        self._threads = threads
        self._usage = usage
        self._start = start

    async def __call__(self, thread_id: UUID, ending: Ending, save: Save | None = None) -> bool:
        """Note the ending and hand the thread over; errors leave it to the sweep.

        ``save`` notes the ending of a call that may have passed to another process. ``False``: it
        has, and goes on there.
        """
        save = save or self._threads.save_workflow_thread_data

        async def noted_and_handed_over() -> None:
            if ending.reason is EndReason.NOBODY_CAME:
                # Nothing is to be extracted of it.
                await _patiently(thread_id, lambda: save(thread_id, end_reason=ending.reason))
                await _patiently(
                    thread_id, lambda: self._threads.finish_thread(thread_id, Status.EXPIRED)
                )
                return
            await _patiently(
                thread_id,
                lambda: save(
                    thread_id, status=Status.ENDED, end_reason=ending.reason, error=ending.error
                ),
            )
            await self._hand_over(thread_id)

        try:
            await _logging(thread_id, noted_and_handed_over())
        except CallTakenOver:
            return False
        return True

    async def take_up(self, thread_ids: Sequence[UUID]) -> None:
        """Hand over the threads of the process whose place this one has taken."""
        for thread_id in thread_ids:
            log.warning("thread_taken_up", workflow_thread_id=str(thread_id))
            await _logging(thread_id, self._hand_over(thread_id))

    async def _hand_over(self, thread_id: UUID) -> None:
        await _drained(self._usage, thread_id)
        await _patiently(thread_id, lambda: self._start(thread_id))


class Steps:
    """The steps of the workflow, in order; each may be repeated, and skips what is done.

    Args:
        extract: the insights of a thread as JSON; what extracting them uses is metered there.
        finished: told the settled thread, for analytics; must not block.
        recorded: returns when a call's recording is stored, or has taken too long for that.
    """

    def __init__(
        self,
        threads: Threads,
        usage: Usage,
        extract: Extract,
        finished: Callable[[Thread], None],
        recorded: Callable[[UUID], Awaitable[object]] | None = None,
    ) -> None:
        self._recorded = recorded
        self._threads = threads
        self._usage = usage
        self._extract = extract
        self._finished = finished

    @property
    def all(self) -> tuple[Callable[[UUID], Awaitable[None]], ...]:
        """Every step."""
        return self.extract_insights, self.settle, self.tell

    async def extract_insights(self, thread_id: UUID) -> None:
        """Ask for insights and store them; a call that failed by itself has none.

        Storing follows asking within one step, so that nothing of what was said is kept anywhere
        but with the thread. The usage is in the ledger, or in this process's spool.
        """
        thread = await self._unfinished(thread_id)
        if thread is None or thread.insights is not None or not _has_insights(thread):
            return
        save = self._threads.save_workflow_thread_data
        thread = await _patiently(thread_id, lambda: save(thread_id, status=Status.EXTRACTING))
        insights = await self._insights(thread)
        await _patiently(thread_id, lambda: self._threads.save_insights(thread_id, insights))
        await _drained(self._usage, thread_id)

    async def settle(self, thread_id: UUID) -> None:
        """Bring the thread to its final state, with its account computed from the ledger.

        Whoever is told of that finds the recording, unless storing it takes too long.
        """
        thread = await self._unfinished(thread_id)
        if thread is None:
            return
        if thread.join.recording is not None and self._recorded is not None:
            await self._recorded(thread_id)
        await _drained(self._usage, thread_id)
        final = Status.COMPLETED if thread.error is None else Status.FAILED
        await _patiently(thread_id, lambda: self._threads.finish_thread(thread_id, final))
        log.info("thread_finished", workflow_thread_id=str(thread_id), status=final.value)

    async def tell(self, thread_id: UUID) -> None:
        """Tell analytics of the settled thread."""
        if (thread := await self._thread(thread_id)) is not None:
            self._finished(thread)

    async def _unfinished(self, thread_id: UUID) -> Thread | None:
        thread = await self._thread(thread_id)
        return None if thread is None or thread.status.is_final else thread

    async def _thread(self, thread_id: UUID) -> Thread | None:
        try:
            return await _patiently(
                thread_id, lambda: self._threads.get_workflow_thread_data(thread_id)
            )
        except NotFound:
            # It went with its key.
            log.info("thread_gone", workflow_thread_id=str(thread_id))
            return None

    async def _insights(self, thread: Thread) -> dict[str, Any]:
        if not thread.join.insights.enabled:
            return {"status": "skipped", "reason": "disabled"}
        try:
            return await self._extract(thread, thread.owner)
        except Exception:
            log.exception("insights_failed", workflow_thread_id=str(thread.id))
            return {"status": "failed", "reason": "internal_error"}


class InThisProcess:
    """Finishing where there is no Postgres to keep workflows in: at once, by whoever asks."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    async def start(self, thread_id: UUID) -> None:
        """Run every step; what is done already is not done again."""
        for step in self._steps.all:
            await step(thread_id)

    async def is_over(self, thread_id: UUID) -> bool:
        """Always: `start` has come back."""
        return True

    async def forget(self, before: datetime) -> int:
        """Nothing is kept."""
        return 0


def _has_insights(thread: Thread) -> bool:
    return thread.error is None or thread.error.get("code") == EndReason.PROCESS_LOST


async def _drained(usage: Usage, thread_id: UUID) -> None:
    while not await usage.drain(thread_id, DRAIN_SECS):
        log.warning("usage_not_drained", workflow_thread_id=str(thread_id))


async def _patiently(thread_id: UUID, step: Callable[[], Awaitable[T]]) -> T:
    """Repeat a step until the database answers."""
    while True:
        try:
            return await step()
        except Unavailable as error:
            log.warning("step_waits", workflow_thread_id=str(thread_id), error=str(error))
            await asyncio.sleep(RETRY_SECS)


async def _logging(thread_id: UUID, work: Awaitable[None]) -> None:
    try:
        await work
    except CallTakenOver:
        raise
    except FlowError as problem:
        log.error("finish_failed", workflow_thread_id=str(thread_id), error=str(problem))
    except Exception:
        log.exception("finish_failed", workflow_thread_id=str(thread_id))
