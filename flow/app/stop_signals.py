"""SIGTERM and SIGINT: the first asks a process to stop, the second ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def die(number: int) -> None:
    """End this process by the signal; what it had under way is on disk and in the database."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # the first process of a container does not die of its own signals


def ignore(number: int) -> None:
    """Do nothing: the supervisor of this process handles a second signal."""


@contextmanager
def stop_signals(ask: Callable[[], object], insist: Callable[[int], None] = die) -> Iterator[None]:
    """Call ``ask`` at the first signal and ``insist`` at each after it, while the block lasts.

    Both run between any two steps of the main thread and must not block. In any other thread
    signals are left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def received(number: int, _: FrameType | None) -> None:
        nonlocal asked
        if asked:
            insist(number)
        else:
            asked = True
            ask()

    before = {number: signal.signal(number, received) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
