"""How much CPU time a Postgres on this machine has used, all its processes together."""

from __future__ import annotations

from contextlib import suppress
from typing import Self

import psutil
import psycopg


class ServerCpu:
    """Counts what the server uses from one `lap` to the next.

    Processes that have ended are in what the postmaster waited for, so nothing is left out; what
    the kernel does on nobody's account (writing back pages) is.
    """

    def __init__(self, postmaster: psutil.Process) -> None:
        self._postmaster = postmaster
        self._last = self._total()

    @classmethod
    def of(cls, url: str) -> Self:
        """The server behind ``url``, which must be on this machine."""
        with psycopg.connect(url) as connection:
            backend = psutil.Process(connection.info.backend_pid)
            postmaster = backend.parent()
        assert postmaster is not None, "a backend is a child of the postmaster"
        return cls(postmaster)

    def lap(self) -> float:
        """Seconds of CPU time since the last lap."""
        before, self._last = self._last, self._total()
        return self._last - before

    def _total(self) -> float:
        own = self._postmaster.cpu_times()
        total = own.user + own.system + own.children_user + own.children_system
        for child in self._postmaster.children():
            with suppress(psutil.NoSuchProcess):
                times = child.cpu_times()
                total += times.user + times.system
        return float(total)
