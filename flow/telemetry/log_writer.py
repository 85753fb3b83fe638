"""A log writer that never blocks its callers.

Standard error may be a pipe that is read slowly or not at all. A line goes into a bounded queue,
and a thread writes it; lines that do not fit are dropped and counted, and once there is room again
one line tells the count.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

MAX_QUEUED_BYTES = 1 << 20
TICK_SECS = 1.0


class LogWriter:
    """The way to a file descriptor, which is copied: it may be closed or replaced elsewhere.

    Args:
        fd: where lines go.
        dropped_line: the line that says that so many lines were dropped.
        on_tick: called by the thread every `TICK_SECS` or so; may write.
        max_bytes: how much may wait.
    """

    def __init__(
        self,
        fd: int,
        *,
        dropped_line: Callable[[int], str],
        on_tick: Callable[[], None] = lambda: None,
        max_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        self._fd = os.dup(fd)
        self._dropped_line = dropped_line
        self._on_tick = on_tick
        self._max_bytes = max_bytes
        self._dropped = 0
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        """Begin anew, in a new process too: its parent writes what was queued there."""
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._unsaid = 0
        self._is_full = False
        self._is_writing = False
        self._is_stopped = False
        self._thread: threading.Thread | None = None

    def write(self, text: str) -> None:
        """Queue a line. Never waits, never raises."""
        line = text.encode(errors="backslashreplace")
        with self._changed:
            if self._is_full or self._bytes + len(line) > self._max_bytes:
                self._is_full = True
                self._dropped += 1
                self._unsaid += 1
                return
            self._lines.append(line)
            self._bytes += len(line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                with suppress(RuntimeError):  # the interpreter is about to end
                    self._thread.start()
            self._changed.notify_all()

    def flush(self) -> None:
        """Nothing, as a stream: whoever logs does not wait."""

    def take_dropped(self) -> int:
        """How many lines were dropped since this was last asked."""
        with self._changed:
            dropped, self._dropped = self._dropped, 0
        return dropped

    def stop(self) -> None:
        """Write what is queued, and nothing any more."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def drain(self, within_secs: float) -> bool:
        """Wait until all is written; ``False`` if that takes too long."""
        deadline = time.monotonic() + within_secs
        with self._changed:
            while self._lines or self._is_writing:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def _run(self) -> None:
        ticked_at = time.monotonic()
        while True:
            if time.monotonic() - ticked_at >= TICK_SECS:
                self._on_tick()
                ticked_at = time.monotonic()
            with self._changed:
                if not self._lines and self._is_stopped:
                    return
                if not self._lines:
                    self._changed.wait(TICK_SECS)
                if not self._lines:
                    continue
                line = self._lines.popleft()
                self._bytes -= len(line)
                self._is_writing = True
            self._write(line)
            with self._changed:
                self._is_writing = False
                if self._is_full and self._bytes <= self._max_bytes // 2:
                    self._say_dropped()
                self._changed.notify_all()

    def _say_dropped(self) -> None:
        said = self._dropped_line(self._unsaid).encode()
        self._is_full = False
        self._unsaid = 0
        self._lines.append(said)
        self._bytes += len(said)

    def _write(self, line: bytes) -> None:
        # Nobody may be there to read, now or ever.
        with suppress(OSError, ValueError):
            while line:
                try:
                    line = line[os.write(self._fd, line) :]
                except BlockingIOError:
                    select.select([], [self._fd], [])
