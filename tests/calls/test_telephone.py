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

from flow.admin.numbers import put_number
from flow.bot.calls.phone_line import CarrierLines as Lines
from flow.bot.calls.phone_line import PhoneLine
from flow.bot.tools.tool import ToolFailed
from flow.bot.transports.twilio import conference
from flow.domain.calls.phone_call import State, caller_leg
from flow.domain.calls.thread import Status, Thread
from flow.domain.usage.events import Cost, Kind, Owner, Provenance, Quantities, UsageEvent
from flow.sandbox.callers.caller import call
from flow.sandbox.faults import Fault
from flow.sandbox.server import Served
from flow.sandbox.twilio.app import AUTH_TOKEN, TwilioSandbox, document_of, stream_noun
from flow.sandbox.twilio.call import CalledParty, TwilioStream
from flow.sandbox.twilio.rest_api import ACCOUNT_SID, TwilioCall
from flow.vendors.twilio import Twilio
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
        async with asyncio.timeout(SETTLE_SECS), httpx.AsyncClient(trust_env=False) as http:
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
        thread = await line.served.settled(joined["workflow_thread_id"])
        legs, leg_id = line.served.service.database.telephony, caller_leg(thread.id)
        # Its thread is over: whoever looks at the call now must not cut the message off.
        await legs.note(leg_id, due_secs=0)
        async with asyncio.timeout(SETTLE_SECS):
            while (leg := await legs.get(leg_id)) and leg.state is State.LIVE and not leg.tries:
                await asyncio.sleep(0.1)
        left_talking = phone_call.status == "in-progress"
        phone_call.end(seconds=9)
        (row,) = await line.priced(joined["workflow_thread_id"])
    assert phone_call.first("MachineDetection") == detection
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "voicemail")
    assert Decimal(row["total_cost_usd"]) == phone_call.bill
    if "voicemail_message" in voicemail:
        (document,) = phone_call.documents
        assert left_talking
        assert "<Say>Please call us &amp; ask for Ada.</Say><Hangup />" in document
    else:
        assert not left_talking
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


async def ring(line: Exchange, called: str = OURS) -> tuple[TwilioCall, httpx.Response]:
    """Somebody calls a number; what the service says to it."""
    phone_call = line.twilio.begin(caller=THEIRS, called=called, status="ringing")
    return phone_call, await ask_again(line, phone_call)


async def ask_again(line: Exchange, phone_call: TwilioCall) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        url = f"{line.served.url}/api/telephony/twilio/voice"
        return await line.twilio.post(http, url, phone_call.parameters())


async def test_a_number_rings_its_agent_who_passes_the_caller_on(serving: Serve) -> None:
    """Over the raw stream: what is to be seen is the line, not the conversation."""
    target = "+4930333333"
    twilio = TwilioSandbox(outcomes={target: "busy"})
    async with stood_in(SHORT) as standing, exchange(serving, standing, twilio) as line:
        database = line.served.service.database
        made = await line.served.http.post(
            "/api/agents",
            json={
                "name": "desk",
                "bot": {
                    "greeting": "Hello {{flow.caller_number}}!",
                    "tools": [{"type": "transfer_call", "targets": {"sales": target}}],
                },
            },
        )
        assert made.status_code == 201, made.text
        key = await key_of(line.served.http, database)
        await put_number(database, OURS, str(key), agent="desk", product=None)
        phone_call, answer = await ring(line)
        noun = stream_noun(answer)
        # Twilio may ask twice about a call.
        assert stream_noun(await ask_again(line, phone_call)).url == noun.url
        (listed,) = (await line.served.http.get("/api/threads")).json()["threads"]
        thread_id = listed["workflow_thread_id"]
        stream = TwilioStream(phone_call, noun.parameters)
        phone_call.status = "in-progress"
        async with dial(noun) as socket:
            await socket.send(stream.start())
            await socket.recv()
            thread = await line.thread(thread_id)
            shared = Lines("twilio", twilio_of(line), database.telephony, conference, ("+49",), 0.1)
            phone_line = PhoneLine(shared, thread, phone_call.sid, lambda: None)
            with pytest.raises(ToolFailed, match=r"busy\. The caller is still with you"):
                await phone_line.transfer(target)
            with pytest.raises(ToolFailed, match="not allowed"):
                await phone_line.transfer("+882123456789")
            assert phone_call.documents == []
            twilio.outcomes[target] = "in-progress"
            # An answer that is lost is no call that is lost: Twilio has it, in whole seconds.
            twilio.faults.add(Fault(kind="cut", route="POST *Calls.json", times=1))
            await phone_line.transfer(target, "Ada calls about an <order>.")
            # The caller's stream ends with that.
            await socket.send(stream.stop())
            await closed(socket)
        thread = await line.served.settled(thread_id)
        for one in twilio.calls.values():
            one.end(seconds=70)
        rows = await line.priced(thread_id)
        shown = (await line.served.http.get(f"/api/threads/{thread_id}")).json()
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "transferred")
    assert thread.join.bot.greeting == f"Hello {THEIRS}!"
    target_leg = [c for c in twilio.calls.values() if c.called == target][-1]
    assert "&lt;order&gt;." in target_leg.documents[0]
    room = target_leg.documents[0].partition("flow-")[2].partition("<")[0]
    assert room
    assert room in phone_call.documents[0]
    assert target_leg.caller == OURS
    assert {row["model"] for row in rows} == {"inbound", "transfer"}
    billed = [c.bill for c in twilio.calls.values() if c.bill is not None]
    assert sum(Decimal(row["total_cost_usd"]) for row in rows) == sum(billed)
    caller, *others = shown["phone"]
    assert (caller["from_number"], caller["to_number"]) == (THEIRS, OURS)
    assert caller["direction"] == "inbound"
    assert [one["status"] for one in others] == ["busy", "completed"]


async def test_a_caller_is_told_in_the_bots_language_when_the_budget_is_used_up(
    serving: Serve,
) -> None:
    async with stood_in(SHORT) as standing, exchange(serving, standing) as line:
        database = line.served.service.database
        await line.served.http.post(
            "/api/agents", json={"name": "desk", "bot": {"language": "de", "greeting": "Hallo!"}}
        )
        key = await key_of(line.served.http, database)
        await put_number(database, OURS, str(key), agent="desk", product=None)
        await database.operating.set_budget(key, Decimal("0.000001"))
        account = await database.operating.get_api_key(str(key))
        event = UsageEvent(
            Owner(None, key, account.key.team_id, "gateway", True),
            Kind.LLM, "gateway", "openai", "m", Quantities(input_tokens=1),
            Provenance.REPORTED, cost=Cost(input_tokens=Decimal(1)),
        )  # fmt: skip
        await database.record_usage([event])
        _, refused = await ring(line)
        _, unknown = await ring(line, "+4930999999")
        async with httpx.AsyncClient(trust_env=False) as http:
            url = f"{line.served.url}/api/telephony/twilio/voice"
            forged = await http.post(url, data=TwilioCall().parameters())
        threads = (await line.served.http.get("/api/threads")).json()["threads"]
    say, hangup = document_of(refused)
    assert (say.get("language"), hangup.tag) == ("de-DE", "Hangup")
    assert "nicht annehmen" in str(say.text)
    assert "not in service" in str(document_of(unknown)[0].text)
    assert (forged.status_code, forged.json()["code"]) == (403, "invalid_signature")
    assert threads == []


def twilio_of(line: Exchange) -> Twilio:
    calls = line.served.service.app.state.services.transports.streams["twilio"]
    assert isinstance(calls.dialler, Twilio)
    return calls.dialler
