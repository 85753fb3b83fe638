"""The contract of services that stream over WebSockets: whatever happens to a connection, what
went over it is in the ledger as the vendor bills it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import pytest

from flow.domain.usage.events import Outcome, Provenance, Quantities, UsageEvent
from flow.domain.usage.units import Kind
from flow.metering.taps import socket as socket_tap
from flow.sandbox.faults import Fault
from tests.contract.case import Case, after_a_kill, case, outcomes
from tests.contract.vendors import SOCKET_ROWS, SocketRow, assert_conserved

LONG_SECS = 20.0
SHORT_REPORT_SECS = 0.3
RETRIES = 8
RETRY_SECS = {Kind.TTS: 5.0, Kind.STT: 1.0}
"""Text that was lost is waited for for three seconds; sound is sent while nobody hears it."""
BROKEN = {Outcome.ERROR, Outcome.INTERRUPTED}


def _rows(choose: Callable[[SocketRow], bool]) -> pytest.MarkDecorator:
    rows = [row for row in SOCKET_ROWS if choose(row)]
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.name)


every_row = _rows(lambda row: True)
speaking = _rows(lambda row: row.kind is Kind.TTS)
hearing = _rows(lambda row: row.kind is Kind.STT)
reporting = _rows(lambda row: row.reports)
each_code = pytest.mark.parametrize(
    ("row", "code"),
    [
        pytest.param(row, code, id=f"{row.name}-{code}")
        for row in SOCKET_ROWS
        for code in (1000, *row.codes)
    ],
)


@pytest.fixture(autouse=True)
def _redialled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipecat waits for four seconds before it dials again."""
    for module in ("websocket_service", "deepgram.stt"):
        path = f"pipecat.services.{module}.exponential_backoff_time"
        monkeypatch.setattr(path, lambda *_, **__: 0.01)


def worked(events: Sequence[UsageEvent]) -> list[UsageEvent]:
    """The events that are no refused attempts to connect."""
    return [event for event in events if event.quantities]


@every_row
async def test_whole_work_is_counted_as_it_is_billed(row: SocketRow) -> None:
    async with case(row) as c:
        for n in range(2):
            await c.run.ask()
            await c.run.finished(n + 1)
    events = c.notebook.events
    assert set(outcomes(events)) == {Outcome.OK}
    assert len(events) == (2 if row.kind is Kind.TTS else 1)
    expected = Provenance.REPORTED if row.reports else Provenance.MEASURED
    assert {event.provenance for event in events} == {expected}
    assert {event.kind for event in events} == {row.kind}
    assert {event.provider for event in events} == {row.vendor}
    assert {event.requested_model for event in events} == {row.model}
    assert {event.model for event in events} == {line.model for line in c.vendor.bill.lines}
    assert all(event.time_to_first_token_secs is not None for event in events)
    assert all(event.note is None for event in events)
    assert_conserved(events, c.vendor.bill, bills=row.bills)


@hearing
async def test_a_long_stream_is_counted_in_pieces(row: SocketRow) -> None:
    async with case(row) as c:
        for n in range(4):
            await c.run.ask(LONG_SECS)
            await c.run.finished(n + 1)
        assert len(c.notebook.events) == 2
        assert {event.provenance for event in c.notebook.events} == {Provenance.MEASURED}
    assert set(outcomes(c.notebook.events)) == {Outcome.OK}
    assert_conserved(c.notebook.events, c.vendor.bill, bills=row.bills)


@speaking
async def test_a_barge_in_before_any_output(row: SocketRow) -> None:
    async with case(row, Fault(kind="slow_tokens", delay_secs=30)) as c:
        await c.run.ask()
        await c.begun()
        await c.run.interrupt()
        events = await c.events()
        assert outcomes(events) == [Outcome.INTERRUPTED]
        assert {event.provenance for event in events} == {Provenance.MEASURED}
    assert_conserved(c.notebook.events, c.vendor.bill, bills=row.bills)


@speaking
async def test_a_barge_in_in_mid_output(row: SocketRow) -> None:
    async with case(row, Fault(kind="slow_tokens", delay_secs=0.02)) as c:
        await c.run.ask()
        await c.run.output()
        await c.run.interrupt()
        await c.events()
        await c.run.ask()
        await c.run.finished()
        events = await c.events(2)
        assert outcomes(events) == [Outcome.INTERRUPTED, Outcome.OK]
        assert {event.provenance for event in events} == {Provenance.MEASURED}
    assert_conserved(c.notebook.events, c.vendor.bill, bills=row.bills)


@every_row
async def test_hanging_up_in_mid_work(row: SocketRow) -> None:
    async with case(row, Fault(kind="slow_tokens", delay_secs=0.1)) as c:
        await c.run.ask()
        await (c.run.output() if row.kind is Kind.TTS else c.begun())
        await c.run.hang_up()
    expected = Outcome.INTERRUPTED if row.kind is Kind.TTS else Outcome.OK
    assert outcomes(c.notebook.events) == [expected]
    assert_conserved(c.notebook.events, c.vendor.bill, bills=row.bills)


@every_row
@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_a_refused_handshake_costs_nothing_and_stands_in_the_ledger(
    row: SocketRow, status: int
) -> None:
    async with case(row, Fault(kind="status", status=status)) as c:
        events = await c.events()
    assert set(outcomes(events)) == {Outcome.ERROR}
    assert {event.quantities for event in events} == {Quantities()}
    assert {event.failure and event.failure.http_status for event in events} == {status}
    assert c.vendor.bill.lines == []


@each_code
async def test_work_goes_on_after_the_vendor_has_closed_the_connection(
    row: SocketRow, code: int
) -> None:
    async with case(row, Fault(kind="close", code=code, chunks=row.messages, times=1)) as c:
        await c.run.ask()
        await c.events()
        await _until_it_works(c)
    events = worked(c.notebook.events)
    expected = BROKEN if code != 1000 else {*BROKEN, Outcome.OK}
    assert events[0].outcome in expected
    assert code == 1000 or events[0].failure is not None
    assert len(c.vendor.bill.lines) >= 2
    assert events[-1].outcome is Outcome.OK
    assert_conserved(events, c.vendor.bill, bills=row.bills)


@every_row
@pytest.mark.parametrize("fault", ["cut", "malformed"])
async def test_work_goes_on_after_a_connection_that_breaks(row: SocketRow, fault: str) -> None:
    async with case(row, Fault(kind=fault, chunks=row.messages, times=1)) as c:
        await c.run.ask()
        if fault == "cut":
            await c.events()
            await _until_it_works(c)
        else:
            await c.begun()
            await asyncio.sleep(0.2)
    events = worked(c.notebook.events)
    assert events[0].outcome in BROKEN
    assert_conserved(events, c.vendor.bill, bills=row.bills)


async def _until_it_works(c: Case) -> None:
    """Ask until something comes of it: what is lost with a connection is not sent again."""
    for _ in range(RETRIES):
        expected = c.run.ended + 1
        await c.run.ask()
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY_SECS[c.run.kind]):
                await c.run.completed(expected)
                return
    raise AssertionError("the service works no more")


@every_row
async def test_a_connection_that_stalls(row: SocketRow) -> None:
    async with case(row, Fault(kind="stall", chunks=row.messages)) as c:
        await c.run.ask()
        await c.begun()
        await asyncio.sleep(0.2)
    (event,) = c.notebook.events
    assert event.quantities
    assert event.outcome in {Outcome.INTERRUPTED, Outcome.OK}
    assert_conserved(c.notebook.events, c.vendor.bill, bills=row.bills)


@every_row
async def test_an_idle_connection(row: SocketRow) -> None:
    async with case(row) as c:
        for _ in range(3):
            if row.keep_alive is not None:
                await row.keep_alive(c.run.service)
            await asyncio.sleep(0.05)
    assert_conserved(c.notebook.events, c.vendor.bill, bills=row.bills)


@reporting
@pytest.mark.parametrize(("factor", "is_noted"), [(1.01, False), (1.25, True), (0.75, True)])
async def test_the_closing_report_wins(row: SocketRow, factor: float, is_noted: bool) -> None:
    async with case(row, Fault(kind="other_usage", factor=factor)) as c:
        await c.run.ask(2.0)
        await c.run.finished()
    (event,) = c.notebook.events
    assert event.provenance is Provenance.REPORTED
    assert event.quantities["audio_seconds"] == Decimal("2") * Decimal(str(factor))
    assert (event.note is not None) is is_noted
    assert_conserved(c.notebook.events, c.vendor.bill, bills=row.bills)


@reporting
async def test_a_closing_report_that_never_comes(
    row: SocketRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_tap, "REPORT_SECS", SHORT_REPORT_SECS)
    async with case(row, Fault(kind="no_usage")) as c:
        await c.run.ask(2.0)
        await c.run.finished()
    (event,) = c.notebook.events
    assert (event.provenance, event.outcome) == (Provenance.MEASURED, Outcome.OK)
    assert_conserved(c.notebook.events, c.vendor.bill, bills=row.bills)


@every_row
async def test_a_process_killed_in_mid_work_leaves_what_it_had_begun(
    row: SocketRow, tmp_path: Path
) -> None:

    async def ask(c: Case) -> None:
        await c.run.ask()
        await c.run.output()

    slow = Fault(kind="slow_tokens", delay_secs=0.1)
    found, bill = await after_a_kill(row, slow, tmp_path, ask)
    (event,) = found
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.INTERRUPTED)
    assert event.note == "the process ended while this was running"
    assert_conserved(found, bill, bills=row.bills)
