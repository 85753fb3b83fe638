"""The telephone calls that Flow places, and the price of every one: what is due is done.

The database keeps each leg of a call and when it is due; whoever claims it does one step (see
`flow.domain.calls.phone_rules`) and notes what came of it. Any number of processes share one
database. A process that is killed in a step leaves a claim that lapses, and the step is done anew:
each asks the carrier what is the case before it changes anything, and a price has the leg's id in
the ledger, where it is booked once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID, uuid4

import structlog

from flow.db.telephony import Telephony, price_json
from flow.domain.calls import phone_rules as rules
from flow.domain.calls.ending import Ending
from flow.domain.calls.phone_call import CarrierCall, Leg, PhoneCall, Price, State, caller_leg
from flow.domain.calls.phone_rules import Step
from flow.domain.calls.thread import Status, Thread
from flow.domain.usage.events import Cost, Kind, Provenance, Quantities, UsageEvent
from flow.errors import Conflict, NotFound, Unavailable
from flow.vendors.dialler import Dialler, DialRefused, DialUnknown, NotDialled

log = structlog.get_logger(__name__)

AT_ONCE = 20
POLL_SECS = 1.0
# Longer than a step may take: three attempts at a carrier, and the ledger.
LEASE_SECS = 90.0
BUSY_PAIR_SECS = 2.0
DRAIN_SECS = 30.0
USD = "USD"


class Threads(Protocol):
    """What this needs of `flow.db.database.Database` beside its telephony."""

    async def get_workflow_thread_data(self, thread_id: UUID) -> Thread:
        """The thread; raises `NotFound`."""
        ...

    async def claim_thread(self, thread_id: UUID, claim: str) -> Thread:
        """Make a thread's call ours, or raise `Conflict`."""
        ...

    async def save_workflow_thread_data(
        self, thread_id: UUID, *, end_reason: str | None = None
    ) -> Thread:
        """Store why the thread ended."""
        ...

    async def finish_thread(
        self, thread_id: UUID, status: Status, *, error: dict[str, Any] | None = None
    ) -> Thread:
        """Settle the thread in a final state."""
        ...


class Usage(Protocol):
    """What this needs of `flow.ledger.recorder.Recorder`."""

    def record(self, event: UsageEvent) -> None:
        """Take the finished account of one piece of work."""

    async def drain(self, thread_id: UUID, timeout_secs: float) -> bool:
        """Wait until the ledger has all of a thread's events."""
        ...


class PhoneWork:
    """One process's share of the work.

    Args:
        diallers: the carriers that place calls, by the names of their transports.
    """

    def __init__(
        self, legs: Telephony, threads: Threads, usage: Usage, diallers: Mapping[str, Dialler]
    ) -> None:
        self._legs = legs
        self._threads = threads
        self._usage = usage
        self._diallers = diallers

    async def forever(self) -> None:
        """Look for what is due every second, and at once where there may be more."""
        while True:
            done = 0
            try:
                done = await self.once(datetime.now(UTC))
            except Unavailable as error:
                log.warning("phone_work_waits", error=str(error))
            except Exception:
                log.exception("phone_work_failed")
            if done < AT_ONCE:
                await asyncio.sleep(POLL_SECS)

    async def once(self, now: datetime) -> int:
        """Do what is due, and say how many legs that were.

        Raises:
            DatabaseUnavailable: nobody can say what is due.
        """
        claimed = await self._legs.claim(AT_ONCE, LEASE_SECS)
        await asyncio.gather(*(self._do(one, now) for one in claimed))
        return len(claimed)

    async def _do(self, leg: PhoneCall, now: datetime) -> None:
        known = {"workflow_thread_id": str(leg.thread_id), "leg": str(leg.id), "state": leg.state}
        if (dialler := self._diallers.get(leg.carrier)) is None:
            log.error("carrier_not_set_up", carrier=leg.carrier, **known)
            return
        try:
            await self._step(leg, dialler, now)
        except Unavailable as error:
            # The claim lapses, and it is tried again.
            log.warning("phone_work_waits", error=str(error), **known)
        except Exception:
            log.exception("phone_work_failed", **known)

    async def _step(self, leg: PhoneCall, dialler: Dialler, now: datetime) -> None:
        thread = await self._thread(leg)
        if thread is None:
            return
        if leg.state is State.QUEUED:
            await self._dial(leg, thread, dialler, now)
        elif leg.state is State.DIALLING:
            found = await dialler.find(leg.from_number, leg.to_number)
            known = await self._legs.known(leg.carrier, [call.call_id for call in found])
            step = rules.looked_for(leg, found, known, now)
            if step.call is not None and leg.leg is Leg.TRANSFER:
                # Who was passing the caller on has given it up.
                await dialler.hang_up(step.call.call_id)
            await self._take(leg, thread, step)
        elif leg.call_id is not None:
            await self._look(leg, leg.call_id, thread, dialler)

    async def _dial(self, leg: PhoneCall, thread: Thread, dialler: Dialler, now: datetime) -> None:
        """Have the call placed, unless nobody waits for it any more."""
        if thread.status is not Status.CREATED:
            await self._legs.note(leg.id, state=State.DONE, from_state=State.QUEUED)
            return
        if leg.dial_until is not None and now > leg.dial_until:
            await self._take(leg, thread, rules.refused("the call could not be placed in time"))
            return
        begun = await self._legs.begin_dial(leg.id, LEASE_SECS)
        if begun is None:
            await self._legs.note(
                leg.id, state=State.QUEUED, due_secs=BUSY_PAIR_SECS, from_state=State.QUEUED
            )
            return
        await self._take(begun, thread, await self._asked_to_dial(begun, dialler, now))

    async def _asked_to_dial(self, leg: PhoneCall, dialler: Dialler, now: datetime) -> Step:
        assert leg.order is not None, "what is dialled was ordered"
        try:
            call = await dialler.dial(leg.from_number, leg.to_number, leg.order)
        except NotDialled as error:
            log.warning("not_dialled", workflow_thread_id=str(leg.thread_id), error=str(error))
            return rules.not_asked(leg, now)
        except DialUnknown as error:
            log.warning("dial_unknown", workflow_thread_id=str(leg.thread_id), error=str(error))
            return rules.unknown(leg)
        except DialRefused as error:
            return rules.refused(str(error))
        log.info("dialled", workflow_thread_id=str(leg.thread_id), call_id=call.call_id)
        return rules.placed(call, leg.order.ring_secs)

    async def _look(self, leg: PhoneCall, call_id: str, thread: Thread, dialler: Dialler) -> None:
        call = await dialler.show(call_id)
        if call is not None and not call.status.is_over and rules.is_to_be_hung_up(leg, thread):
            # Whoever is on the line must not stay there at somebody's expense.
            log.warning("call_left_over", workflow_thread_id=str(thread.id), call_id=call_id)
            await dialler.hang_up(call_id)
        elif call is not None and call.status.is_over and leg.transferred_at is not None:
            await self._hang_up_other(leg, dialler)
        await self._take(leg, thread, rules.looked_at(leg, call))

    async def _hang_up_other(self, leg: PhoneCall, dialler: Dialler) -> None:
        """Of two who were connected one has gone. Their conference is over with that, unless it was
        before the other came: who waits there alone waits for nobody."""
        for other in await self._legs.of_thread(leg.thread_id):
            is_waiting = other.state is State.LIVE and other.transferred_at is not None
            if other.id != leg.id and is_waiting and other.call_id is not None:
                await dialler.hang_up(other.call_id)

    async def _take(self, leg: PhoneCall, thread: Thread, step: Step) -> None:
        """Do what was decided, the note of it last."""
        if step.ending is not None and leg.id == caller_leg(thread.id):
            await self._end(thread, step.ending)
        if step.price is not None or step.unpriced:
            await self._book(leg, thread, step)
        changes: dict[str, Any] = {"state": step.state}
        if step.call is not None:
            changes |= {"call_id": step.call.call_id, "status": step.call.status}
        if step.price is not None:
            changes["price"] = price_json(step.price)
        await self._legs.note(leg.id, due_secs=step.due_secs, from_state=leg.state, **changes)
        if step.state is State.LIVE and leg.state is not State.LIVE:
            await self._look_at_once_if_over(leg)

    async def _look_at_once_if_over(self, leg: PhoneCall) -> None:
        """Who ended the thread while its call was being placed knew of no call to hang up."""
        thread = await self._thread(leg)
        if thread is not None and rules.is_to_be_hung_up(leg, thread):
            await self._legs.note(leg.id, due_secs=0)

    async def _end(self, thread: Thread, ending: Ending) -> None:
        """End a thread whose callee was not reached; one that somebody has connected to goes on.

        It is claimed first, as its call would be: of all who try that, one succeeds.
        """
        if thread.status is not Status.CREATED:
            return
        with suppress(Conflict, NotFound):
            await self._threads.claim_thread(thread.id, str(uuid4()))
            await self._threads.save_workflow_thread_data(thread.id, end_reason=ending.reason)
            await self._threads.finish_thread(thread.id, Status.FAILED, error=ending.error)
            log.info(
                "callee_not_reached", workflow_thread_id=str(thread.id), reason=ending.reason.value
            )

    async def _book(self, leg: PhoneCall, thread: Thread, step: Step) -> None:
        """Bring the price of a leg to the ledger; once, as it has the leg's id."""
        self._usage.record(price_event(leg, thread, step.call, step.price))
        if not await self._usage.drain(thread.id, DRAIN_SECS):
            raise Unavailable("the ledger does not answer")

    async def _thread(self, leg: PhoneCall) -> Thread | None:
        try:
            return await self._threads.get_workflow_thread_data(leg.thread_id)
        except NotFound:
            return None  # it went with its key, and the leg with it


def price_event(
    leg: PhoneCall, thread: Thread, call: CarrierCall | None, price: Price | None
) -> UsageEvent:
    """The ledger's row of what a carrier charges for a leg, whose id it has.

    The ledger is in USD. What is charged in another currency is not converted, as no rate would be
    the one that the carrier's invoice is paid at: the row is unpriced, with the amount in its note.
    Without a price the row says that something was used which nobody has priced.
    """
    ended_at = None if call is None else call.ended_at
    # A leg that the carrier bills is a second long at least, whatever it rounds its length to.
    seconds = Decimal(max(1, (call and call.duration_secs) or 0))
    is_usd = price is not None and price.currency == USD
    note = None
    if price is None:
        note = "the carrier gave no price"
    elif not is_usd:
        note = f"the carrier charges {price.amount} {price.currency}"
    return UsageEvent(
        id=leg.id,
        owner=thread.owner,
        kind=Kind.TELEPHONY,
        source="carrier",
        provider=leg.carrier,
        model=leg.direction.value if leg.leg is Leg.CALLER else leg.leg.value,
        quantities=Quantities() if price is None else Quantities(phone_seconds=seconds),
        provenance=Provenance.UNMETERED if price is None else Provenance.REPORTED,
        cost=Cost(phone_seconds=price.amount) if price is not None and is_usd else None,
        price_version=f"{leg.carrier} call resource" if is_usd else None,
        occurred_at=ended_at or datetime.now(UTC),
        note=note,
    )
