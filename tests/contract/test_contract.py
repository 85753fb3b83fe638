"""The contract of every vendor's service: whatever happens, its work is in the ledger as billed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from flow.domain.usage.events import Outcome, Provenance, Quantities, UsageEvent
from flow.domain.usage.token_estimates import warm_up
from flow.domain.usage.units import Kind
from flow.sandbox.faults import Fault
from tests.contract.case import Case, after_a_kill, case, outcomes
from tests.contract.service_run import PATIENCE_SECS
from tests.contract.vendors import (
    ROWS,
    WHOLE,
    Row,
    assert_conserved,
    service_of,
    uncovered,
)

AT_ONCE = {"retry-after-ms": "1"}

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
of_each_protocol = pytest.mark.parametrize("row", WHOLE, ids=lambda row: row.name)
interruptible = pytest.mark.parametrize(
    "row", [row for row in WHOLE if row.kind is not Kind.STT], ids=lambda row: row.name
)


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm_up()


async def settled(c: Case, count: int = 1) -> list[UsageEvent]:
    """All events, once there are ``count`` and nothing is under way."""
    async with asyncio.timeout(PATIENCE_SECS):
        while c.notebook.open or len(c.notebook.events) < count:
            await asyncio.sleep(0.005)
        await c.vendor.bill.settled()
    return c.notebook.events


@every_row
async def test_whole_work_is_counted_as_it_is_billed(row: Row) -> None:
    async with case(row) as c:
        for n in range(2):
            await c.run.ask()
            await c.run.finished(n + 1)
        events = await settled(c, 2)
    assert outcomes(events) == [Outcome.OK] * 2
    assert {event.provenance for event in events} <= {Provenance.REPORTED, Provenance.MEASURED}
    assert {event.kind for event in events} == {row.kind}
    assert {event.provider for event in events} == {row.vendor}
    assert all(event.time_to_first_token_secs is not None for event in events)
    assert_conserved(events, c.vendor.bill)


@of_each_protocol
async def test_a_barge_in_before_any_output(row: Row) -> None:
    async with case(row, Fault(kind="delay", delay_secs=0.4)) as c:
        await c.run.ask()
        async with asyncio.timeout(PATIENCE_SECS):
            while not c.notebook.begun:
                await asyncio.sleep(0.005)
        await c.run.interrupt()
        if row.kind is Kind.STT:  # Nobody interrupts the caller: what was said is still heard.
            await c.run.finished()
        events = await settled(c)
    expected = Outcome.OK if row.kind is Kind.STT else Outcome.INTERRUPTED
    assert outcomes(events) == [expected]
    assert_conserved(events, c.vendor.bill, spared=1)


@every_row
async def test_a_barge_in_in_mid_output(row: Row) -> None:
    async with case(row, Fault(kind="slow_tokens", delay_secs=0.01)) as c:
        await c.run.ask()
        await c.run.output()
        await c.run.interrupt()
        events = await settled(c)
    assert len(events) == 1
    # A short sentence may be made before anybody can interrupt it.
    assert events[0].outcome in {Outcome.INTERRUPTED, Outcome.OK}
    assert row.kind is not Kind.LLM or events[0].outcome is Outcome.INTERRUPTED
    assert_conserved(events, c.vendor.bill)


@of_each_protocol
async def test_hanging_up_in_mid_output(row: Row) -> None:
    async with case(row, Fault(kind="slow_tokens", delay_secs=0.01)) as c:
        await c.run.ask()
        await c.run.output()
        await c.run.hang_up()
        events = await settled(c)
    assert len(events) == 1
    assert_conserved(events, c.vendor.bill)


@of_each_protocol
async def test_hanging_up_before_any_output(row: Row) -> None:
    async with case(row, Fault(kind="delay", delay_secs=0.4)) as c:
        await c.run.ask()
        async with asyncio.timeout(PATIENCE_SECS):
            while not c.notebook.begun:
                await asyncio.sleep(0.005)
        await c.run.hang_up()
    assert outcomes(c.notebook.events) == [Outcome.INTERRUPTED]
    assert c.notebook.events[0].quantities


@of_each_protocol
@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_a_refusal_costs_nothing_and_stands_in_the_ledger(row: Row, status: int) -> None:
    async with case(row, Fault(kind="status", status=status, headers=AT_ONCE)) as c:
        await c.run.ask()
        await c.run.finished()
        events = await settled(c)
    assert set(outcomes(events)) == {Outcome.ERROR}
    assert {event.quantities for event in events} == {Quantities()}
    assert {event.failure and event.failure.http_status for event in events} == {status}
    assert c.vendor.bill.lines == []


@interruptible
async def test_a_refusal_before_a_barge_in_is_all_there_is(row: Row) -> None:
    refused = Fault(kind="status", status=429, headers={"retry-after": "5"})
    async with case(row, refused) as c:
        await c.run.ask()
        await settled(c)
        await c.run.interrupt()
    assert [event.quantities for event in c.notebook.events] == [Quantities()]
    assert outcomes(c.notebook.events) == [Outcome.ERROR]


@every_row
async def test_each_attempt_that_is_repeated_is_a_row_of_its_own(row: Row) -> None:
    async with case(row, Fault(kind="status", status=500, times=2, headers=AT_ONCE)) as c:
        await c.run.ask()
        await c.run.finished()
        events = await settled(c, 3)
    assert outcomes(events) == [Outcome.ERROR, Outcome.ERROR, Outcome.OK]
    assert_conserved(events, c.vendor.bill)


@of_each_protocol
async def test_a_connection_that_is_lost_and_made_again(row: Row) -> None:
    async with case(row, Fault(kind="drop", times=1)) as c:
        await c.run.ask()
        await c.run.finished()
        if not row.sends_lost_again:
            await c.run.ask()
            await c.run.finished(2)
        events = await settled(c, 2)
    assert outcomes(events) == [Outcome.ERROR, Outcome.OK]
    assert events[0].provenance is Provenance.ESTIMATED
    assert_conserved(events, c.vendor.bill, spared=1)


@of_each_protocol
@pytest.mark.parametrize("fault", ["cut", "stall"])
async def test_an_answer_that_breaks_off(row: Row, fault: str) -> None:
    async with case(row, Fault(kind=fault, chunks=1)) as c:
        await c.run.ask()
        await c.run.finished()
        events = await settled(c)
        await c.run.hang_up()
    assert Outcome.ERROR in outcomes(events)
    assert Provenance.REPORTED not in {event.provenance for event in events}
    assert_conserved(events, c.vendor.bill)


@of_each_protocol
async def test_an_answer_that_makes_no_sense(row: Row) -> None:
    async with case(row, Fault(kind="malformed")) as c:
        await c.run.ask()
        await c.run.finished()
        events = await settled(c)
    # What a voice sends is sound, whatever it is: nothing tells it from nonsense.
    if row.kind is not Kind.TTS:
        assert set(outcomes(events)) == {Outcome.ERROR}
        assert {event.provenance for event in events} == {Provenance.ESTIMATED}
    assert all(event.quantities for event in events)


@of_each_protocol
async def test_a_process_killed_in_mid_output_leaves_what_it_had_begun(
    row: Row, tmp_path: Path
) -> None:
    slow = {
        Kind.LLM: Fault(kind="slow_tokens", delay_secs=0.02),
        Kind.TTS: Fault(kind="stall", chunks=4),
        Kind.STT: Fault(kind="hang"),
    }

    async def ask(c: Case) -> None:
        await c.run.ask()
        if row.kind is Kind.STT:
            await asyncio.sleep(0.2)
        else:
            await c.run.output(4 if row.kind is Kind.LLM else 1)

    ((event,), _) = await after_a_kill(row, slow[row.kind], tmp_path, ask)
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.INTERRUPTED)
    assert event.note == "the process ended while this was running"
    assert event.quantities


def test_every_service_is_held_to_it() -> None:
    assert uncovered() == []
    whole = {(row.vendor, row.part) for row in WHOLE}
    assert {(row.protocol_of or row.vendor, row.part) for row in ROWS} == whole


@every_row
def test_a_row_that_shares_a_protocol_is_metered_as_the_one_it_names(row: Row) -> None:
    own, named = service_of(row), service_of(replace(row, vendor=row.protocol_of or row.vendor))
    assert own.make.__qualname__ == named.make.__qualname__
    assert (own.http_wire, own.socket_wire) == (named.http_wire, named.socket_wire)
