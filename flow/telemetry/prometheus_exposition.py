"""The exposition of metrics, of one process or of all workers of one ``flow serve``.

Workers share a port, so any of them gets a scrape. With ``PROMETHEUS_MULTIPROC_DIR`` set,
which ``flow serve --workers N`` does, prometheus_client keeps every value in a file of that
folder, and the worker that is scraped adds them up: counters include those of workers that died,
gauges are those of living workers.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
SAMPLE_SECS = 5.0


@contextmanager
def shared_between_processes() -> Iterator[None]:
    """Have the processes started in this block keep their numbers in one new folder.

    The folder is made where ``PROMETHEUS_MULTIPROC_DIR`` says, if it says anything (a
    memory-backed file system is quickest), and removed in the end: numbers of an earlier run
    must not be found in it.
    """
    parent = os.environ.get(FOLDER) or None
    if parent is not None:
        Path(parent).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="flow-metrics-", dir=parent) as folder:
        os.environ[FOLDER] = folder
        try:
            yield
        finally:
            if parent is None:
                del os.environ[FOLDER]
            else:
                os.environ[FOLDER] = parent


@asynccontextmanager
async def exposed(
    registry: CollectorRegistry, sample: Callable[[], None]
) -> AsyncIterator[CollectorRegistry]:
    """The registry a scrape is answered from.

    ``sample`` sets the gauges that nobody sets as things happen. It is called before each
    scrape; where another process may be asked, also every `SAMPLE_SECS`.
    """
    shown = CollectorRegistry()
    folder = os.environ.get(FOLDER)
    if folder is None:
        shown.register(_Sampled(sample, registry))
        yield shown
        return
    shown.register(_Sampled(sample, _Workers(folder)))
    sampling = asyncio.create_task(_forever(sample), name="metrics")
    try:
        yield shown
    finally:
        sampling.cancel()
        with suppress(OSError):
            mark_process_dead(os.getpid(), folder)  # type: ignore[no-untyped-call]


class _Sampled(Collector):
    """A collector whose gauges are set the moment before they are read."""

    def __init__(self, sample: Callable[[], None], collector: Collector) -> None:
        self._sample = sample
        self._collector = collector

    def collect(self) -> Iterable[Metric]:
        self._sample()
        return self._collector.collect()


class _Workers(Collector):
    """The numbers of every process that keeps its own in ``folder``."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._collector = MultiProcessCollector(None, path=folder)  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Metric]:
        # The supervisor starts a new worker in a dead one's place and tells nobody.
        for process in {_process(file) for file in Path(self._folder).glob("gauge_live*.db")}:
            if not _lives(process):
                with suppress(FileNotFoundError):  # another worker was asked at the same time
                    mark_process_dead(process, self._folder)  # type: ignore[no-untyped-call]
        collected: Iterable[Metric] = self._collector.collect()  # type: ignore[no-untyped-call]
        return collected


def _process(file: Path) -> int:
    return int(file.stem.rpartition("_")[2])


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


async def _forever(sample: Callable[[], None]) -> None:
    while True:
        sample()
        await asyncio.sleep(SAMPLE_SECS)
