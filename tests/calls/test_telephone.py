"""Whole telephone calls beyond the stream: placed, answered by machines, come in, and priced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import pytest

from flow.domain.calls.phone_call import State, caller_leg
from flow.domain.calls.thread import Status, Thread
from flow.sandbox.callers.caller import call
from flow.sandbox.faults import Fault
from flow.sandbox.server import Served
from flow.sandbox.twilio.app import AUTH_TOKEN, TwilioSandbox
from flow.sandbox.twilio.call import CalledParty, TwilioStream
from flow.sandbox.twilio.rest_api import ACCOUNT_SID
from tests.calls.conftest import SETTLE_SECS, Serve, Serving, key_of
from tests.calls.test_call import JOIN, SHORT, stood_in
from tests.calls.test_twilio import closed, dial

OURS, THEIRS = "+4930111111", "+4930222222"
CALL_THEM = {"type": "twilio", "to": THEIRS, "from": OURS}
NOBODY = {**JOIN, "transport": CALL_THEM}


@dataclass
class Exchange:
    """The service, and Twilio beside it."""

    served: Serving
    twilio: TwilioSandbox

    async def join(self, **transport: Any) -> dict[str, Any]:
        body = {**JOIN, "transport": CALL_THEM | transport}
        answer = await self.served.http.post("/api/bot/join", json=body)
        assert answer.status_code == 201, answer.text
        joined: dict[str, Any] = answer.json()
        return joined

    async def priced(self, thread_id: str) -> list[dict[str, Any]]:
        """The thread's rows of telephony, once its legs are done."""
        database = self.served.service.database
        async with asyncio.timeout(SETTLE_SECS):
            while True:
                legs = await database.telephony.of_thread(UUID(thread_id))
                if legs and all(leg.state is State.DONE for leg in legs):
                    break
                for leg in legs:  # nobody waits for minutes here
                    await database.telephony.note(leg.id, due_secs=0)
                await asyncio.sleep(0.1)
        rows = await database.get_thread_usage(UUID(thread_id))
        return [row for row in rows if row["kind"] == "telephony"]

    async def thread(self, thread_id: str) -> Thread:
        return await self.served.service.database.get_workflow_thread_data(UUID(thread_id))


@asynccontextmanager
async def exchange(
    serving: Serve, standing: Any, twilio: TwilioSandbox | None = None, **settings: Any
) -> AsyncIterator[Exchange]:
    """The service with Twilio beside it, and one number, which the customer may call from."""
    twilio = twilio or TwilioSandbox()
    async with Served(twilio) as url:
        known = {
            "twilio_account_sid": ACCOUNT_SID,
            "twilio_auth_token": AUTH_TOKEN,
            "twilio_base_url": url,
            "dial_prefixes": ("+49",),
        }
        async with serving(standing, **(known | settings)) as served:
            database = served.service.database
            key = await key_of(served.http, database)
            await database.telephony.put_number(OURS, key, agent=None, product="voice_bot")
            yield Exchange(served, twilio)


async def test_a_call_that_is_placed_is_held_and_its_price_comes_later(serving: Serve) -> None:
    async with stood_in(SHORT) as standing, exchange(serving, standing) as line:
        report = await call(
            line.served.url,
            standing.api_key,
            SHORT,
            join={**JOIN, "transport": CALL_THEM},
            carrier=CalledParty(line.twilio),
        )
        completed = await line.served.settled(report.workflow_thread_id)
        (row,) = await line.priced(report.workflow_thread_id)
        again = await line.priced(report.workflow_thread_id)
        thread = await line.thread(report.workflow_thread_id)
        await line.served.conserved(thread)
    (at_twilio,) = line.twilio.calls.values()
    assert (completed.status, completed.end_reason) == (Status.COMPLETED, "caller_hung_up")
    assert [turn.content for turn in thread.transcript][1] == SHORT.lines[0].text
    assert (at_twilio.caller, at_twilio.called) == (OURS, THEIRS)
    assert Decimal(row["total_cost_usd"]) == at_twilio.bill == Decimal("0.028")
    assert (row["provenance"], row["provider"], row["model"]) == ("reported", "twilio", "outbound")
    assert [row] == again
    assert Decimal(thread.usage_stats["cost_breakdown_usd"]["telephony"]) == at_twilio.bill


@pytest.mark.parametrize(
    ("voicemail", "detection", "answered_by"),
    [
        ({"voicemail": "hang_up"}, "Enable", "machine_start"),
        (
            {"voicemail": "leave_message", "voicemail_message": "Please call us & ask for Ada."},
            "DetectMessageEnd",
            "machine_end_beep",
        ),
    ],
    ids=["hang-up", "leave-message"],
)
async def test_a_machine_that_answers_is_dealt_with_as_the_join_says(
    voicemail: dict[str, str], detection: str, answered_by: str, serving: Serve
) -> None:
    async with stood_in(SHORT) as standing, exchange(serving, standing) as line:
        joined = await line.join(**voicemail)
        async with asyncio.timeout(20), httpx.AsyncClient(trust_env=False) as http:
            phone_call = await line.twilio.placed()
            noun = await line.twilio.answer(http, phone_call, None)
            stream = TwilioStream(phone_call, noun.parameters)
            async with dial(noun) as socket:
                await socket.send(stream.start())
                await socket.recv()
                told = {"CallSid": phone_call.sid, "AnsweredBy": answered_by}
                url = phone_call.first("AsyncAmdStatusCallback")
                assert url is not None
                assert (await line.twilio.post(http, url, told)).status_code == 204
                assert phone_call.hung_up.is_set()
                await socket.send(stream.stop())
                await closed(socket)
            phone_call.end(seconds=9)
        thread = await line.served.settled(joined["workflow_thread_id"])
        (row,) = await line.priced(joined["workflow_thread_id"])
    assert phone_call.first("MachineDetection") == detection
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "voicemail")
    assert Decimal(row["total_cost_usd"]) == phone_call.bill
    if "voicemail_message" in voicemail:
        (document,) = phone_call.documents
        assert "<Say>Please call us &amp; ask for Ada.</Say><Hangup />" in document
    else:
        assert phone_call.documents == []


async def test_whoever_is_not_reached_ends_the_thread_and_costs_nothing(serving: Serve) -> None:
    twilio = TwilioSandbox(outcomes={THEIRS: "busy"})
    async with stood_in(SHORT) as standing, exchange(serving, standing, twilio) as line:
        joined = await line.join()
        async with asyncio.timeout(SETTLE_SECS):
            while not twilio.calls:  # placed; Twilio says nothing of it by itself
                await asyncio.sleep(0.1)
        rows = await line.priced(joined["workflow_thread_id"])
        thread = await line.served.settled(joined["workflow_thread_id"])
    assert (thread.status, thread.end_reason) == (Status.FAILED, "busy")
    assert thread.error == {"code": "busy", "message": "the line is busy"}
    assert rows == []


async def test_twilio_refusing_a_number_is_told_in_its_words(serving: Serve) -> None:
    said = (21216, "Account not allowed to call +4930222222.")
    twilio = TwilioSandbox(refused={THEIRS: said})
    async with stood_in(SHORT) as standing, exchange(serving, standing, twilio) as line:
        joined = await line.join()
        thread = await line.served.settled(joined["workflow_thread_id"])
    assert (thread.status, thread.end_reason) == (Status.FAILED, "dial_failed")
    assert thread.error == {"code": "dial_failed", "message": f"{said[1]} (Twilio {said[0]})"}
    assert twilio.calls == {}


async def test_an_answer_that_is_lost_makes_no_second_call(serving: Serve) -> None:
    async with stood_in(SHORT) as standing, exchange(serving, standing) as line:
        line.twilio.faults.add(Fault(kind="cut", route="POST *Calls.json", times=1))
        joined = await line.join()
        leg_id = caller_leg(UUID(joined["workflow_thread_id"]))
        legs = line.served.service.database.telephony
        async with asyncio.timeout(SETTLE_SECS):
            while (leg := await legs.get(leg_id)) is None or leg.state is not State.LIVE:
                await legs.note(leg_id, due_secs=0)
                await asyncio.sleep(0.1)
        # Whoever cancels has the callee's phone stop ringing.
        await line.served.http.post(f"/api/bot/{joined['workflow_thread_id']}/end")
        await line.priced(joined["workflow_thread_id"])
    (phone_call,) = line.twilio.calls.values()
    assert leg.call_id == phone_call.sid
    assert phone_call.status == "canceled"
    posted = [one for one in line.twilio.requests if one.method == "POST"]
    assert len([one for one in posted if one.path.endswith("Calls.json")]) == 1
