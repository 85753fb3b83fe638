"""A file of usage events, turns and uses of tools that outlives its process.

Each process appends to a file of its own, ``<directory>/<uuid>.jsonl``, and holds an exclusive
``flock`` on it for as long as it lives. A file whose lock can be taken belongs to a process that
is gone: the next process to start adopts it. The lock goes with the process however it dies, so
neither process ids nor clocks are needed.

A line is ``{"op": "open" | "event" | "drop" | "turn" | "tool", "event": {...}}``. *open* says that
work was begun, with the best estimate of it, so that work a vendor is already billing is not lost
when the process dies in the middle of it; *event* is the finished account under the same id; *drop*
says that the work came to nothing; *turn* is what somebody said, and *tool* the start or the
outcome of a use of a tool. Lines are written in one ``write`` each, so a killed process loses
nothing that `append` returned for; a machine that loses power may lose what the kernel had not yet
written, except while the ledger is away, when `sync` is called.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args
from uuid import uuid4

import structlog
from pydantic_core import to_json

log = structlog.get_logger(__name__)

Op = Literal["open", "event", "drop", "turn", "tool"]

MAX_LINE_BYTES = 4 << 20
"""Far more than an event or a turn takes: what is longer was not written by a `Spool`."""
MAX_READ_BYTES = 8 << 20
BLOCK_BYTES = 1 << 16


class Line(NamedTuple):
    """One line of a spool, ``size`` bytes long; ``event`` is `None` when it cannot be read.

    ``raw`` is cut after `MAX_LINE_BYTES`.
    """

    op: Op
    event: dict[str, Any] | None
    raw: bytes
    size: int


class Spool:
    """An append-only queue of lines on disk, read from the head and trimmed once sent.

    Not thread-safe: one process, one event loop. Raises `OSError` when the disk does.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._head = 0
        self._size = os.fstat(fd).st_size

    @classmethod
    def create(cls, directory: Path) -> Self:
        """A new, empty, locked spool in ``directory`` (made if missing, readable by us alone)."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = directory / f"{uuid4()}.jsonl"
        return cls(path, _locked_file(path, b""))

    @classmethod
    def orphans(cls, directory: Path) -> Iterator[Self]:
        """Every spool in ``directory`` whose process is gone, now locked by us.

        What has a spool's name and cannot be opened as a file is logged and left alone.
        """
        for path, fd in _abandoned(directory, "*.jsonl"):
            yield cls(path, fd)

    @classmethod
    def left_behind(cls, directory: Path) -> tuple[int, int]:
        """How many spools wait to be adopted, and how many bytes they hold. Adopts none."""
        sizes = []
        for spool in cls.orphans(directory):
            sizes.append(spool.unsent_bytes)
            spool.close()
        waiting = [size for size in sizes if size]
        return len(waiting), sum(waiting)

    @staticmethod
    def remove_drafts(directory: Path) -> None:
        """Remove what processes left that died while they made or replaced their spool.

        A draft holds nothing that is not in a spool too.
        """
        for path, fd in _abandoned(directory, "*.draft"):
            with suppress(FileNotFoundError):
                path.unlink()
            os.close(fd)
            log.info("spool_draft_removed", draft=path.name)

    @property
    def unsent_bytes(self) -> int:
        """How much stands between the head and the end."""
        return self._size - self._head

    def append(self, op: Op, event: dict[str, Any]) -> bytes:
        """Write one line, whole or not at all, and return it."""
        raw = encoded(op, event)
        written = os.write(self._fd, raw)
        if written != len(raw):
            os.ftruncate(self._fd, self._size)
            raise OSError(errno.ENOSPC, "the spool's disk is full")
        self._size += written
        return raw

    def read(self, most: int) -> tuple[list[Line], int]:
        """Up to ``most`` lines from the head, and the position after them for `advance`.

        Fewer where they are long: not much more than `MAX_READ_BYTES` are read at a time, except
        to find the end of a line that is too long.
        """
        lines: list[Line] = []
        position = self._head
        for raw, size in _lines(self._fd, position):
            lines.append(_decode(raw, size))
            position += size
            if len(lines) == most or position - self._head >= MAX_READ_BYTES:
                break
        return lines, position

    def advance(self, position: int) -> None:
        """Everything before ``position`` is safely elsewhere."""
        self._head = position

    def trim(self, still_open: Iterable[bytes], *, threshold: int) -> None:
        """Give back the disk that sent lines hold, keeping the open ones, as `append` gave them.

        With nothing open it is a truncation. Otherwise the file is replaced by one with the open
        lines and the unsent rest, which is worth it only past ``threshold`` bytes.
        """
        kept = b"".join(still_open)
        if not kept and self.unsent_bytes == 0:
            os.ftruncate(self._fd, 0)
            self._head = self._size = 0
        elif self._head > threshold:
            rest = os.pread(self._fd, self.unsent_bytes, self._head)
            fd = _locked_file(self.path, kept + rest)
            os.close(self._fd)
            self._fd = fd
            self._head = len(kept)
            self._size = os.fstat(fd).st_size

    def sync(self) -> None:
        """Wait until the disk has everything. Blocks: call it off the event loop."""
        os.fsync(self._fd)

    def close(self, *, remove: bool = False) -> None:
        """Let go of the file; it stays for whoever starts next unless it is to be removed."""
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._fd)


def encoded(op: Op, event: dict[str, Any]) -> bytes:
    """A line."""
    line = {"op": op, "event": event}
    try:
        return to_json(line) + b"\n"
    except ValueError:  # halves of characters, which only JSON's own escapes can hold
        return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def _decode(raw: bytes, size: int) -> Line:
    # A line that was cut off, or nested too deeply, is none.
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        line = json.loads(raw)
        if line["op"] in get_args(Op) and isinstance(line["event"], dict):
            return Line(line["op"], line["event"], raw, size)
    return Line("event", None, raw, size)


def _lines(fd: int, position: int) -> Iterator[tuple[bytes, int]]:
    """Lines from ``position`` on and their sizes, each cut after `MAX_LINE_BYTES`.

    The last may lack its newline if its writer was cut off.
    """
    head, size = b"", 0
    while data := os.pread(fd, BLOCK_BYTES, position):
        position += len(data)
        *whole, rest = data.split(b"\n")
        for end in whole:
            yield (head + end + b"\n")[:MAX_LINE_BYTES], size + len(end) + 1
            head, size = b"", 0
        head += rest[: MAX_LINE_BYTES - len(head)]
        size += len(rest)
    if size:
        yield head, size


def _locked_file(path: Path, content: bytes) -> int:
    """A locked file that appears under ``path`` only once it is locked and written."""
    draft = path.with_suffix(".draft")
    fd = _locked_draft(draft)
    try:
        if content and os.write(fd, content) != len(content):
            raise OSError(errno.ENOSPC, "the spool's disk is full")
        draft.replace(path)
    except BaseException:
        os.close(fd)
        draft.unlink(missing_ok=True)
        raise
    return fd


def _locked_draft(draft: Path) -> int:
    """A new locked file. Another process may remove it before it is locked; not after."""
    while True:
        fd = os.open(draft, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if _is_still(draft, fd):
            return fd
        os.close(fd)


def _abandoned(directory: Path, pattern: str) -> Iterator[tuple[Path, int]]:
    """Files that no process holds, opened and now locked by us."""
    for path in sorted(directory.glob(pattern)):
        try:
            # A pipe of that name would not open before somebody writes to it.
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NONBLOCK | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        except OSError as error:
            log.error("spool_skipped", file=path.name, error=str(error))
            continue
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            log.error("spool_skipped", file=path.name, error="not a regular file")
            os.close(fd)
        elif _lock(fd) and _is_still(path, fd):
            yield path, fd
        else:
            os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, fd: int) -> bool:
    """Whether ``path`` is the file we locked, and not one that replaced or removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False
