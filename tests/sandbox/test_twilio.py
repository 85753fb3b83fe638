"""The stand-in's telephone line: its sound, its marks, and what it will not take."""

from __future__ import annotations

import asyncio
import audioop
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from flow.errors import InvalidInput
from flow.sandbox.callers import mulaw
from flow.sandbox.callers.conversation import CallerEvent, Conversation, EventKind
from flow.sandbox.callers.script import SUPPORT_CALL, AfterBot, Script
from flow.sandbox.server import Served
from flow.sandbox.twilio.app import AUTH_TOKEN, TwilioSandbox, stream_noun
from flow.sandbox.twilio.call import CHUNK_BYTES, SAMPLE_RATE, TwilioPhone, TwilioStream
from flow.sandbox.twilio.rest_api import ACCOUNT_SID, TwilioCall

SILENT = Script("", "", (), SUPPORT_CALL.insights, AfterBot(60), patience_secs=60)
SOUND = b64encode(mulaw.encode(b"\x00\x20" * SAMPLE_RATE)).decode()
ENDED = {"Status": "completed"}
Service = Callable[[ServerConnection, str], Awaitable[None]]


def test_mulaw_is_that_of_the_telephone() -> None:
    codes = bytes(range(256))
    assert mulaw.decode(codes) == audioop.ulaw2lin(codes, 2)
    samples = np.arange(-32_768, 32_768, 7, dtype="<i2")
    ours = np.frombuffer(mulaw.decode(mulaw.encode(samples.tobytes())), "<i2").astype(int)
    theirs = audioop.ulaw2lin(audioop.lin2ulaw(samples.tobytes(), 2), 2)
    error = np.abs(ours - samples)
    assert (error <= np.abs(np.frombuffer(theirs, "<i2").astype(int) - samples) + 4).all()


@asynccontextmanager
async def phone(
    service: Service, call: TwilioCall | None = None
) -> AsyncIterator[tuple[TwilioPhone, list[CallerEvent]]]:
    """A phone off the hook, and ``service`` at the other end with the stream's id."""
    events: list[CallerEvent] = []
    conversation = Conversation(
        SILENT, {}, sample_rate=SAMPLE_RATE, chunk_bytes=CHUNK_BYTES, on_event=events.append
    )

    async def answer(socket: ServerConnection) -> None:
        assert json.loads(await socket.recv())["event"] == "connected"
        start = json.loads(await socket.recv())
        assert start["event"] == "start"
        await service(socket, start["streamSid"])

    call = call or TwilioCall()
    async with (
        serve(answer, "127.0.0.1", 0) as server,
        connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", proxy=None) as socket,
        TwilioPhone(
            socket, TwilioStream(call, {}), conversation, events.append, call.hung_up
        ) as ours,
    ):
        yield ours, events


def say(sid: str, event: str, **told: Any) -> str:
    return json.dumps({"event": event, "streamSid": sid, **told})


async def until_mark(socket: ServerConnection) -> tuple[str, int]:
    """The next mark, and how many chunks of the caller's came before it."""
    chunks = 0
    async for wire in socket:
        message = json.loads(wire)
        if message["event"] == "mark":
            return message["mark"]["name"], chunks
        chunks += message["event"] == "media"
    raise AssertionError("the stream ended")


async def test_a_mark_comes_back_when_what_was_before_it_has_sounded() -> None:
    found: list[tuple[str, int]] = []

    async def service(socket: ServerConnection, sid: str) -> None:
        await socket.send(say(sid, "media", media={"payload": SOUND}))
        await socket.send(say(sid, "mark", mark={"name": "said"}))
        found.append(await until_mark(socket))

    async with asyncio.timeout(20), phone(service) as (ours, _):
        await ours.talk()
    # A second of sound is 50 chunks of the microphone's.
    assert found[0][0] == "said"
    assert found[0][1] >= 45


async def test_clear_throws_away_what_has_not_sounded_and_sends_its_marks_back_at_once() -> None:
    found: list[tuple[str, int]] = []

    async def service(socket: ServerConnection, sid: str) -> None:
        for _ in range(60):
            await socket.send(say(sid, "media", media={"payload": SOUND}))
        await socket.send(say(sid, "mark", mark={"name": "said"}))
        await socket.send(say(sid, "clear"))
        found.append(await until_mark(socket))

    async with asyncio.timeout(20), phone(service) as (ours, events):
        await ours.talk()
    assert found[0][0] == "said"
    assert EventKind.INTERRUPTION in {event.kind for event in events}


@pytest.mark.parametrize(
    "message",
    [
        "garbage",
        "[]",
        b"\x00",
        say("MZ", "media", media={"payload": SOUND}),
        say("SID", "media", media={"payload": "no base64!"}),
        say("SID", "media"),
        say("SID", "dance"),
    ],
    ids=["garbage", "list", "binary", "other-stream", "no-base64", "no-sound", "unknown"],
)
async def test_what_twilio_would_not_take_is_an_error(message: str | bytes) -> None:
    async def service(socket: ServerConnection, sid: str) -> None:
        wire = message.replace("SID", sid) if isinstance(message, str) else message
        await socket.send(wire)
        await socket.wait_closed()

    async with asyncio.timeout(20), phone(service) as (ours, _):
        await ours.talk()
        with pytest.raises(InvalidInput):
            await ours.ended()


async def test_a_call_that_is_hung_up_at_twilio_ends_with_a_stop() -> None:
    said: list[str] = []

    async def service(socket: ServerConnection, sid: str) -> None:
        said.extend([json.loads(wire)["event"] async for wire in socket])

    twilio = TwilioSandbox()
    async with Served(twilio) as url, httpx.AsyncClient(trust_env=False) as http:
        call = twilio.begin()
        path = f"{url}/2010-04-01/Accounts/{ACCOUNT_SID}/Calls/{call.sid}.json"
        async with asyncio.timeout(20), phone(service, call) as (ours, _):
            answer = await http.post(path, data=ENDED, auth=(ACCOUNT_SID, AUTH_TOKEN))
            assert answer.json()["sid"] == call.sid
            await ours.talk()
            await ours.ended()
    assert said[-1] == "stop"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"data": ENDED}, 401),
        ({"data": ENDED, "auth": (ACCOUNT_SID, "wrong")}, 401),
        ({"data": ENDED, "headers": {"Authorization": "Basic x"}}, 401),
        ({"data": {"Status": "busy"}, "auth": (ACCOUNT_SID, AUTH_TOKEN)}, 400),
        ({"auth": (ACCOUNT_SID, AUTH_TOKEN)}, 400),
    ],
)
async def test_nobody_else_hangs_up(sent: dict[str, Any], status: int) -> None:
    twilio = TwilioSandbox()
    async with Served(twilio) as url, httpx.AsyncClient(trust_env=False) as http:
        call = twilio.begin()
        path = f"{url}/2010-04-01/Accounts/{ACCOUNT_SID}/Calls/{call.sid}.json"
        assert (await http.post(path, **sent)).status_code == status
    assert not call.hung_up.is_set()


@pytest.mark.parametrize(
    "twiml",
    [
        "no xml",
        "<Response/>",
        "<Other><Connect><Stream url='wss://x'/></Connect></Other>",
        "<Response><Connect><Stream url='wss://x?token=1'/></Connect></Response>",
        "<Response><Connect><Stream url='https://x'/></Connect></Response>",
        "<Response><Connect><Stream url='wss://x'/></Connect><Say>a</Say></Response>",
    ],
)
def test_twiml_that_connects_to_no_stream_is_an_error(twiml: str) -> None:
    answer = httpx.Response(200, text=twiml, headers={"content-type": "text/xml"})
    with pytest.raises(InvalidInput):
        stream_noun(answer)
