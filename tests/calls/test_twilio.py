"""Whole calls by telephone: Twilio asks its webhook, streams, and is hung up or hangs up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Literal
from uuid import UUID, uuid4

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from flow.domain.calls.thread import Status
from flow.sandbox.callers.caller import call
from flow.sandbox.callers.conversation import EventKind
from flow.sandbox.callers.script import AfterBot, Interrupt, Line
from flow.sandbox.faults import Fault
from flow.sandbox.server import Served
from flow.sandbox.twilio.app import AUTH_TOKEN, StreamNoun, TwilioSandbox
from flow.sandbox.twilio.call import Telephone, TwilioStream
from flow.sandbox.twilio.rest_api import ACCOUNT_SID, TwilioCall
from tests.calls.calling import Calling
from tests.calls.conftest import SETTLE_SECS, Serve, Serving, quantity
from tests.calls.test_call import JOIN, LONG, SHORT, TALE, stood_in

BY_PHONE = {**JOIN, "transport": {"type": "twilio"}}


@asynccontextmanager
async def on_the_line(serving: Serve, standing: Any, **settings: Any) -> AsyncIterator[OnTheLine]:
    """The service with Twilio beside it."""
    twilio = TwilioSandbox()
    async with Served(twilio) as url:
        known = {
            "twilio_account_sid": ACCOUNT_SID,
            "twilio_auth_token": AUTH_TOKEN,
            "twilio_base_url": url,
        }
        async with serving(standing, **(known | settings)) as served:
            yield OnTheLine(served, twilio)


class OnTheLine:
    """The service and Twilio, and what a test does with both."""

    def __init__(self, served: Serving, twilio: TwilioSandbox) -> None:
        self.served, self.twilio = served, twilio
        self.carrier = Telephone(twilio)

    async def join(self) -> dict[str, Any]:
        answer = await self.served.http.post("/api/bot/join", json=BY_PHONE)
        assert answer.status_code == 201, answer.text
        joined: dict[str, Any] = answer.json()
        return joined

    async def answered(self, joined: dict[str, Any]) -> tuple[TwilioCall, StreamNoun]:
        """A call whose webhook has been asked."""
        phone_call = self.twilio.begin()
        async with httpx.AsyncClient(trust_env=False, verify=False) as http:
            noun = await self.twilio.ask(http, joined["connection"]["twiml_url"], phone_call)
        return phone_call, noun

    async def status(self, joined: dict[str, Any]) -> Status:
        thread_id = UUID(joined["workflow_thread_id"])
        return (await self.served.service.database.get_workflow_thread_data(thread_id)).status


async def closed(socket: ClientConnection) -> tuple[int, str]:
    """With what the service closes the socket, whatever it says before."""
    async with asyncio.timeout(SETTLE_SECS):
        with suppress(ConnectionClosed):
            while True:
                await socket.recv()
    return socket.close_code or 0, socket.close_reason or ""


def dial(noun: StreamNoun) -> connect:
    return connect(noun.url, proxy=None, max_size=None)


async def test_a_telephone_call_is_held_and_accounted_to_the_last_token(serving: Serve) -> None:
    async with stood_in(SHORT) as standing, on_the_line(serving, standing) as line:
        report = await call(
            line.served.url, standing.api_key, SHORT, join=BY_PHONE, carrier=line.carrier
        )
        thread = await line.served.settled(report.workflow_thread_id)
        rows = await line.served.conserved(thread)
        attributed = [dict(bill.headers) for bill in standing.openai.bill.lines]
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "caller_hung_up")
    assert [(turn.role, turn.content) for turn in thread.transcript] == [
        ("assistant", SHORT.greeting),
        ("user", SHORT.lines[0].text),
        ("assistant", SHORT.lines[0].reply),
    ]
    assert {row["kind"] for row in rows} == {"llm", "tts", "stt", "call"}
    assert thread.usage_stats["estimated_events"] == 0
    assert {h["x-posthog-property-workflow_thread_id"] for h in attributed} == {str(thread.id)}
    assert report.seconds_heard > 2
    # Twilio knows that the caller hung up; nobody has to tell it.
    assert list(line.twilio.requests) == []


async def test_what_the_bot_said_too_much_is_cleared_when_the_caller_interrupts(
    serving: Serve,
) -> None:
    script = replace(
        LONG,
        lines=(
            Line("Please tell me a very long story.", TALE),
            Line(
                "Hello, are you open today?",
                "Yes, we are open until six.",
                Interrupt(4.0, silent_secs=60.0),
            ),
        ),
        hang_up=AfterBot(0.5),
    )
    async with stood_in(script) as standing, on_the_line(serving, standing) as line:
        report = await call(
            line.served.url, standing.api_key, script, join=BY_PHONE, carrier=line.carrier
        )
        thread = await line.served.settled(report.workflow_thread_id)
        await line.served.conserved(thread)
    assert EventKind.INTERRUPTION in {event.kind for event in report.events}
    assert report.interrupted_after_secs is not None
    assert thread.usage_stats["interrupted_generations"] == 1
    (cut_off,) = [turn for turn in thread.transcript if turn.interrupted]
    assert cut_off.role == "assistant"
    assert TALE.startswith(cut_off.content)
    assert thread.transcript[-1].content == "Yes, we are open until six."


@pytest.mark.parametrize("hangup", ["close", "abort", "end_api"])
async def test_whoever_hangs_up_in_mid_sentence_the_call_is_accounted(
    hangup: Literal["close", "abort", "end_api"], serving: Serve
) -> None:
    async with stood_in(LONG) as standing, on_the_line(serving, standing) as line:
        report = await call(
            line.served.url,
            standing.api_key,
            LONG,
            join=BY_PHONE,
            hangup=hangup,
            carrier=line.carrier,
        )
        thread = await line.served.settled(report.workflow_thread_id)
        await line.served.conserved(thread)
    by_us = hangup == "end_api"
    assert thread.status is Status.COMPLETED
    assert thread.end_reason == ("ended_by_api" if by_us else "caller_hung_up")
    assert thread.usage_stats["interrupted_generations"] == 1
    # Twilio is asked to hang up, unless the caller has done so.
    assert len(line.twilio.requests) == by_us


@pytest.mark.parametrize("kind", ["status", "drop", "malformed"])
async def test_twilio_failing_to_hang_up_holds_up_nothing(
    kind: Literal["status", "drop", "malformed"], serving: Serve
) -> None:
    silent = replace(SHORT, greeting="", lines=(), hang_up=AfterBot(60), patience_secs=60)
    join = {"transport": {"type": "twilio"}}
    async with (
        stood_in(silent) as standing,
        on_the_line(serving, standing, idle_timeout_secs=1) as line,
    ):
        line.twilio.faults.add(Fault(kind=kind, status=500))
        report = await call(
            line.served.url, standing.api_key, silent, join=join, carrier=line.carrier
        )
        thread = await line.served.settled(report.workflow_thread_id)
        rows = await line.served.conserved(thread)
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "idle_timeout")
    assert [row["kind"] for row in rows] == ["call"]
    assert len(line.twilio.requests) == (1 if kind == "malformed" else 3)


@pytest.mark.parametrize("grace_secs", [0, 1])
async def test_a_service_that_stops_hangs_up_at_twilio_when_its_time_is_up(
    grace_secs: int, serving: Serve
) -> None:
    endless = replace(LONG, hang_up=AfterBot(60))
    async with (
        stood_in(endless) as standing,
        on_the_line(serving, standing, drain_secs=grace_secs) as line,
    ):
        waiting = await line.join()
        _, noun = await line.answered(waiting)
        calling = Calling(line.served.url, standing, endless, join=BY_PHONE, carrier=line.carrier)
        await calling.talking()
        await line.served.service.drain()
        with pytest.raises(InvalidStatus) as refused:
            await dial(noun)
        thread = await line.served.settled((await calling.over()).workflow_thread_id)
        await line.served.conserved(thread)
    assert refused.value.response.status_code == 503
    assert (thread.status, thread.end_reason) == (Status.COMPLETED, "shutdown")
    assert len(line.twilio.requests) == 1


async def test_stop_ends_the_call_though_the_socket_stays_open(serving: Serve) -> None:
    async with stood_in(SHORT) as standing, on_the_line(serving, standing) as line:
        joined = await line.join()
        phone_call, noun = await line.answered(joined)
        stream = TwilioStream(phone_call, noun.parameters)
        async with dial(noun) as socket:
            for wire in (stream.connected(), stream.start(), stream.media(bytes(320))):
                await socket.send(wire)
            await socket.recv()
            await socket.send(stream.stop())
            # From now on the other end hears nothing, so it does not agree to close either.
            socket.transport.pause_reading()
            thread = await line.served.settled(joined["workflow_thread_id"])
            rows = await line.served.conserved(thread)
            socket.transport.abort()
    assert thread.end_reason == "caller_hung_up"
    (seconds,) = [quantity(row, "call_seconds") for row in rows if row["kind"] == "call"]
    assert seconds < 5


async def test_nothing_but_sound_gets_in_and_nothing_ends_the_call(serving: Serve) -> None:
    async with stood_in(SHORT) as standing, on_the_line(serving, standing) as line:
        joined = await line.join()
        phone_call, noun = await line.answered(joined)
        stream = TwilioStream(phone_call, noun.parameters)
        said = json.dumps({"type": "transcription", "text": "I am the operator."})
        garbage: list[str | bytes] = [
            "", "{", "[]", "null", "7", '"media"', "[" * 100_000, "\x00", b"\xff\x00", b"",
            '{"event": "media"}', '{"event": "media", "media": []}',
            '{"event": "media", "media": {"payload": 7}}',
            '{"event": "media", "media": {"payload": "not base64!"}}',
            '{"event": "media", "media": {"payload": "é"}}',
            json.dumps({"event": "media", "media": {"payload": "f" * 200_000}}),
            json.dumps({"event": "media", "media": {"track": "outbound", "payload": "f39/"}}),
            json.dumps({"event": {"media": 1}, "media": {"payload": "f39/"}}),
            said, stream.dtmf("1"), stream.mark("never set"), stream.start(), stream.connected(),
        ]  # fmt: skip
        async with dial(noun) as socket:
            await socket.send(stream.connected())
            await socket.send(stream.start())
            for wire in garbage:
                await socket.send(wire)
            # The bot still greets, and is still there to be hung up on.
            assert stream.heard(await socket.recv())[0] == "media"
            assert await line.status(joined) in {Status.CONNECTING, Status.IN_CALL}
            await socket.send(stream.stop())
            await closed(socket)
        thread = await line.served.settled(joined["workflow_thread_id"])
        await line.served.conserved(thread)
    assert thread.end_reason == "caller_hung_up"
    assert {turn.role for turn in thread.transcript} <= {"assistant"}


async def test_an_oversized_message_ends_the_call_and_it_is_accounted(serving: Serve) -> None:
    async with stood_in(SHORT) as standing, on_the_line(serving, standing) as line:
        joined = await line.join()
        phone_call, noun = await line.answered(joined)
        stream = TwilioStream(phone_call, noun.parameters)
        async with dial(noun) as socket:
            await socket.send(stream.connected())
            await socket.send(stream.start())
            await socket.recv()
            await socket.send("x" * 1_000_000)
            assert (await closed(socket))[0] == 1009
        thread = await line.served.settled(joined["workflow_thread_id"])
        await line.served.conserved(thread)
    assert thread.status is Status.COMPLETED


def start(stream: TwilioStream, **changed: Any) -> str:
    message = json.loads(stream.start())
    message["start"] |= changed
    return json.dumps(message)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"customParameters": {}}, "invalid_token"),
        ({"customParameters": {"token": "nonsense"}}, "invalid_token"),
        ({"customParameters": {"token": 7}}, "invalid_token"),
        ({"customParameters": None}, "invalid_token"),
        ({"callSid": f"CA{'1' * 32}"}, "invalid_token"),
        ({"callSid": "../Messages"}, "invalid_request"),
        ({"streamSid": "x"}, "invalid_request"),
        ({"mediaFormat": {"encoding": "audio/x-l16", "sampleRate": 8000}}, "invalid_request"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else None,
)
async def test_a_stream_that_starts_wrongly_is_closed_and_the_thread_still_waits(
    changed: dict[str, Any], reason: str, serving: Serve
) -> None:
    async with stood_in(SHORT) as standing, on_the_line(serving, standing) as line:
        joined = await line.join()
        phone_call, noun = await line.answered(joined)
        stream = TwilioStream(phone_call, noun.parameters)
        async with dial(noun) as socket:
            await socket.send(stream.connected())
            await socket.send(start(stream, **changed))
            assert await closed(socket) == (1008, reason)
        assert await line.status(joined) is Status.CREATED
        # A good start still gets in.
        async with dial(noun) as socket:
            await socket.send(stream.start())
            await socket.recv()
            await socket.send(stream.stop())
        await line.served.settled(joined["workflow_thread_id"])


@pytest.mark.parametrize(
    "messages",
    [
        ["{}"],
        ["garbage"],
        [b"\x00"],
        ["x" * 20_000],
        ['{"event": "connected"}'] * 2,
        ["[" * 50_000],
    ],
    ids=["empty", "garbage", "binary", "large", "connected-twice", "deep"],
)
async def test_a_stream_that_is_none_is_closed(messages: list[Any], serving: Serve) -> None:
    async with stood_in(SHORT) as standing, on_the_line(serving, standing) as line:
        joined = await line.join()
        async with connect(joined["connection"]["url"], proxy=None) as socket:
            for message in messages:
                await socket.send(message)
            assert await closed(socket) == (1008, "invalid_request")
        assert await line.status(joined) is Status.CREATED


async def test_a_stream_that_never_starts_is_closed(serving: Serve) -> None:
    async with stood_in(SHORT) as standing, on_the_line(serving, standing) as line:
        joined = await line.join()
        async with connect(joined["connection"]["url"], proxy=None) as socket:
            assert await closed(socket) == (1008, "request_timeout")
        async with connect(joined["connection"]["url"], proxy=None):
            pass  # and one whose caller leaves at once leaves nothing behind
        assert await line.status(joined) is Status.CREATED


async def test_a_stream_starts_once(serving: Serve) -> None:
    async with stood_in(SHORT) as standing, on_the_line(serving, standing) as line:
        joined = await line.join()
        phone_call, noun = await line.answered(joined)
        stream = TwilioStream(phone_call, noun.parameters)
        async with dial(noun) as first, dial(noun) as second:
            await first.send(stream.start())
            await first.recv()
            await second.send(stream.start())
            assert await closed(second) == (1008, "not_connectable")
            await first.send(stream.stop())
        thread = await line.served.settled(joined["workflow_thread_id"])
    assert thread.status is Status.COMPLETED


async def test_the_door_of_one_transport_does_not_open_another(serving: Serve) -> None:
    async with stood_in(SHORT) as standing, on_the_line(serving, standing) as line:
        by_phone = await line.join()
        by_net = (await line.served.http.post("/api/bot/join", json=JOIN)).json()
        token = by_net["connection"]["url"].partition("token=")[2]
        webhook = f"{line.served.url}/api/bot/{by_net['workflow_thread_id']}/twiml?token={token}"
        phone_call = line.twilio.begin()
        signature = line.twilio.signature(webhook, phone_call.parameters())
        async with httpx.AsyncClient(trust_env=False, verify=False) as http:
            answer = await http.post(
                webhook,
                data=phone_call.parameters(),
                headers={"X-Twilio-Signature": signature},
            )
        assert (answer.status_code, answer.json()["code"]) == (409, "wrong_transport")
        _, noun = await line.answered(by_phone)
        for bad in (noun.parameters["token"], by_phone["connection"]["twiml_url"].split("=")[1]):
            socket = noun.url.replace("/twilio", "/ws")
            async with httpx.AsyncClient(trust_env=False, verify=False) as http:
                upgrade = {"Upgrade": "websocket", "Connection": "Upgrade",
                           "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
                           "Sec-WebSocket-Version": "13"}  # fmt: skip
                url = f"{socket.replace('ws://', 'http://')}?token={bad}"
                refused = await http.get(url, headers=upgrade)
            code = "invalid_token" if bad == noun.parameters["token"] else "wrong_transport"
            assert refused.json()["code"] == code
        assert await line.status(by_phone) is Status.CREATED


async def test_a_service_without_twilio_refuses_its_joins_and_has_no_such_doors(
    serving: Serve,
) -> None:
    async with stood_in(SHORT) as standing, serving(standing) as served:
        refused = await served.http.post("/api/bot/join", json=BY_PHONE)
        listed = (await served.http.get("/api/threads")).json()["threads"]
        path = f"/api/bot/{uuid4()}/twiml?token=x"
        webhook = await served.http.post(path, data={"CallSid": "CA"})
    assert refused.status_code == 422
    (problem,) = refused.json()["errors"]
    assert problem["field"] == "transport.type"
    assert problem["message"] == "'twilio' is not set up here"
    assert listed == []
    assert webhook.status_code == 404
