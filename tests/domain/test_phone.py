"""Telephone numbers, and what is decided about a call that is due."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from flow.domain.calls import phone_rules as rules
from flow.domain.calls.ending import EndReason
from flow.domain.calls.phone_call import (
    CarrierCall,
    CarrierStatus,
    DialOrder,
    Direction,
    Leg,
    PhoneCall,
    Price,
    State,
    Voicemail,
    caller_leg,
    is_machine,
)
from flow.domain.calls.phone_number import (
    is_number,
    may_be_dialled,
    number_problem,
)

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
ORDER = DialOrder(ring_secs=30, longest_secs=600, document_url="https://flow.example.com/twiml")
QUEUED = PhoneCall(
    id=UUID(int=1),
    thread_id=UUID(int=2),
    carrier="twilio",
    leg=Leg.CALLER,
    direction=Direction.OUTBOUND,
    from_number="+4930111111",
    to_number="+4930222222",
    state=State.QUEUED,
    order=ORDER,
    call_id=None,
    dial_until=NOW + timedelta(minutes=4),
    dialled_at=None,
    dials=0,
    tries=0,
    status=None,
    answered_by=None,
    transferred_at=None,
    price=None,
    created_at=NOW,
)
DIALLED = replace(QUEUED, state=State.DIALLING, dialled_at=NOW, dials=1)
LIVE = replace(DIALLED, state=State.LIVE, call_id="CA1")
OVER = replace(LIVE, state=State.OVER)
PRICE = Price(Decimal("0.014"), "USD")


def call(status: str, **known: Any) -> CarrierCall:
    known = {"call_id": "CA1", "created_at": NOW, **known}
    numbers = {"from_number": QUEUED.from_number, "to_number": QUEUED.to_number}
    return CarrierCall(status=CarrierStatus(status), **numbers, **known)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("+4930123456", None),
        ("+15005550006", None),
        ("+49 (30) 123-456", "written without spaces and signs: +4930123456"),
        ("004930123456", "begin with +, not with 00: +4930123456"),
        ("4930123456", "begin with + and the country code"),
        ("030123456", "begin with + and the country code"),
        ("+0301234567", "must be a number such as"),
        ("+49301", "must be a number such as"),
        ("+4930123456789012", "must be a number such as"),
        ("+49\uff13\uff10123456", "must be a number such as"),
        ("+4930123456\n", "written without"),
        ("", "must be a number such as"),
        ("sip:ada@example.com", "must be a number such as"),
    ],
)
def test_a_number_is_e164_or_it_is_said_how_to_write_it(text: str, problem: str | None) -> None:
    assert is_number(text) is (problem is None)
    found = number_problem(text)
    assert (found is None) if problem is None else (problem in str(found))


@pytest.mark.parametrize(
    ("number", "prefixes", "may"),
    [
        ("+4930123456", ["+49"], True),
        ("+4930123456", ["+43", "+4930"], True),
        ("+4930123456", ["+43"], False),
        ("+4930123456", [], False),
        ("+4930123456", ["+"], True),
        ("sip:a@example.com", ["+"], False),
        ("+490", ["+49"], False),
    ],
)
def test_only_what_the_operator_allows_is_dialled(
    number: str, prefixes: list[str], may: bool
) -> None:
    assert may_be_dialled(number, prefixes) is may


@pytest.mark.parametrize(
    ("answered_by", "machine"),
    [
        ("human", False),
        ("unknown", False),
        (None, False),
        ("machine_start", True),
        ("machine_end_beep", True),
        ("machine_end_silence", True),
        ("machine_end_other", True),
        ("fax", True),
    ],
)
def test_what_the_carrier_does_not_know_is_a_person(answered_by: str | None, machine: bool) -> None:
    assert is_machine(answered_by) is machine


def test_a_thread_has_one_caller_however_often_it_is_joined() -> None:
    assert caller_leg(UUID(int=2)) == caller_leg(UUID(int=2)) != caller_leg(UUID(int=3))
    assert DialOrder.from_json(ORDER.to_json()) == ORDER
    left = replace(ORDER, voicemail=Voicemail.LEAVE_MESSAGE, document="<Response/>")
    assert DialOrder.from_json(left.to_json()) == left


def test_a_carrier_that_cannot_be_asked_is_asked_again_until_it_is_too_late() -> None:
    again = rules.not_asked(DIALLED, NOW)
    assert (again.state, again.ending) == (State.QUEUED, None)
    late = rules.not_asked(DIALLED, NOW + timedelta(minutes=4))
    assert late.state is State.DONE
    assert late.ending is not None
    assert late.ending.reason is EndReason.DIAL_FAILED


def test_a_call_that_may_have_been_placed_is_looked_for_before_it_is_dialled_again() -> None:
    states, phone_call, waited = [], DIALLED, 0.0
    step = rules.unknown(phone_call)
    while step.state is State.DIALLING:
        states.append(step.state)
        waited += step.due_secs or 0
        step = rules.looked_for(phone_call, [], set(), NOW)
        phone_call = replace(phone_call, tries=phone_call.tries + 1)
    assert (len(states), step.state) == (rules.LOOKS, State.QUEUED)
    assert waited > 20
    # It is not dialled a third time, and not when nobody waits for it any more.
    last = replace(DIALLED, tries=rules.LOOKS - 1)
    for given_up in (
        rules.looked_for(replace(last, dials=rules.MOST_DIALS), [], set(), NOW),
        rules.looked_for(last, [], set(), NOW + timedelta(minutes=5)),
    ):
        assert given_up.state is State.DONE
        assert given_up.ending is not None


@pytest.mark.parametrize(
    ("found", "known", "call_id"),
    [
        ([call("ringing")], set(), "CA1"),
        ([call("ringing")], {"CA1"}, None),
        ([call("ringing", created_at=NOW - timedelta(hours=1))], set(), None),
        ([call("ringing", created_at=NOW - timedelta(seconds=5))], set(), "CA1"),
        (
            [call("ringing", call_id="CA2", created_at=NOW + timedelta(seconds=9)), call("busy")],
            set(),
            "CA1",
        ),
        ([call("ringing"), call("ringing", call_id="CA2")], {"CA1"}, "CA2"),
    ],
    ids=["ours", "another-legs", "too-old", "clocks-differ", "the-oldest", "the-one-left"],
)
def test_a_call_that_is_found_is_ours_if_it_is_new_and_no_other_legs(
    found: list[CarrierCall], known: set[str], call_id: str | None
) -> None:
    step = rules.looked_for(DIALLED, found, known, NOW)
    assert step.state is (State.DIALLING if call_id is None else State.LIVE)
    assert (step.call and step.call.call_id) == call_id


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("busy", "busy"),
        ("no-answer", "no_answer"),
        ("failed", "dial_failed"),
        ("canceled", "dial_failed"),
        ("completed", "no_answer"),
        ("ringing", None),
        ("in-progress", None),
    ],
)
def test_whoever_is_not_reached_ends_the_thread_with_the_reason(
    status: str, reason: str | None
) -> None:
    ending = rules.looked_at(LIVE, call(status)).ending
    assert (ending and ending.reason) == reason
    assert rules.looked_at(replace(LIVE, direction=Direction.INBOUND), call(status)).ending is None


@pytest.mark.parametrize(
    ("phone_call", "asked", "state", "price", "unpriced"),
    [
        (LIVE, call("in-progress"), State.LIVE, None, False),
        (LIVE, call("completed", duration_secs=5), State.OVER, None, False),
        (LIVE, call("completed", duration_secs=5, price=PRICE), State.DONE, PRICE, False),
        (OVER, call("completed", duration_secs=5, price=PRICE), State.DONE, PRICE, False),
        (replace(OVER, tries=11), call("completed", duration_secs=5), State.OVER, None, False),
        (replace(OVER, tries=12), call("completed", duration_secs=5), State.DONE, None, True),
        # A number that was busy costs nothing, and nobody waits for hours to hear that.
        (replace(OVER, tries=6), call("busy", duration_secs=0), State.DONE, None, False),
        (replace(OVER, tries=6), call("completed", duration_secs=5), State.OVER, None, False),
        (OVER, None, State.DONE, None, True),
    ],
)
def test_the_price_is_waited_for_with_patience(
    phone_call: PhoneCall,
    asked: CarrierCall | None,
    state: State,
    price: Price | None,
    unpriced: bool,
) -> None:
    step = rules.looked_at(phone_call, asked)
    assert (step.state, step.price, step.unpriced) == (state, price, unpriced)
    assert (step.due_secs is None) is (state is State.DONE)


def test_a_price_may_take_a_day() -> None:
    assert sum(rules.PRICE_PAUSES_SECS) > 86_400
    assert list(rules.PRICE_PAUSES_SECS) == sorted(rules.PRICE_PAUSES_SECS)
