"""The transcript of a running call, saved turn by turn and off the audio path."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from uuid import UUID

import structlog

from flow.domain.thread import Turn
from flow.errors import Unavailable

log = structlog.get_logger(__name__)

RETRY_SECS = 1.0


class Transcript:
    """Numbers turns as they happen and saves them in order, retrying while the database is away.

    Args:
        save: writes turns to the thread; saving one again changes nothing.
        first: the number of the first turn, where others have been said before.
    """

    def __init__(
        self,
        save: Callable[[Sequence[Turn]], Awaitable[object]],
        thread_id: UUID,
        *,
        first: int = 0,
    ) -> None:
        self._save = save
        self._log = log.bind(workflow_thread_id=str(thread_id))
        self._turns = first
        self._unsaved: list[Turn] = []
        self._changed = asyncio.Event()
        self._saved = asyncio.Event()
        self._saved.set()
        self._task = asyncio.create_task(self._run(), name="transcript")

    def add(self, role: str, content: str, started_at: str, *, interrupted: bool = False) -> None:
        """Take a finished turn. ``started_at`` is Pipecat's ISO 8601 time; empty turns are none."""
        text = content.replace("\x00", "").strip()
        if not text:
            return
        self._unsaved.append(
            Turn(
                seq=self._turns,
                role=role,
                content=text,
                started_at=_time(started_at),
                interrupted=interrupted,
            )
        )
        self._turns += 1
        self._saved.clear()
        self._changed.set()

    async def close(self, timeout_secs: float) -> None:
        """Save what is left; what cannot be saved in time is reported as lost."""
        try:
            async with asyncio.timeout(timeout_secs):
                await self._saved.wait()
        except TimeoutError:
            self._log.error("transcript_turns_lost", turns=len(self._unsaved))
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            while turns := tuple(self._unsaved):
                try:
                    await self._save(turns)
                except Unavailable as error:
                    self._log.warning("transcript_waits", turns=len(turns), error=str(error))
                    await asyncio.sleep(RETRY_SECS)
                except Exception:
                    self._log.exception("transcript_turns_refused", turns=len(turns))
                    del self._unsaved[: len(turns)]
                else:
                    del self._unsaved[: len(turns)]
            self._saved.set()


def _time(text: str) -> datetime:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
