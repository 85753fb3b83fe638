"""Signs of life of the processes that run workflows, and taking up the work of those that died."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from flow.errors import FlowError

log = structlog.get_logger(__name__)

BEAT_SECS = 10.0
# So long that a stalled process is not taken for a dead one.
DEAD_SECS = 60


class Executors(Protocol):
    """What a heartbeat needs of `flow.db.database.Database`."""

    async def beat_executor(self, executor: str, dead_secs: int) -> list[str]:
        """Say that an executor lives; those that have not for so long."""
        ...

    async def forget_executor(self, executor: str, dead_secs: int) -> bool:
        """Forget an executor that is still dead."""
        ...


class Heartbeat:
    """One executor's signs of life, and its eye on the others.

    Args:
        recover: takes up what an executor had begun; how many workflows that were. May be
            repeated, and be done by several processes.
    """

    def __init__(
        self, executors: Executors, name: str, recover: Callable[[str], Awaitable[int]]
    ) -> None:
        self._executors = executors
        self._name = name
        self._recover = recover
        self._was_away = True

    async def forever(self) -> None:
        """Beat every few seconds."""
        while True:
            await self.once()
            await asyncio.sleep(BEAT_SECS)

    async def once(self) -> None:
        """Beat, and take up the work of the dead.

        After the database was away nobody is taken for dead before all could say that they live.
        """
        try:
            dead = await self._executors.beat_executor(self._name, DEAD_SECS)
            if not self._was_away:
                for executor in dead:
                    await self._bury(executor)
            self._was_away = False
        except FlowError as error:
            self._was_away = True
            log.warning("heartbeat_missed", executor=self._name, error=str(error))

    async def _bury(self, executor: str) -> None:
        recovered = await self._recover(executor)
        if await self._executors.forget_executor(executor, DEAD_SECS):
            log.warning("executor_dead", executor=executor, workflows_recovered=recovered)
