"""Twilio's webhook: who may ask it, and what it says."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from pydantic import SecretStr

from flow.bot.calls.caller_calls import MediaStreamCalls
from flow.bot.transports.twilio import TRANSPORT, TwilioCarrier
from flow.sandbox.twilio.app import AUTH_TOKEN, TwilioSandbox, stream_noun
from flow.vendors.twilio import Twilio
from tests.api.conftest import NO_MORE, Api, ServeApi

PUBLIC = "https://flow.example.com/voice"
CALL_SID = f"CA{'0' * 32}"
FORM = {"content-type": "application/x-www-form-urlencoded"}
STAND_IN = TwilioSandbox()


@pytest.fixture
async def api(serve_api: ServeApi) -> Api:
    """An API that Twilio reaches through a proxy."""
    carrier = TwilioCarrier(Twilio("ACx", SecretStr(AUTH_TOKEN), "http://127.0.0.1:9"))
    nobody: Any = None
    streams = {"twilio": MediaStreamCalls(TRANSPORT, carrier, nobody, nobody)}
    return await serve_api(streams=streams, public_url=PUBLIC)


async def webhook(api: Api) -> str:
    answer = await api.join({"transport": {"type": "twilio"}})
    url: str = answer["connection"]["twiml_url"]
    return url


async def ask(
    api: Api, url: str, parameters: dict[str, str] | None = None, **given: Any
) -> httpx.Response:
    """Ask as Twilio would, through the proxy; ``given`` takes the place of what it sends."""
    parameters = {"CallSid": CALL_SID} if parameters is None else parameters
    signed = STAND_IN.signature(url, parameters)
    sent: dict[str, Any] = {"content": urlencode(parameters)}
    sent |= {"headers": FORM | {"X-Twilio-Signature": signed}}
    return await api.anonymous.post(url.removeprefix(PUBLIC), **(sent | given))


async def test_the_webhook_connects_the_call_to_its_stream(api: Api) -> None:
    url = await webhook(api)
    answer = await ask(api, url, {"CallSid": CALL_SID, "CallerName": "Zoë & <Söhne>", "City": ""})
    assert answer.status_code == 200, answer.text
    noun = stream_noun(answer)
    assert noun.url == url.partition("/twiml")[0].replace("https", "wss") + "/twilio"
    assert set(noun.parameters) == {"token"}
    assert noun.parameters["token"] not in url


async def test_twilio_may_ask_again_while_nobody_has_connected(api: Api) -> None:
    url = await webhook(api)
    assert [(await ask(api, url)).status_code for _ in range(2)] == [200, 200]
    await api.in_call(url.split("/")[-2])
    again = await ask(api, url)
    assert (again.status_code, again.json()["code"]) == (409, "not_connectable")


@pytest.mark.parametrize(
    "headers",
    [
        FORM,
        FORM | {"X-Twilio-Signature": ""},
        FORM | {"X-Twilio-Signature": "A" * 28},
        FORM | {"X-Twilio-Signature": "\xff".encode("latin-1")},
        FORM | {"X-Twilio-Signature": "x" * 10_000},
    ],
    ids=["none", "empty", "wrong", "no-ascii", "long"],
)
async def test_what_twilio_did_not_sign_is_refused(api: Api, headers: dict[str, Any]) -> None:
    answer = await ask(api, await webhook(api), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "invalid_signature")
    assert "token" not in answer.text.lower()


@pytest.mark.parametrize(
    "content",
    [
        "CallSid=CA" + "1" * 32,
        "",
        f"CallSid={CALL_SID}&Extra=1",
        f"callsid={CALL_SID}",
        f"CallSid={CALL_SID}&CallSid=CA{'1' * 32}",
    ],
)
async def test_tampered_parameters_are_refused(api: Api, content: str) -> None:
    answer = await ask(api, await webhook(api), content=content)
    assert (answer.status_code, answer.json()["code"]) == (403, "invalid_signature")


async def test_the_signature_of_one_thread_is_none_for_another(api: Api) -> None:
    first, second = await webhook(api), await webhook(api)
    stolen = STAND_IN.signature(first, {"CallSid": CALL_SID})
    answer = await ask(api, second, headers=FORM | {"X-Twilio-Signature": stolen})
    assert answer.json()["code"] == "invalid_signature"


async def test_a_replayed_request_is_refused_once_its_token_has_expired(api: Api) -> None:
    url = await webhook(api)
    api.now.moved = timedelta(seconds=301)
    answer = await ask(api, url)
    assert (answer.status_code, answer.json()["code"]) == (401, "expired_token")


@pytest.mark.parametrize("token", [None, "", "nonsense", "%00", "\xff"])
async def test_no_token_no_answer_even_with_a_key(api: Api, token: str | None) -> None:
    url = await webhook(api)
    url = url.partition("?")[0] + ("" if token is None else f"?token={token}")
    answer = await ask(api, url)
    assert answer.status_code == 401
    path = url.removeprefix(PUBLIC)
    assert (await api.client.post(path, content="", headers=FORM)).status_code == 401


@pytest.mark.parametrize("sid", [None, "", "CA1", "../../Messages"])
async def test_a_request_about_no_call_is_refused(api: Api, sid: str | None) -> None:
    answer = await ask(api, await webhook(api), {} if sid is None else {"CallSid": sid})
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"headers": {"content-type": "application/json"}, "content": "{}"}, 415),
        ({"headers": {}}, 415),
        ({"content": b"CallSid=%ff%fe"}, 400),
        ({"content": b"\xff"}, 400),
        ({"content": "a=1&" * 500}, 400),
        ({"content": "x" * 300_000}, 413),
    ],
    ids=["json", "no-type", "percent", "bytes", "many-fields", "large"],
)
async def test_what_is_no_form_is_refused(api: Api, given: dict[str, Any], status: int) -> None:
    sent = {"headers": FORM} | given
    answer = await ask(api, await webhook(api), **sent)
    assert answer.status_code == status


@NO_MORE
async def test_a_server_that_is_full_or_leaving_says_so_before_the_call_is_connected(
    code: str, api: Api
) -> None:
    url = await webhook(api)
    api.calls.take_no_more(code)
    answer = await ask(api, url)
    assert (answer.status_code, answer.json()["code"]) == (503, code)
