"""Python's garbage collector, kept away from the start of a process and what it has loaded.

What a process imports and builds while it starts stays as long as it does. Scanning it for
garbage again and again takes a seventh of the start, and later makes a pause, in which calls get no
sound, with each full collection.
"""

from __future__ import annotations

import gc


def leave_alone() -> None:
    """Collect nothing until `collect_the_rest`."""
    gc.disable()


def collect_the_rest() -> None:
    """Collect again, but never scan what exists by now; only after `leave_alone`."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
