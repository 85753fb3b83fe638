"""Twilio's signature and hanging up, by Twilio's own example and against its stand-in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from flow.errors import Unavailable
from flow.sandbox.faults import Fault
from flow.sandbox.server import Served
from flow.sandbox.twilio.app import AUTH_TOKEN, TwilioSandbox
from flow.sandbox.twilio.rest_api import ACCOUNT_SID
from flow.vendors.twilio import Twilio

# From the tests of Twilio's own libraries.
URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
PARAMETERS = {
    "CallSid": "CA1234567890ABCDE",
    "Digits": "1234",
    "From": "+14158675309",
    "To": "+18005551212",
    "Caller": "+14158675309",
}
SIGNATURE = "RSOYDt4T1cUTdK1PDd93/VVr8B8="
ACCOUNT = Twilio("ACx", SecretStr("12345"), "http://127.0.0.1:9")


def test_twilios_own_example_is_signed_by_twilio() -> None:
    assert ACCOUNT.signed(SIGNATURE, URL, PARAMETERS.items())
    assert ACCOUNT.signed(SIGNATURE, URL, reversed(list(PARAMETERS.items())))
    assert TwilioSandbox(auth_token="12345").signature(URL, PARAMETERS) == SIGNATURE


CHANGES: dict[str, Callable[[], tuple[str, str, dict[str, str]]]] = {
    "no-signature": lambda: ("", URL, PARAMETERS),
    "other-signature": lambda: ("S" + SIGNATURE[1:], URL, PARAMETERS),
    "no-ascii": lambda: ("é", URL, PARAMETERS),
    "plain-http": lambda: (SIGNATURE, URL.replace("https", "http"), PARAMETERS),
    "other-query": lambda: (SIGNATURE, URL + "3", PARAMETERS),
    "other-value": lambda: (SIGNATURE, URL, PARAMETERS | {"Digits": "12345"}),
    "value-less": lambda: (SIGNATURE, URL, {k: v for k, v in PARAMETERS.items() if k != "Digits"}),
    "value-more": lambda: (SIGNATURE, URL, PARAMETERS | {"Z": ""}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_was_changed_is_not_signed(
    change: Callable[[], tuple[str, str, dict[str, str]]],
) -> None:
    signature, url, parameters = change()
    assert not ACCOUNT.signed(signature, url, parameters.items())


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(TEXT, TEXT))
def test_both_sides_sign_alike_whatever_the_parameters(parameters: dict[str, str]) -> None:
    signature = TwilioSandbox(auth_token="12345").signature(URL, parameters)
    assert ACCOUNT.signed(signature, URL, parameters.items())


@asynccontextmanager
async def account(token: str = AUTH_TOKEN) -> AsyncIterator[tuple[Twilio, TwilioSandbox]]:
    stand_in = TwilioSandbox()
    async with Served(stand_in) as url:
        twilio = Twilio(ACCOUNT_SID, SecretStr(token), url, answer_secs=0.5, first_pause_secs=0)
        yield twilio, stand_in
        await twilio.aclose()


async def test_a_call_is_hung_up_and_one_that_is_over_is_left_alone() -> None:
    async with account() as (twilio, stand_in):
        call = stand_in.begin()
        await twilio.hang_up(call.sid)
        assert call.hung_up.is_set()
        call.status = "completed"
        await twilio.hang_up(call.sid)
        await twilio.hang_up(f"CA{'0' * 32}")
    assert [exchange.status for exchange in stand_in.requests] == [200, 400, 404]


@pytest.mark.parametrize(
    ("fault", "attempts"),
    [
        (Fault(kind="status", status=500), 3),
        (Fault(kind="status", status=429), 3),
        (Fault(kind="status", status=403), 1),
        (Fault(kind="drop"), 3),
        (Fault(kind="hang"), 3),
    ],
    ids=lambda value: f"{value.kind}-{value.status}" if isinstance(value, Fault) else None,
)
async def test_what_may_pass_is_tried_again_and_what_will_not_is_said(
    fault: Fault, attempts: int
) -> None:
    async with account() as (twilio, stand_in):
        call = stand_in.begin()
        stand_in.faults.add(fault)
        with pytest.raises(Unavailable):
            await twilio.hang_up(call.sid)
        assert len(stand_in.requests) == attempts
        stand_in.faults.clear()
        stand_in.faults.add(fault.model_copy(update={"times": attempts - 1 or None}))
        if attempts > 1:
            await twilio.hang_up(call.sid)
    assert call.hung_up.is_set() is (attempts > 1)


async def test_a_wrong_token_is_said_and_not_shown() -> None:
    async with account("a-wrong-token") as (twilio, stand_in):
        with pytest.raises(Unavailable) as refusal:
            await twilio.hang_up(stand_in.begin().sid)
    assert "401" in str(refusal.value)
    assert "a-wrong-token" not in str(refusal.value)


@pytest.mark.parametrize("sid", ["", "../Messages", f"CA{'0' * 32}/../x"])
async def test_nothing_but_a_call_can_be_hung_up(sid: str) -> None:
    async with account() as (twilio, stand_in):
        with pytest.raises(ValueError, match="no id"):
            await twilio.hang_up(sid)
    assert list(stand_in.requests) == []
