"""Joins that call somebody: what is refused before anything is made, and what is ordered."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr

from flow.bot.calls.caller_calls import MediaStreamCalls
from flow.bot.transports.twilio import TRANSPORT, TwilioCarrier
from flow.db.telephony import Telephony
from flow.domain.calls.phone_call import State, Voicemail, caller_leg
from flow.errors import DatabaseUnavailable
from flow.sandbox.faults import Fault
from flow.sandbox.twilio.app import AUTH_TOKEN, TwilioSandbox, document_of
from flow.sandbox.twilio.rest_api import TwilioCall
from flow.vendors.twilio import Twilio
from tests.api.conftest import Api, ServeApi

OURS, THEIRS = "+4930111111", "+4930222222"
CALL = {"type": "twilio", "to": THEIRS, "from": OURS}


PUBLIC = "https://flow.example.com"


def streams() -> dict[str, MediaStreamCalls]:
    carrier = TwilioCarrier(Twilio("ACx", SecretStr(AUTH_TOKEN), "http://127.0.0.1:9"))
    nobody: Any = None
    return {"twilio": MediaStreamCalls(TRANSPORT, carrier, nobody, nobody)}


@pytest.fixture
async def api(serve_api: ServeApi) -> Api:
    return await serve_api(streams=streams(), public_url=PUBLIC, dial_prefixes=("+49",))


@pytest.mark.parametrize(
    ("transport", "field", "said"),
    [
        ({**CALL, "to": "030 222222"}, "transport.to", "must begin with + and the country code"),
        ({**CALL, "to": "+882123456789"}, "transport.to", "is in a country or network that"),
        ({**CALL, "from": "+4930999999"}, "transport.from", "is not a number that this key"),
        ({"type": "twilio", "to": THEIRS}, "transport", "needs both to and from"),
        ({**CALL, "type": "websocket"}, "transport.to", "is for twilio, not for websocket"),
        ({**CALL, "voicemail": "leave_message"}, "transport", "go together"),
        ({**CALL, "voicemail_message": "Hello."}, "transport", "go together"),
        ({"type": "twilio", "voicemail": "hang_up"}, "transport", "give to and from"),
        ({**CALL, "ring_secs": 1}, "transport.ring_secs", "greater than or equal to 5"),
    ],
)
async def test_what_is_not_to_be_dialled_is_refused_and_nothing_is_made(
    transport: dict[str, Any], field: str, said: str, api: Api
) -> None:
    answer = await api.client.post("/api/bot/join", json={"transport": transport})
    assert answer.status_code == 422, answer.text
    problems = {one["field"]: one["message"] for one in answer.json()["errors"]}
    assert said in problems[field]
    assert "flow numbers" not in answer.text
    assert (await api.client.get("/api/threads")).json()["threads"] == []


async def test_a_join_orders_its_call_once_however_often_it_is_repeated(api: Api) -> None:
    await api.client.get("/api/limits")
    (owner,) = (await api.database.operating.list_api_keys()).items
    legs = api.database.telephony
    await legs.put_number(OURS, owner.key.id, agent=None, product=None)
    transport = {**CALL, "voicemail": "hang_up", "ring_secs": 20}
    body = {"transport": transport, "max_duration_secs": 600}
    answers = [
        await api.client.post("/api/bot/join", json=body, headers={"Idempotency-Key": "one"})
        for _ in range(2)
    ]
    assert [one.status_code for one in answers] == [201, 200]
    connection = answers[0].json()["connection"]
    assert connection == answers[1].json()["connection"]
    assert (connection["to"], connection["from"]) == (THEIRS, OURS)
    assert "token" not in str(connection)
    thread_id = UUID(answers[0].json()["workflow_thread_id"])
    (leg,) = await legs.of_thread(thread_id)
    assert (leg.id, leg.state) == (caller_leg(thread_id), State.QUEUED)
    assert leg.order is not None
    assert (leg.order.ring_secs, leg.order.voicemail) == (20, Voicemail.HANG_UP)
    told = f"https://flow.example.com/api/telephony/twilio/calls/{leg.id}"
    assert leg.order.status_url == leg.order.machine_url == told
    # Another team's number is nobody else's to call from.
    foreign = await api.other.post("/api/bot/join", json=body)
    assert [one["field"] for one in foreign.json()["errors"]] == ["transport.from"]
    (shown,) = (await api.client.get(f"/api/threads/{thread_id}")).json()["phone"]
    assert (shown["from_number"], shown["to_number"]) == (OURS, THEIRS)


def signed(url: str, call: TwilioCall) -> dict[str, Any]:
    """A request of Twilio's about a call, of the URL that it knows."""
    parameters = call.parameters()
    headers = {"X-Twilio-Signature": TwilioSandbox().signature(url, parameters)}
    return {"url": url.removeprefix(PUBLIC), "data": parameters, "headers": headers}


async def test_a_call_whose_thread_is_over_is_told_so_and_priced_all_the_same(api: Api) -> None:
    await api.client.get("/api/limits")
    (owner,) = (await api.database.operating.list_api_keys()).items
    legs = api.database.telephony
    await legs.put_number(OURS, owner.key.id, agent=None, product=None)
    joined = await api.join({"transport": CALL, "max_duration_secs": 600})
    thread_id = UUID(joined["workflow_thread_id"])
    (leg,) = await legs.of_thread(thread_id)
    await api.client.post(f"/api/bot/{thread_id}/end")
    assert leg.order is not None
    assert leg.order.document_url is not None
    late = TwilioCall(caller=OURS, called=THEIRS)
    for _ in range(2):
        answer = await api.anonymous.post(**signed(leg.order.document_url, late))
        assert [one.tag for one in document_of(answer)] == ["Say", "Hangup"]
    _, stray = await legs.of_thread(thread_id)
    assert (stray.call_id, stray.state) == (late.sid, State.LIVE)


@pytest.mark.parametrize(
    ("now", "heard"),
    [
        ({}, ["Connect"]),
        ({"enabled": False}, ["Say", "Hangup"]),
        ({"expires": 1}, ["Say", "Hangup"]),
        (None, ["Say", "Hangup"]),
        (Fault(kind="status", status=500), ["Connect"]),
    ],
    ids=["good", "disabled", "expired", "gone", "unknown"],
)
async def test_a_number_rings_nobody_once_unkey_would_not_let_its_key_in(
    now: dict[str, Any] | Fault | None, heard: list[str], serve_api: ServeApi
) -> None:
    api = await serve_api(streams=streams(), public_url=PUBLIC, with_unkey_admin=True)
    key = await api.key_of(api.client)
    await api.database.telephony.put_number(OURS, key.id, agent=None, product="voice_bot")
    if now is None:
        api.unkey.remove_key(key.unkey_key_id)
    elif isinstance(now, Fault):
        api.unkey.faults.add(now)
    else:
        for name, value in now.items():
            setattr(api.unkey.key(key.unkey_key_id), name, value)
    url = f"{PUBLIC}/api/telephony/twilio/voice"
    answer = await api.anonymous.post(**signed(url, TwilioCall(called=OURS)))
    assert [one.tag for one in document_of(answer)] == heard


async def test_a_caller_is_told_in_words_that_the_database_is_away(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> None:
        raise DatabaseUnavailable

    monkeypatch.setattr(Telephony, "find_number", away)
    url = f"{PUBLIC}/api/telephony/twilio/voice"
    answer = await api.anonymous.post(**signed(url, TwilioCall(called=OURS)))
    assert [one.tag for one in document_of(answer)] == ["Say", "Hangup"]
