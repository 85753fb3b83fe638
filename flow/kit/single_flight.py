"""One run of an async function at a time for each key, shared by all who ask meanwhile.

cachetools keeps values and has no such thing for coroutines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SingleFlight(Generic[K, T]):
    """Joins callers with the same key to one task. Close it with `aclose`."""

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[T]] = {}

    async def run(self, key: K, make: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        """The result of the run for ``key``, which ``make`` starts unless one is under way.

        A caller who is cancelled does not end the run for the others. ``None``: `aclose` ended it.
        """
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(make())
            task.add_done_callback(lambda _: self._tasks.pop(key, None))
        await asyncio.wait([task])
        return None if task.cancelled() else task.result()

    async def aclose(self) -> None:
        """Cancel every run; who waits for one gets ``None``."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
