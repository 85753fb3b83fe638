"""Limits of logging: lines a minute from one place in the code, and the length of a line."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

WINDOW_SECS = 60.0
EACH = 10
"""Lines of one place about one call, or about none, in a window."""
ALL = 100
"""Lines of one place in a window."""

MAX_LINE = 8 * 1024
_VALUE_LIMITS = (4096, 1024, 256, 64)

Render = Callable[[dict[str, Any]], str]


@dataclass
class _Window:
    began: float
    admitted: int = 0
    suppressed: int = 0
    by_thread: Counter[str | None] = field(default_factory=Counter)


class RateLimit:
    """Lets a place in the code log so many lines in a window; the rest it counts.

    A place is what is written in the code, not what was put into it: there are few of them.
    """

    def __init__(
        self,
        *,
        each: int = EACH,
        total: int = ALL,
        window_secs: float = WINDOW_SECS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._each = each
        self._total = total
        self._window_secs = window_secs
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[tuple[str, ...], _Window] = {}
        self._over: Counter[tuple[str, ...]] = Counter()

    def admits(self, place: tuple[str, ...], thread_id: str | None = None) -> bool:
        """Whether one more line may be written."""
        now = self._clock()
        with self._lock:
            window = self._windows.get(place)
            if window is None or now - window.began >= self._window_secs:
                self._close(place)
                window = self._windows[place] = _Window(now)
            if window.admitted >= self._total or window.by_thread[thread_id] >= self._each:
                window.suppressed += 1
                return False
            window.admitted += 1
            window.by_thread[thread_id] += 1
            return True

    def take_suppressed(self, *, now: bool = False) -> Mapping[tuple[str, ...], int]:
        """How many lines of each place were suppressed in windows that are over.

        Args:
            now: in those that are not, too.
        """
        at = self._clock()
        with self._lock:
            for place, window in list(self._windows.items()):
                if now or at - window.began >= self._window_secs:
                    self._close(place)
            over, self._over = self._over, Counter()
        return over

    def _close(self, place: tuple[str, ...]) -> None:
        window = self._windows.pop(place, None)
        if window is not None and window.suppressed:
            self._over[place] += window.suppressed


def bounded(render: Render, event: Mapping[str, Any], max_line: int = MAX_LINE) -> str:
    """The rendered event, with long values cut so that the line is not longer than it may be."""
    for limit in _VALUE_LIMITS:
        line = render({name: _cut(value, limit) for name, value in event.items()})
        if len(line) <= max_line:
            return line
    kept = {
        name: _cut(event[name], 64) for name in ("event", "level", "timestamp") if name in event
    }
    return render(kept | {"cut": f"{len(event)} fields are too long for a line"})


def _cut(value: Any, limit: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value if not isinstance(value, int) or abs(value) < 10**64 else "a long number"
    if isinstance(value, str):
        return _cut_text(value, limit)
    try:
        text = json.dumps(value, default=repr)
    except (TypeError, ValueError, RecursionError):
        return type(value).__name__
    return value if len(text) <= limit else _cut_text(text, limit)


def _cut_text(text: str, limit: int) -> str:
    """The beginning and the end, where of a traceback the error is."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} ... ({len(text) - 2 * half} characters left out) ... {text[-half:]}"
