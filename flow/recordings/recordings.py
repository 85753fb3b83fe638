"""The way of recordings from the journals of a process into the storage, and out of it again.

The journals are the queue: whatever becomes of a process, of the storage or of the database, a part
is stored by the next look at the folder, by this process or by the one that follows it there. A
recording of several parts is put together by whoever finds that the last of them is stored.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from time import time
from typing import Any, BinaryIO, Protocol, TypeVar
from uuid import UUID, uuid4, uuid5

import structlog

from flow.domain.calls.recording import CallRecording, RecordingPart, RecordingStatus
from flow.errors import Unavailable
from flow.recordings import journal
from flow.recordings.journal import PartHeader, locked
from flow.recordings.sound_file import SUFFIX, SoundFile, join_parts, write_part
from flow.vendors.recording_storage.storage import RecordingStorage

log = structlog.get_logger(__name__)

LOOK_SECS = 10.0
# How long a finished call waits for its recording before its webhook goes without.
SETTLE_SECS = 30.0
ASK_SECS = 0.25
# A part that nobody has brought after this time went with the disk of its process.
LOST_SECS = 86_400
UNREADABLE = ".unreadable"
DRAFT = ".draft"
# Longer than anything is under way.
DRAFT_SECS = 6 * 3600

Waiting = TypeVar("Waiting")


class Records(Protocol):
    """What is needed of `flow.db.call_recordings.CallRecordings`."""

    async def begin_part(
        self, thread_id: UUID, part_id: UUID, started_at: datetime, days: int
    ) -> bool:
        """Note that a part is being recorded."""
        ...

    async def store_part(self, thread_id: UUID, part: RecordingPart, days: int) -> bool:
        """Note where it is stored; ``False``: it is not to be kept."""
        ...

    async def get(self, thread_id: UUID) -> CallRecording | None:
        """A call's recording."""
        ...

    async def drop_lost_parts(self, lost_secs: int) -> int:
        """Give up parts that nobody brought."""
        ...

    async def unsettled(self) -> list[UUID]:
        """Threads whose recording can be settled."""
        ...

    async def settle(
        self, thread_id: UUID, parts: Sequence[UUID], whole: RecordingPart | None = None
    ) -> bool:
        """Make a recording of these parts ready."""
        ...

    async def expire(self) -> int:
        """Delete recordings whose time is over."""
        ...

    async def claim_removals(self) -> list[str]:
        """Files for this process to remove."""
        ...

    async def forget_removals(self, paths: Sequence[str]) -> None:
        """They are removed."""
        ...


class Recordings:
    """Stores what this process records, and looks after what is stored.

    Args:
        folder: of the journals, and of files under way.
        look_secs: from one look at the folder and at the database to the next, at the longest.
    """

    def __init__(
        self,
        records: Records,
        storage: RecordingStorage,
        folder: Path,
        look_secs: float = LOOK_SECS,
    ) -> None:
        self._records = records
        self._storage = storage
        self._folder = folder
        self._look_secs = look_secs
        self._nudged = asyncio.Event()
        self._failures: Counter[object] = Counter()
        self._telling: set[asyncio.Task[None]] = set()

    def begun(self, header: PartHeader) -> None:
        """A part has begun: note it, so that whoever finishes the call waits for it."""
        note = self._records.begin_part(
            header.thread_id, header.part_id, header.started_at, header.days
        )
        self._spawn(note)

    def nudge(self) -> None:
        """A part has ended."""
        self._nudged.set()

    async def forever(self) -> None:
        """Store parts as they end, and look after the rest from time to time."""
        while True:
            self._nudged.clear()
            for work in (self.store_parts, self.look_after):
                try:
                    await work()
                except Unavailable as error:
                    log.warning("recordings_wait", error=str(error))
                except Exception:
                    log.exception("recordings_failed")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._nudged.wait(), self._look_secs)

    async def store_parts(self) -> None:
        """Store every part that nobody is recording any more, and settle its recording.

        What a storage never takes, such as a file that is too long for it, is tried after all
        else, so that it keeps nothing back.
        """
        if not self._folder.is_dir():
            return
        for path in self._least_failed(sorted(self._folder.glob(f"*{journal.SUFFIX}"))):
            with locked(path) as file:
                if file is not None:
                    with self._counted(path):
                        await self._store(file, path)

    async def look_after(self) -> None:
        """Settle what has been left unsettled, and remove what is not to be kept any longer,
        whatever becomes of the former."""
        try:
            await self._settle_left()
        finally:
            await self._clean_up()

    async def _settle_left(self) -> None:
        if lost := await self._records.drop_lost_parts(LOST_SECS):
            log.error("recording_parts_lost", recordings=lost)
        for thread_id in self._least_failed(await self._records.unsettled()):
            with self._counted(thread_id):
                await self.settle(thread_id)

    async def _clean_up(self) -> None:
        await asyncio.to_thread(_remove_old_drafts, self._folder)
        if expired := await self._records.expire():
            log.info("recordings_expired", recordings=expired)
        while paths := await self._records.claim_removals():
            await self._storage.remove(paths)
            await self._records.forget_removals(paths)

    async def settled(self, thread_id: UUID, within_secs: float = SETTLE_SECS) -> bool:
        """Wait until the recording of a call that is over is ready, or ``within_secs`` are over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_secs):
                while True:
                    with suppress(Unavailable):
                        if await self.settle(thread_id):
                            return True
                    await asyncio.sleep(ASK_SECS)
        log.warning("recording_late", workflow_thread_id=str(thread_id))
        return False

    async def settle(self, thread_id: UUID) -> bool:
        """Make a recording ready if all its parts are stored; whether there is nothing left to do.

        Raises:
            Unavailable: the database or the storage is.
        """
        found = await self._records.get(thread_id)
        if found is None or found.status is not RecordingStatus.STORING:
            return found is None or found.status is not RecordingStatus.RECORDING
        if not found.is_stored:
            return False
        parts = [part.id for part in found.parts]
        if len(parts) < 2:
            return await self._records.settle(thread_id, parts)
        whole = await self._put_together(thread_id, found.parts)
        if await self._records.settle(thread_id, parts, whole):
            return True
        found = await self._records.get(thread_id)
        kept = [] if found is None else [part.path for part in found.parts]
        # Another process may have made the same of the same parts.
        if whole.path is not None and whole.path not in kept:
            await self._storage.remove([whole.path])
        return False

    async def aclose(self) -> None:
        """Wait for what is being noted."""
        if self._telling:
            await asyncio.wait(self._telling, timeout=self._look_secs)

    async def _store(self, file: BinaryIO, path: Path) -> None:
        """Store the part of a journal that this process has locked, and remove the journal."""
        with _draft(self._folder) as draft:
            try:
                header, made = await asyncio.to_thread(write_part, file, draft)
            except ValueError as error:
                log.error("recording_unreadable", journal=path.name, error=str(error))
                _put_aside(path)
                return
            except OSError as error:
                log.error("recording_not_made", journal=path.name, error=str(error))
                return
            await self._keep(header, made)
        _unlink(path)
        with suppress(Unavailable):
            await self.settle(header.thread_id)

    async def _keep(self, header: PartHeader, made: SoundFile) -> None:
        known = header.thread_id, header.part_id, header.started_at, header.days
        part = _part(header.part_id, header.thread_id, header.started_at, made)
        assert part.path is not None, "it is about to be stored"
        if not await self._records.begin_part(*known):
            # A process that was killed may have got as far as to put it there.
            await self._storage.remove([part.path])
            return
        await self._storage.put(part.path, made.path)
        if not await self._records.store_part(header.thread_id, part, header.days):
            await self._storage.remove([part.path])
            return
        log.info(
            "recording_stored",
            workflow_thread_id=str(header.thread_id),
            seconds=made.seconds,
            bytes=made.size,
            complete=made.whole,
        )

    async def _put_together(self, thread_id: UUID, parts: Sequence[RecordingPart]) -> RecordingPart:
        first = min(part.started_at for part in parts)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(DRAFT, dir=self._folder) as scratch:
            placed: list[tuple[float, Path]] = []
            for part in parts:
                assert part.path is not None, "all of them are stored"
                fetched = Path(scratch) / f"{part.id}{SUFFIX}"
                await self._storage.get(part.path, fetched)
                placed.append(((part.started_at - first).total_seconds(), fetched))
            complete = all(part.complete for part in parts)
            target = Path(scratch) / f"whole{SUFFIX}"
            made = await asyncio.to_thread(join_parts, placed, target, whole=complete)
            # Made again by whoever comes after a process that was killed, it has the same name.
            name = uuid5(thread_id, ".".join(sorted(str(part.id) for part in parts)))
            whole = _part(name, thread_id, first, made)
            assert whole.path is not None, "it is about to be stored"
            await self._storage.put(whole.path, made.path)
        return whole

    def _least_failed(self, waiting: Iterable[Waiting]) -> list[Waiting]:
        """What has failed before comes last."""
        return sorted(waiting, key=self._failures.__getitem__)

    @contextmanager
    def _counted(self, waiting: object) -> Iterator[None]:
        try:
            yield
        except Exception:
            self._failures[waiting] += 1
            raise
        del self._failures[waiting]

    def _spawn(self, note: Coroutine[Any, Any, bool]) -> None:
        async def told() -> None:
            # The part says it again when it is stored.
            with suppress(Unavailable):
                await note

        task = asyncio.create_task(told(), name="recording-begun")
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)


def _part(part_id: UUID, thread_id: UUID, started_at: datetime, made: SoundFile) -> RecordingPart:
    path = f"{thread_id}/{part_id}{SUFFIX}"
    return RecordingPart(part_id, started_at, path, made.seconds, made.size, made.whole)


def _put_aside(path: Path) -> None:
    """Leave a journal that cannot be read to the operator."""
    path.rename(path.with_suffix(UNREADABLE))


def _unlink(path: Path) -> None:
    """Remove a journal while it is locked, so that nobody else begins with it."""
    path.unlink()


def _remove_old_drafts(folder: Path) -> None:
    """Remove what processes that were killed had under way: it holds sound, too."""
    for path in folder.glob(f"*{DRAFT}"):
        with suppress(OSError):
            if time() - path.stat().st_mtime > DRAFT_SECS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """A file under way in a folder, gone at the end of the block."""
    path = folder / f"{uuid4().hex}{DRAFT}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
