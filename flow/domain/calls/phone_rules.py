"""What is to be done about a telephone call that is due: facts in, decision out.

A carrier's REST API dials twice when it is asked twice (Twilio's takes no idempotency key), so a
request that may have arrived is never just repeated: the call is looked for among the carrier's,
and dialled again only when it is not there after `LOOKS` looks. Should it turn up after all, the
first of the two calls that asks for its bot gets it, and the other is hung up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from flow.domain.calls.ending import Ending, EndReason
from flow.domain.calls.phone_call import (
    FAX,
    CarrierCall,
    CarrierStatus,
    Direction,
    Leg,
    PhoneCall,
    Price,
    State,
    Voicemail,
)
from flow.domain.calls.thread import Status, Thread

LOOKS = 3
LOOK_SECS = 4.0
MOST_DIALS = 2
DIAL_RETRY_SECS = 3.0
# The carrier's clock is not ours.
CLOCK_SKEW = timedelta(seconds=30)
LIVE_LOOK_SECS = 30.0
LONGEST_LOOK_SECS = 600.0
# Twilio: "price ... may not be immediately available"; minutes as a rule, a day at worst.
PRICE_PAUSES_SECS = (15, 45, 60, 120, 300, 600, 1_200, 3_600, 7_200, 14_400, 28_800, 43_200)
# What never connected is seldom charged, and its price then stays unknown.
UNCONNECTED_TRIES = 6


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of a leg now.

    Args:
        state: the one that it has from now on.
        due_secs: when it is looked at again; ``None``: never.
        call: what the carrier says of it, where it was asked.
        ending: why its thread ends, if nobody has connected to it.
        price: what is to be booked.
        unpriced: the carrier has charged nothing that is known, and is not asked any more.
    """

    state: State
    due_secs: float | None
    call: CarrierCall | None = None
    ending: Ending | None = None
    price: Price | None = None
    unpriced: bool = False


def refused(message: str) -> Step:
    """The carrier will not dial this; ``message`` is what it says."""
    return Step(State.DONE, None, ending=_not_dialled(message))


def not_asked(phone_call: PhoneCall, now: datetime) -> Step:
    """The carrier could not be asked to dial, or puts us off: the call was certainly not placed."""
    if _is_late(phone_call, now, DIAL_RETRY_SECS):
        return refused("the carrier could not be reached in time")
    return Step(State.QUEUED, DIAL_RETRY_SECS)


def placed(call: CarrierCall, ring_secs: int) -> Step:
    """The carrier has the call; should it say nothing more of it, it is asked when it has rung."""
    return Step(State.LIVE, ring_secs + LIVE_LOOK_SECS, call)


def unknown(phone_call: PhoneCall) -> Step:
    """The carrier may have been asked to dial, or not."""
    return Step(State.DIALLING, _look_pause(phone_call.tries))


def recognised(
    phone_call: PhoneCall, found: Iterable[CarrierCall], known: Collection[str]
) -> CarrierCall | None:
    """Which of the carrier's calls is that of a leg that was dialled, if any is.

    Carriers tell times in whole seconds, by their own clock.
    """
    dialled_at = phone_call.dialled_at
    assert dialled_at is not None, "what is looked for was dialled"
    since = dialled_at - CLOCK_SKEW
    ours = [
        call
        for call in found
        if call.call_id not in known and (call.created_at is None or call.created_at >= since)
    ]
    # The oldest: a second one is only there if this was given up too early.
    return min(ours, key=lambda call: call.created_at or dialled_at, default=None)


def looked_for(
    phone_call: PhoneCall, found: Iterable[CarrierCall], known: Collection[str], now: datetime
) -> Step:
    """The carrier was asked for calls between these numbers; ``known`` are those of other legs.

    Of two legs between the same numbers one is dialled after the other, so that a call which no
    other leg has is this one's.
    """
    if (call := recognised(phone_call, found, known)) is not None:
        return placed(call, 0 if phone_call.order is None else phone_call.order.ring_secs)
    if phone_call.tries + 1 < LOOKS:
        return Step(State.DIALLING, _look_pause(phone_call.tries + 1))
    if phone_call.dials >= MOST_DIALS or _is_late(phone_call, now, 0):
        return refused("the carrier does not say whether it has placed the call")
    return Step(State.QUEUED, 0)


def is_to_be_hung_up(phone_call: PhoneCall, thread: Thread) -> bool:
    """Whether nobody is to be on a running call any more: its bot is gone, and the caller was not
    passed on, or a machine has it that is not to be talked to.

    What is said to a machine after the beep the carrier says, and hangs up.
    """
    if phone_call.is_at_a_machine and phone_call.leg is Leg.CALLER:
        is_fax = phone_call.answered_by == FAX
        match thread.join.transport.voicemail:
            case Voicemail.HANG_UP:
                return True
            case Voicemail.LEAVE_MESSAGE:
                return is_fax
    is_running = thread.status in {Status.CREATED, Status.CONNECTING, Status.IN_CALL}
    return not is_running and phone_call.transferred_at is None


def looked_at(phone_call: PhoneCall, call: CarrierCall | None) -> Step:
    """The carrier was asked for a call of ours that was not known to be over, or had no price.

    ``None``: it has no such call.
    """
    if call is None:
        return Step(State.DONE, None, unpriced=True, ending=_gone())
    if not call.status.is_over:
        pause = min(LIVE_LOOK_SECS * 1.5**phone_call.tries, LONGEST_LOOK_SECS)
        return Step(State.LIVE, pause, call)
    ending = ending_of(call.status) if phone_call.direction is Direction.OUTBOUND else None
    if call.price is not None:
        return Step(State.DONE, None, call, ending, price=call.price)
    tries = phone_call.tries if phone_call.state is State.OVER else 0
    is_charged = bool(call.duration_secs)
    if tries >= (len(PRICE_PAUSES_SECS) if is_charged else UNCONNECTED_TRIES):
        return Step(State.DONE, None, call, ending, unpriced=is_charged)
    return Step(State.OVER, PRICE_PAUSES_SECS[tries], call, ending)


def ending_of(status: CarrierStatus) -> Ending | None:
    """Why a thread ended whose callee was not reached; ``None``: the callee was."""
    match status:
        case CarrierStatus.BUSY:
            return _not_reached(EndReason.BUSY, "the line is busy")
        case CarrierStatus.NO_ANSWER:
            return _not_reached(EndReason.NO_ANSWER, "nobody answered")
        case CarrierStatus.FAILED:
            return _not_dialled("the carrier could not connect the call; is the number right?")
        case CarrierStatus.CANCELED:
            return _not_dialled("the call was cancelled before anybody answered")
        case CarrierStatus.COMPLETED:
            # It was answered, and over before its bot could come.
            return _not_reached(EndReason.NO_ANSWER, "the callee hung up at once")
    return None


def _not_reached(reason: EndReason, message: str) -> Ending:
    return Ending.failure(reason.value, message, reason)


def _not_dialled(message: str) -> Ending:
    return Ending.failure(EndReason.DIAL_FAILED.value, message, EndReason.DIAL_FAILED)


def _gone() -> Ending:
    return _not_dialled("the carrier does not know the call any more")


def _is_late(phone_call: PhoneCall, now: datetime, secs: float) -> bool:
    until = phone_call.dial_until
    return until is not None and now + timedelta(seconds=secs) > until


def _look_pause(tries: int) -> float:
    return LOOK_SECS * (1 << tries)
