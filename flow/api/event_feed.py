"""What is new of the threads that somebody watches: one look into the database for all of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

import structlog

from flow.db.database import Database
from flow.domain.calls.progress import Progress, Seen
from flow.errors import Refused, Unavailable

log = structlog.get_logger(__name__)

POLL_SECS = 0.5
PAUSE_SECS = 2.0
MOST_OF_A_KEY = 20
MOST = 500
"""Streams that may be open in one process, of one key and in all."""


class EventFeed:
    """Looks at the watched threads while any are, and at nothing while none is.

    Nothing is kept for a watcher: who is slow is told later how the thread stands by then.
    """

    def __init__(self, database: Database, *, poll_secs: float = POLL_SECS) -> None:
        self._database = database
        self._poll_secs = poll_secs
        self._open: Counter[UUID] = Counter()
        self._waiting: list[tuple[UUID, Seen, asyncio.Future[Progress | None]]] = []
        self._looking: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    @property
    def is_closed(self) -> bool:
        """Whether this process stops, so that streams go on elsewhere."""
        return self._closed.is_set()

    def close(self) -> None:
        """End every stream."""
        self._closed.set()
        self._answer([None] * len(self._waiting))

    @contextmanager
    def stream(self, api_key_id: UUID) -> Iterator[None]:
        """Count one more stream of a key as long as the block lasts.

        Raises:
            Refused: code ``too_many_streams``, or ``shutting_down``.
        """
        if self.is_closed:
            raise Refused("shutting_down", "This server is stopping: try again.", 1)
        if self._open[api_key_id] >= MOST_OF_A_KEY:
            raise _too_many(f"{MOST_OF_A_KEY} streams of events of a key")
        if self._open.total() >= MOST:
            raise _too_many(f"{MOST} streams of events of one server")
        self._open[api_key_id] += 1
        try:
            yield
        finally:
            self._open[api_key_id] -= 1
            self._open = +self._open

    async def next(self, thread_id: UUID, seen: Seen) -> Progress | None:
        """How the thread stands at the next look, with what was not seen; ``None``: it is gone, or
        this process stops."""
        if self.is_closed:
            return None
        told: asyncio.Future[Progress | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((thread_id, seen, told))
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="event-feed")
        return await told

    async def _look(self) -> None:
        pause = self._poll_secs
        while self._waiting:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), pause)
            self._waiting = [one for one in self._waiting if not one[2].done()]
            if not self._waiting:
                return
            watched = [(thread_id, seen) for thread_id, seen, _ in self._waiting]
            try:
                found = await self._database.during_calls.list_progress(watched)
            except Exception as error:
                if not isinstance(error, Unavailable):
                    log.exception("event_feed_failed")
                pause = PAUSE_SECS
                continue
            pause = self._poll_secs
            self._answer(found)

    def _answer(self, found: list[Progress | None]) -> None:
        """Tell the first of those who wait; others may have come meanwhile."""
        answered, self._waiting = self._waiting[: len(found)], self._waiting[len(found) :]
        # Nobody waits any more once this process stops.
        for (_, _, told), progress in zip(answered, found, strict=False):
            if not told.done():
                told.set_result(progress)


def _too_many(most: str) -> Refused:
    return Refused("too_many_streams", f"At most {most} are open at once.")
