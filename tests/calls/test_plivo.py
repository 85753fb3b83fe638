"""A telephone call by the next carrier: one file of the service, and one stand-in."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from pydantic import SecretStr
from websockets.asyncio.client import connect

from flow.admin.numbers import put_number
from flow.bot.transports.plivo import started
from flow.domain.calls.thread import Status
from flow.errors import InvalidInput
from flow.sandbox.plivo import AUTH_ID, AUTH_TOKEN, PlivoSandbox, PlivoStream
from flow.sandbox.server import Served
from flow.vendors.plivo import Plivo
from tests.calls.conftest import SETTLE_SECS, Serve, key_of
from tests.calls.test_call import SHORT, stood_in
from tests.calls.test_twilio import closed

# Made by Plivo's own library (plivo.utils.signature_v3), with the token "a-token" and nonce 12345.
SIGNED = [
    (
        "https://flow.example.com/api/telephony/plivo/voice",
        {"CallUUID": "0b6d1a52-8a5e-4f0f-9d0f-5b8f3c0f2a11", "From": "4930222222",
         "To": "4930111111"},
        "VWDvV4IOrnpYE3kfXPwb6gdwqLevFEGa3DP1HuS9Y1Q=",
    ),
    ("https://flow.example.com/x?token=a.b&b=1", {"B": "2", "A": "1"},
     "zl59W3ZEKF+N7uBple+ACOqw6cB8lulLA5uYzIfsH/o="),
    ("https://flow.example.com/x?token=a.b", {}, "9lo81O7l8HtFZiesNTFAgPg5U5tWKrwsDYQ1gAiqbWE="),
    ("https://flow.example.com/x", {}, "ruMK5ETP2U1s49b2V6z4cJyT51nL2lEa8mCdQ7Gvax4="),
]  # fmt: skip


@pytest.mark.parametrize(("url", "parameters", "signature"), SIGNED)
def test_plivos_own_examples_are_signed_by_plivo(
    url: str, parameters: dict[str, str], signature: str
) -> None:
    plivo = Plivo("MAX", SecretStr("a-token"), "http://127.0.0.1:9")
    assert plivo.signed(f"other, {signature}", "12345", url, parameters.items())
    for wrong in (
        (signature, "12346", url, parameters.items()),
        (signature, "12345", f"{url}x", parameters.items()),
        (signature, "12345", url, [*parameters.items(), ("C", "1")]),
        ("", "12345", url, parameters.items()),
    ):
        assert not plivo.signed(*wrong)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "x" * 20_000, '{"event": "start"}', '{"event": "start", "start": {"streamId": 7}}'],
)
def test_a_stream_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        started(text)


async def test_a_number_at_plivo_rings_its_bot_and_either_side_hangs_up(serving: Serve) -> None:
    plivo = PlivoSandbox()
    async with Served(plivo) as url, stood_in(SHORT) as standing:
        known = {"plivo_auth_id": AUTH_ID, "plivo_auth_token": AUTH_TOKEN, "plivo_base_url": url}
        async with serving(standing, **known) as served:
            database = served.service.database
            key = await key_of(served.http, database)
            await served.http.post(
                "/api/agents", json={"name": "desk", "bot": {"greeting": "Hello!", "keys": True}}
            )
            await put_number(database, "+4930111111", str(key), agent="desk", product=None)
            reasons = []
            for by_us in (False, True):
                call = plivo.begin()
                async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
                    answer = await plivo.ask(http, f"{served.url}/api/telephony/plivo/voice", call)
                stream = PlivoStream(call, answer.content)
                async with asyncio.timeout(SETTLE_SECS), connect(stream.url, proxy=None) as socket:
                    await socket.send(stream.start())
                    assert stream.heard(await socket.recv()) == "playAudio"
                    for wire in (stream.media(bytes(320)), *map(stream.dtmf, "4x2#"), "garbage"):
                        await socket.send(wire)
                    first = (await served.http.get("/api/threads")).json()["threads"][0]
                    thread_id = first["workflow_thread_id"]
                    # The keys cut the greeting off, and the bot says something to them.
                    for awaited in ("clearAudio", "playAudio"):
                        while stream.heard(await socket.recv()) != awaited:
                            pass
                    if by_us:
                        await served.http.post(f"/api/bot/{thread_id}/end")
                    else:
                        await socket.send(stream.stop())
                    await closed(socket)
                thread = await served.settled(thread_id)
                pressed = [turn.content for turn in thread.transcript if turn.role == "user"]
                assert pressed == ["DTMF: 42#"]
                reasons.append((thread.status, thread.end_reason, call.hung_up.is_set()))
            forged = await served.http.post("/api/telephony/plivo/voice", data=call.parameters())
    assert reasons == [
        (Status.COMPLETED, "caller_hung_up", False),
        (Status.COMPLETED, "ended_by_api", True),
    ]
    assert (forged.status_code, json.loads(forged.text)["code"]) == (403, "invalid_signature")
