"""Python's collector of cycles, kept out of a process's start and of what has been loaded there.

What a process imports and builds while it starts stays as long as it does. Looking through it for
garbage again and again takes a seventh of the start, and later a pause, in which no call gets its
sound, each time all that is old is looked through.
"""

from __future__ import annotations

import gc


def leave_alone() -> None:
    """Collect nothing until `collect_the_rest`."""
    gc.disable()


def collect_the_rest() -> None:
    """Collect again, but never look at what is there by now; only where garbage was left alone."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
