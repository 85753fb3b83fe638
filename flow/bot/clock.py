"""The clock that calls are measured by."""

from __future__ import annotations

import sys
import time

# Linux stops CLOCK_MONOTONIC while the machine is suspended, and has CLOCK_BOOTTIME, which goes on
# (clock_gettime(2)). On macOS CLOCK_MONOTONIC goes on by itself, but `time.monotonic` stops.
_CLOCK = time.CLOCK_BOOTTIME if sys.platform == "linux" else time.CLOCK_MONOTONIC


def seconds() -> float:
    """Seconds that never go back, and go on while the process is stopped or the machine suspended.

    A caller's line and the database's clock go on meanwhile, too.
    """
    return time.clock_gettime(_CLOCK)
