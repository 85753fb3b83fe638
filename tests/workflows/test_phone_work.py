"""Calls are placed once and priced once, whatever becomes of the process that is at it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from flow.db.database import Database
from flow.domain.calls.phone_call import (
    CarrierStatus,
    DialOrder,
    Direction,
    Leg,
    PhoneCall,
    Price,
    State,
    caller_leg,
)
from flow.domain.calls.thread import Status, Thread
from flow.errors import Unavailable
from flow.ledger.recorder import Recorder
from flow.sandbox.faults import Fault
from flow.sandbox.server import Served
from flow.sandbox.twilio.app import AUTH_TOKEN, TwilioSandbox
from flow.sandbox.twilio.rest_api import ACCOUNT_SID
from flow.vendors.twilio import Twilio
from flow.workflows.phone_work import PhoneWork, price_event
from tests.db.making import a_key, a_thread

FROM, TO = "+4930111111", "+4930222222"
FAILURES = (Unavailable("away"), ValueError("a row that nobody understands"))
ORDER = DialOrder(20, 600, document_url="https://flow.example.com/twiml")


@dataclass
class Office:
    """The work over a real database, with Twilio's stand-in."""

    work: PhoneWork
    database: Database
    twilio: TwilioSandbox
    client: Twilio

    async def ordered(self, to: str = TO) -> PhoneCall:
        """A call that is to be placed."""
        thread = await a_thread(self.database, await a_key(self.database))
        return await self.database.telephony.order(
            caller_leg(thread.id), thread.id, "twilio", Leg.CALLER, numbers=(FROM, to),
            dial_order=ORDER, dial_until=datetime.now(UTC) + timedelta(minutes=5),
        )  # fmt: skip

    async def until(self, leg: PhoneCall, *states: State) -> PhoneCall:
        """The leg, once it is in one of these states; nobody waits for it to be due."""
        async with asyncio.timeout(30):
            while True:
                found = await self.database.telephony.get(leg.id)
                assert found is not None
                if found.state in states:
                    return found
                await self.database.telephony.note(leg.id, due_secs=0)
                await self.work.once(datetime.now(UTC))

    async def thread(self, leg: PhoneCall) -> Thread:
        return await self.database.get_workflow_thread_data(leg.thread_id)

    async def rows(self, leg: PhoneCall) -> list[dict[str, Any]]:
        return await self.database.get_thread_usage(leg.thread_id)

    @property
    def dials(self) -> int:
        """How often Twilio was asked to dial."""
        posts = [one for one in self.twilio.requests if one.method == "POST"]
        return len([one for one in posts if one.path.endswith("/Calls.json")])


@pytest.fixture
async def office(database: Database, tmp_path: Path) -> AsyncIterator[Office]:
    twilio = TwilioSandbox()

    def told(_: Sequence[Any], __: Any) -> None:
        return

    recorder = Recorder(database, tmp_path, price=lambda event: event, on_recorded=told)
    recorder.start()
    async with Served(twilio) as url:
        client = Twilio(
            ACCOUNT_SID, SecretStr(AUTH_TOKEN), url, answer_secs=1.0, first_pause_secs=0
        )
        work = PhoneWork(database.telephony, database, recorder, {"twilio": client})
        yield Office(work, database, twilio, client)
        await client.aclose()
    await recorder.close()


@pytest.mark.parametrize("was_placed", [True, False], ids=["after-the-request", "before-it"])
async def test_a_process_that_dies_while_it_dials_neither_dials_twice_nor_forgets(
    was_placed: bool, office: Office
) -> None:
    leg = await office.ordered()
    begun = await office.database.telephony.begin_dial(leg.id, 0.0)
    assert begun is not None
    if was_placed:
        await office.client.dial(FROM, TO, ORDER)
    live = await office.until(leg, State.LIVE)
    (call,) = office.twilio.calls.values()
    assert (live.call_id, office.dials) == (call.sid, 1)
    assert live.dials == (1 if was_placed else 2)


@pytest.mark.parametrize(
    ("fault", "dials"),
    [
        (Fault(kind="cut", route="POST *"), 1),
        (Fault(kind="status", status=503, route="POST *", times=1), 2),
        (Fault(kind="hang", route="POST *", times=1), 2),
        (Fault(kind="status", status=429, route="POST *", times=1), 2),
    ],
    ids=["answer-lost", "failed", "no-answer", "put-off"],
)
async def test_one_call_is_placed_however_twilio_fails(
    fault: Fault, dials: int, office: Office
) -> None:
    office.twilio.faults.add(fault)
    live = await office.until(await office.ordered(), State.LIVE)
    (call,) = office.twilio.calls.values()
    assert (live.call_id, office.dials) == (call.sid, dials)


async def test_two_calls_between_the_same_numbers_are_not_mistaken_for_each_other(
    office: Office,
) -> None:
    first, second = await office.ordered(), await office.ordered()
    office.twilio.faults.add(Fault(kind="cut", route="POST *"))
    legs = [await office.until(leg, State.LIVE) for leg in (first, second)]
    assert {leg.call_id for leg in legs} == set(office.twilio.calls)
    assert office.dials == 2


async def test_a_second_call_for_a_leg_is_told_so(office: Office) -> None:
    leg = await office.until(await office.ordered(), State.LIVE)
    assert leg.call_id is not None
    bound = [
        await office.database.telephony.bind(
            leg.id, leg.thread_id, "twilio", sid, direction=Direction.OUTBOUND,
            numbers=(FROM, TO), due_secs=30,
        )
        for sid in (f"CA{'f' * 32}", leg.call_id)
    ]  # fmt: skip
    assert [one.call_id for one in bound] == [leg.call_id, leg.call_id]


async def test_whoever_has_claimed_a_leg_has_it_alone(office: Office) -> None:
    leg = await office.ordered()
    claims = await asyncio.gather(*(office.database.telephony.claim(5, 60) for _ in range(4)))
    assert [one.id for found in claims for one in found] == [leg.id]


@pytest.mark.parametrize(
    ("currency", "usd", "note"),
    [("USD", "0.02800", None), ("EUR", None, "the carrier charges 0.02800 EUR")],
)
async def test_a_price_comes_late_and_is_booked_once(
    currency: str, usd: str | None, note: str | None, office: Office
) -> None:
    leg = await office.until(await office.ordered(), State.LIVE)
    (call,) = office.twilio.calls.values()
    call.status, call.currency, call.price_looks = "in-progress", currency, 3
    thread = await office.database.claim_thread(leg.thread_id, str(uuid4()))
    await office.database.save_workflow_thread_data(thread.id, status=Status.ENDED)
    call.end(seconds=61)
    await office.database.finish_thread(thread.id, Status.COMPLETED)
    over = await office.until(leg, State.OVER)
    assert await office.rows(leg) == []
    done = await office.until(over, State.DONE)
    # A process that dies after it has booked it books it again.
    assert call.bill is not None
    again = price_event(done, thread, None, Price(call.bill, currency))
    await office.database.record_usage([again])
    (row,) = await office.rows(leg)
    assert row["id"] == str(leg.id)
    assert (row["kind"], row["provenance"], row["note"]) == ("telephony", "reported", note)
    assert (row["total_cost_usd"] and Decimal(row["total_cost_usd"])) == (usd and Decimal(usd))
    settled = await office.thread(leg)
    assert settled.status is Status.COMPLETED
    assert Decimal(settled.usage_stats["total_cost_usd"]) == Decimal(usd or 0)
    assert settled.usage_stats["unpriced_events"] == (usd is None)


async def test_a_line_whose_bot_is_gone_is_hung_up(office: Office) -> None:
    leg = await office.until(await office.ordered(), State.LIVE)
    (call,) = office.twilio.calls.values()
    call.status = "in-progress"
    await office.database.end_thread(leg.thread_id)
    await office.until(leg, State.OVER, State.DONE)
    assert call.status == "completed"


async def test_a_call_that_was_ended_while_it_was_being_placed_is_looked_at_at_once(
    office: Office,
) -> None:
    leg = await office.ordered()
    office.twilio.faults.add(Fault(kind="delay", delay_secs=0.5, route="POST *"))
    placing = asyncio.create_task(office.work.once(datetime.now(UTC)))
    while not office.dials:
        await asyncio.sleep(0.02)
    await office.database.end_thread(leg.thread_id)
    await placing
    assert [one.state for one in await office.database.telephony.claim(5, 0)] == [State.LIVE]
    await office.work.once(datetime.now(UTC))
    (call,) = office.twilio.calls.values()
    assert call.status == "canceled"


@pytest.mark.parametrize("who", [Leg.CALLER, Leg.TRANSFER])
async def test_whoever_is_left_alone_after_a_transfer_is_hung_up(who: Leg, office: Office) -> None:
    """The target hangs up on its announcement, or the caller while it is told."""
    own = await office.until(await office.ordered(), State.LIVE)
    order = replace(ORDER, document="<Response/>", document_url=None)
    other = await office.database.telephony.order(
        uuid4(), own.thread_id, "twilio", Leg.TRANSFER, numbers=(FROM, "+4930333333"),
        dial_order=order, dial_until=datetime.now(UTC),
    )  # fmt: skip
    await office.database.telephony.begin_dial(other.id, 0)
    target = await office.client.dial(FROM, "+4930333333", order)
    await office.until(other, State.LIVE)
    calls = {Leg.CALLER: own.call_id, Leg.TRANSFER: target.call_id}
    for leg in (own, other):
        now = datetime.now(UTC).isoformat()
        await office.database.telephony.note(leg.id, transferred_at=now)
    await office.database.claim_thread(own.thread_id, str(uuid4()))
    await office.database.save_workflow_thread_data(own.thread_id, status=Status.ENDED)
    for call in office.twilio.calls.values():
        call.status = "in-progress"
    gone = office.twilio.calls[str(calls[who])]
    gone.end(seconds=5)
    await office.until(own if who is Leg.CALLER else other, State.OVER, State.DONE)
    assert [call.status for call in office.twilio.calls.values()] == ["completed", "completed"]


@pytest.mark.parametrize("price", ["NaN", "Infinity", "soon", ""])
async def test_what_is_no_amount_is_no_price(price: str, office: Office) -> None:
    call = office.twilio.begin(status="completed")
    shown = call.resource() | {"price": price}
    office.twilio.faults.add(Fault(kind="status", status=200, body=shown))
    found = await office.client.show(call.sid)
    assert found is not None
    assert found.price is None


async def test_a_leg_goes_forward_only(office: Office) -> None:
    legs, leg = office.database.telephony, await office.ordered()
    await legs.note(leg.id, state=State.LIVE, call_id="CA1", due_secs=5)
    late = await legs.note(leg.id, state=State.QUEUED, due_secs=0, from_state=State.DIALLING)
    assert late is not None
    assert (late.state, late.call_id) == (State.LIVE, "CA1")
    done = await legs.note(leg.id, state=State.DONE, status=CarrierStatus.COMPLETED)
    again = await legs.note(leg.id, state=State.LIVE, call_id="CA2", due_secs=5)
    assert done is not None
    assert again is not None
    assert (again.state, again.call_id) == (State.DONE, "CA1")
    assert await legs.claim(5, 60) == []
    assert await legs.note(UUID(int=1), status="busy") is None


async def test_the_work_goes_on_after_a_look_that_failed(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, looks = office.database.telephony.claim, 0

    async def failing(*asked: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks <= len(FAILURES):
            raise FAILURES[looks - 1]
        return await claim(*asked)

    monkeypatch.setattr("flow.workflows.phone_work.POLL_SECS", 0)
    monkeypatch.setattr(office.database.telephony, "claim", failing)
    await office.ordered()
    working = asyncio.create_task(office.work.forever())
    async with asyncio.timeout(10):
        await office.twilio.placed()
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
