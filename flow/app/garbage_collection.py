"""Python's garbage collector, kept away from the start of a process and what it has loaded.

What a process imports and builds while it starts stays as long as it does. Scanning it for
garbage again and again takes a seventh of the start, and later makes a pause, in which calls get no
sound, with each full collection.
"""

from __future__ import annotations

import gc

THRESHOLDS = (10_000, 20, 20)
"""How many more objects there are before the youngest are scanned, and how many such scans there
are before older ones are. Requests and frames of sound make hundreds of objects each, nearly all of
which are gone without a scan: Python's own 700 takes a twelfth of a gateway request's time."""


def leave_alone() -> None:
    """Collect nothing until `collect_the_rest`."""
    gc.disable()


def collect_the_rest() -> None:
    """Collect again, but never scan what exists by now; only after `leave_alone`."""
    if not gc.isenabled():
        gc.freeze()
        gc.set_threshold(*THRESHOLDS)
        gc.enable()
