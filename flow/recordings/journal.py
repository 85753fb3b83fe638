"""The file that a call's sound is appended to while the call runs, on this machine's disk.

A part is what one process recorded of a call. Its journal is a header in JSON on the first line,
then records: which track, the sample that the sound begins at, its length, and the sound. A mark
says up to when both tracks are settled; the last record says that the part is whole. Whatever
becomes of the process, all that was appended can be read: a record that breaks off is the end.

Whoever writes a journal, or works on one, holds its lock, which goes with the process.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO
from uuid import UUID

import structlog

from flow.recordings.timeline import Piece

log = structlog.get_logger(__name__)

SUFFIX = ".journal"
CALLER, BOT = 0, 1
_MARK, _END = 2, 3
_RECORD = struct.Struct("<BqI")
_MICROSECONDS = 1_000_000
# A disk is left so much for what a call cannot do without, such as the spool of its usage.
SPARED_BYTES = 256 * 2**20
# Sound that waits for a slow disk, of all calls of a process.
MOST_WAITING_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class PartHeader:
    """What one process recorded: of which call, since when, and the tracks' samples a second.

    ``days`` is how long the recording is to be kept.
    """

    thread_id: UUID
    part_id: UUID
    started_at: datetime
    days: int
    rate_caller: int
    rate_bot: int

    @property
    def name(self) -> str:
        """The journal's file name."""
        return f"{self.thread_id}.{self.part_id}{SUFFIX}"

    def to_line(self) -> bytes:
        """The first line of the journal."""
        fields = {
            "thread_id": str(self.thread_id),
            "part_id": str(self.part_id),
            "started_at": self.started_at.isoformat(),
            "days": self.days,
            "rate_caller": self.rate_caller,
            "rate_bot": self.rate_bot,
        }
        return json.dumps(fields).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> PartHeader:
        """What `to_line` wrote, or `ValueError`."""
        if not line.endswith(b"\n"):
            raise ValueError("the header breaks off")
        try:
            fields: dict[str, Any] = json.loads(line)
            return cls(
                UUID(fields["thread_id"]),
                UUID(fields["part_id"]),
                datetime.fromisoformat(fields["started_at"]),
                *(int(fields[name]) for name in ("days", "rate_caller", "rate_bot")),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no header of a journal: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Sound:
    """A piece of one track: `CALLER` or `BOT`."""

    track: int
    piece: Piece


@dataclass(frozen=True, slots=True)
class Settled:
    """Both tracks are settled up to this time; ``is_end``: it is the end of a whole part."""

    secs: float
    is_end: bool


def read(file: BinaryIO) -> Iterator[Sound | Settled]:
    """The records behind the header, up to the end or where the file breaks off."""
    while len(head := file.read(_RECORD.size)) == _RECORD.size:
        kind, position, length = _RECORD.unpack(head)
        if kind in (_MARK, _END):
            yield Settled(position / _MICROSECONDS, kind == _END)
            continue
        pcm = file.read(length)
        if kind not in (CALLER, BOT) or len(pcm) < length:
            return
        yield Sound(kind, Piece(position, pcm))


@contextmanager
def locked(path: Path) -> Iterator[BinaryIO | None]:
    """The journal at ``path``, if nobody holds it; ``None`` if somebody does, or it is gone."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        yield None
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        # Its last holder may have removed it in between.
        yield file if path.exists() else None


class JournalWriter:
    """Writes the journals of all calls of a process, in one thread, so that no call waits for it.

    Args:
        folder: where they are; made when it is needed, and closed to other users.
        spared_bytes: of the disk, never used.
    """

    def __init__(
        self,
        folder: Path,
        *,
        spared_bytes: int = SPARED_BYTES,
        most_waiting_bytes: int = MOST_WAITING_BYTES,
    ) -> None:
        self.folder = folder
        self._spared_bytes = spared_bytes
        self._most_waiting_bytes = most_waiting_bytes
        self._waiting_bytes = 0
        self._counting = Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recordings")

    def open(self, header: PartHeader) -> Journal:
        """A new journal."""
        journal = Journal(self, header)
        self.submit(journal.begin, 0)
        return journal

    def submit(self, work: Any, size: int, *args: Any) -> Future[None] | None:
        """Have the thread do some writing; ``None``: too much is waiting, and it is not done."""
        with self._counting:
            if size and self._waiting_bytes + size > self._most_waiting_bytes:
                return None
            self._waiting_bytes += size
        done: Future[None] = self._thread.submit(self._do, work, size, *args)
        return done

    def has_room(self, size: int) -> bool:
        """Whether the disk has room for so much, beside what is spared."""
        return shutil.disk_usage(self.folder).free - size > self._spared_bytes

    def close(self) -> None:
        """Write what is waiting."""
        self._thread.shutdown()

    def _do(self, work: Any, size: int, *args: Any) -> None:
        try:
            work(*args)
        finally:
            with self._counting:
                self._waiting_bytes -= size


class Journal:
    """The journal of one part. What a disk does not take is missing, and the part not whole."""

    def __init__(self, writer: JournalWriter, header: PartHeader) -> None:
        self._writer = writer
        self._header = header
        self._file: BinaryIO | None = None
        self._is_whole = True

    def append(self, sounds: Iterable[Sound], settled_secs: float) -> None:
        """Have the sounds written, and that all before this time is; does not block or raise."""
        data = b"".join(
            [
                *(
                    _RECORD.pack(sound.track, sound.piece.start, len(sound.piece.pcm))
                    + sound.piece.pcm
                    for sound in sounds
                ),
                _RECORD.pack(_MARK, round(settled_secs * _MICROSECONDS), 0),
            ]
        )
        if self._writer.submit(self._write, len(data), data) is None:
            self._is_whole = False

    def close(self, secs: float) -> Future[None] | None:
        """Have the end written, after so many seconds; done when others can have the journal."""
        return self._writer.submit(self._end, 0, secs)

    def begin(self) -> None:
        """Make the file; runs in the writer's thread, as all below does."""
        with self._enduring():
            folder = self._writer.folder
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self._writer.has_room(0):
                raise OSError("the disk is nearly full")
            path = folder / self._header.name
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            self._file = os.fdopen(fd, "wb", buffering=0)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._file.write(self._header.to_line())

    def _write(self, data: bytes) -> None:
        with self._enduring():
            if self._file is None:
                return
            if not self._writer.has_room(len(data)):
                raise OSError("the disk is nearly full")
            if self._file.write(data) < len(data):
                raise OSError("the disk is full")

    def _end(self, secs: float) -> None:
        with self._enduring():
            if self._file is not None and self._is_whole:
                self._file.write(_RECORD.pack(_END, round(secs * _MICROSECONDS), 0))
        self._leave()

    @contextmanager
    def _enduring(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            log.error("recording_not_written", error=str(error), **self._known)
            self._is_whole = False
            self._leave()

    def _leave(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    @property
    def _known(self) -> dict[str, str]:
        return {"workflow_thread_id": str(self._header.thread_id)}
