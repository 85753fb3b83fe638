"""Executors: claims on their names, heartbeats, and recovery of those that died.

Calls and workflows belong to an executor by its name, so a process that starts under a name takes
over what was left under it. A process that holds the lock of a data folder knows that earlier
holders of the name in that folder are gone, and starts at once. Where another folder, on another
host, had the name, the database decides: while that executor sends heartbeats, no other process
gets the name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Protocol
from uuid import UUID

import structlog

from flow.domain.calls.host import HostReport
from flow.errors import ConfigurationError, FlowError
from flow.workflows.process_identity import Identity

log = structlog.get_logger(__name__)

BEAT_SECS = 10.0
# So long that a stalled process is not taken for a dead one.
DEAD_SECS = 60
# When the row of a process goes that had nothing to be taken up.
FORGOTTEN_SECS = 24 * 60 * 60


class Executors(Protocol):
    """What names and signs of life need of `flow.db.database.Database`."""

    async def claim_executor(
        self, executor: str, home: str, instance: UUID, dead_secs: int
    ) -> datetime | None:
        """Take a name; else when the process of another folder that has it was heard of."""
        ...

    async def release_executor(self, executor: str, instance: UUID) -> bool:
        """Leave a name to whoever wants it."""
        ...

    async def beat_executor(
        self,
        executor: str,
        home: str,
        instance: UUID,
        dead_secs: int,
        report: HostReport | None = None,
    ) -> list[str] | None:
        """Say that an executor lives, and how it is; those that have not for so long.

        ``None``: another process has the name by now.
        """
        ...

    async def forget_executor(self, executor: str, dead_secs: int) -> bool:
        """Forget an executor that is still dead."""
        ...


@asynccontextmanager
async def claimed(
    executors: Executors,
    identity: Identity,
    *,
    dead_secs: int = DEAD_SECS,
    retry_secs: float = 1.0,
) -> AsyncIterator[None]:
    """Have a process's name to itself among all hosts, as long as the block lasts.

    A process of another data folder may have died with the name: then this waits until its last
    sign of life is ``dead_secs`` old.

    Raises:
        ConfigurationError: a process of another data folder has the name, and is alive.
        DatabaseUnavailable: the database cannot be reached.
    """
    await _claim(executors, identity, dead_secs, retry_secs)
    try:
        yield
    finally:
        try:
            await executors.release_executor(identity.name, identity.instance)
        except FlowError as error:
            log.warning("executor_name_kept", executor=identity.name, error=str(error))


async def _claim(
    executors: Executors, identity: Identity, dead_secs: int, retry_secs: float
) -> None:
    last: datetime | None = None
    while heard_at := await executors.claim_executor(
        identity.name, identity.home, identity.instance, dead_secs
    ):
        if last is None:
            last = heard_at
            log.warning(
                "executor_name_in_use",
                executor=identity.name,
                last_heard=heard_at.isoformat(),
                meaning="a host with another data folder has this name (FLOW_EXECUTOR_ID): waiting"
                f" until it gives a sign of life, or has given none for {dead_secs} s",
            )
        elif heard_at > last:
            raise ConfigurationError(
                f"The name {identity.name} (FLOW_EXECUTOR_ID) is in use by another host, which was"
                f" last heard of at {heard_at.isoformat(timespec='seconds')}: give this host a"
                " name of its own, or stop the other one first."
            )
        await asyncio.sleep(retry_secs)


async def nothing_to_recover(_: str) -> int:
    """What a process that runs no workflows takes up of another."""
    return 0


class Heartbeat:
    """One executor's signs of life, and its eye on the others.

    Args:
        recover: takes up what an executor had begun; how many workflows that were. May be
            repeated, and be done by several processes.
        report: how this process is, for operators to see.
        dead_secs: after so long without a sign of life another is dead and taken up.
        beat_secs: from one sign of life to the next.
    """

    def __init__(
        self,
        executors: Executors,
        identity: Identity,
        recover: Callable[[str], Awaitable[int]],
        report: Callable[[], HostReport] | None = None,
        *,
        dead_secs: int = DEAD_SECS,
        beat_secs: float = BEAT_SECS,
    ) -> None:
        self._executors = executors
        self._identity = identity
        self._recover = recover
        self._report = report
        self._dead_secs = dead_secs
        self._beat_secs = beat_secs
        self._was_away = True

    async def forever(self) -> None:
        """Beat every few seconds."""
        while True:
            await self.once()
            await asyncio.sleep(self._beat_secs)

    async def once(self) -> None:
        """Beat, and take up the work of the dead.

        After the database was away nobody is taken for dead before all could say that they live.
        """
        name, home, instance = self._identity.name, self._identity.home, self._identity.instance
        report = None if self._report is None else self._report()
        try:
            dead = await self._executors.beat_executor(
                name, home, instance, self._dead_secs, report
            )
            if dead is None:
                log.error(
                    "executor_name_lost",
                    executor=name,
                    meaning="this process was silent for so long that another host has its name by"
                    " now: stop one of them, or give each a FLOW_EXECUTOR_ID of its own",
                )
            elif not self._was_away:
                for executor in dead:
                    await self._bury(executor)
            self._was_away = False
        except FlowError as error:
            self._was_away = True
            log.warning("heartbeat_missed", executor=name, error=str(error))

    async def _bury(self, executor: str) -> None:
        recovered = await self._recover(executor)
        if await self._executors.forget_executor(executor, self._dead_secs):
            log.warning("executor_dead", executor=executor, workflows_recovered=recovered)
