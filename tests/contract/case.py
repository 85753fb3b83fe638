"""A call with one service of a vendor, and what is noted of it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from flow.bot.services import CallServices
from flow.domain.usage.events import Outcome, UsageEvent
from flow.domain.usage.units import Kind
from flow.metering.request import Recording
from flow.sandbox.bill import Bill
from flow.sandbox.faults import Fault
from tests.contract.service_run import PATIENCE_SECS, ServiceRun, running
from tests.contract.spool import Ledger, found_in, spooling
from tests.contract.vendors import Row, Running
from tests.events import an_owner
from tests.notebook import Notebook

OWNER = an_owner(team_id="team_a")


@dataclass
class Case:
    """A call under way."""

    row: Row
    run: ServiceRun
    vendor: Running
    notebook: Notebook

    async def begun(self, count: int = 1) -> None:
        """Wait until so many pieces of the service's own work have begun."""
        await self._until(
            lambda: len({e.id for e in of(self.notebook.begun, self.row.kind)}), count
        )

    async def events(self, count: int = 1, kind: Kind | None = None) -> list[UsageEvent]:
        """All events, or those of a kind of work that used something, once there are ``count``."""

        def so_far() -> list[UsageEvent]:
            return self.notebook.events if kind is None else self.used(kind)

        await self._until(lambda: len(so_far()), count)
        return so_far()

    def used(self, kind: Kind) -> list[UsageEvent]:
        """The events of a kind of work that used something."""
        return [event for event in of(self.notebook.events, kind) if event.quantities]

    async def _until(self, seen: Callable[[], int], count: int) -> None:
        async with asyncio.timeout(PATIENCE_SECS):
            while seen() < count:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def case(row: Row, *faults: Fault) -> AsyncIterator[Case]:
    """A call with the service. When the block is left it is over, everything is in the notebook
    and the vendor has made out its bill."""
    notebook = Notebook()
    async with row.serve() as vendor:
        vendor.faults.add(*faults)
        async with _calling(row, vendor, notebook) as run:
            yield Case(row, run, vendor, notebook)
        async with asyncio.timeout(PATIENCE_SECS):
            await vendor.bill.settled()
    assert notebook.open == set()


async def after_a_kill(
    row: Row, fault: Fault, folder: Path, work: Callable[[Case], Awaitable[None]]
) -> tuple[list[UsageEvent], Bill]:
    """Have a process killed when ``work`` is done: the events that the next one finds, and the
    vendor's bill. What it finds is a copy of the spool at that instant."""
    recorder = spooling(Ledger(), folder / "killed")
    async with row.serve() as vendor:
        vendor.faults.add(fault)
        async with _calling(row, vendor, recorder) as run:
            await work(Case(row, run, vendor, Notebook()))
            shutil.copytree(folder / "killed", folder / "next")
            await run.hang_up()
        async with asyncio.timeout(PATIENCE_SECS):
            await vendor.bill.settled()
        await recorder.close()
    return await found_in(folder / "next"), vendor.bill


@asynccontextmanager
async def _calling(row: Row, vendor: Running, recorder: Recording) -> AsyncIterator[ServiceRun]:
    services = CallServices(OWNER, recorder, {row.vendor: vendor.endpoint})
    async with running(services, row.part, row.choice, **row.around()) as run:
        yield run


def of(events: Sequence[UsageEvent], kind: Kind) -> list[UsageEvent]:
    """The events of a kind of work."""
    return [event for event in events if event.kind is kind]


def outcomes(events: Sequence[UsageEvent]) -> list[Outcome]:
    """How each of them ended."""
    return [event.outcome for event in events]
