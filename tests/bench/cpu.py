"""CPU time of whole process trees: what still says something on a machine that does other work."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import suppress

import psutil
import psycopg


def postmaster_of(url: str) -> int:
    """The process id of the Postgres server on this machine that ``url`` leads to."""
    with psycopg.connect(url) as connection:
        backend = psutil.Process(connection.info.backend_pid)
        parent = backend.parent()
    assert parent is not None, "a backend is a child of its postmaster"
    return int(parent.pid)


def cpu_secs(pid: int) -> float:
    """CPU seconds, user and system, of a process and all below it, those that ended included."""
    return sum(_spent(pid))


def children_secs() -> float:
    """CPU seconds of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _spent(pid: int) -> Iterator[float]:
    process = psutil.Process(pid)
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            yield times.user + times.system + times.children_user + times.children_system
