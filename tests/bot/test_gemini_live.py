"""Gemini Live as a vendor's service: how it connects, and what of it is in the account."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from google.genai.errors import APIError
from google.genai.types import FunctionResponse, LiveConnectConfig
from pipecat.frames.frames import InputAudioRawFrame
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidMessage
from websockets.frames import Close

from flow.bot.services import CallServices
from flow.bot.vendors import google_live
from flow.bot.vendors.spec import Choice
from flow.domain.calls.bot_part import BotPart
from flow.domain.pricing.pricer import Pricer
from flow.domain.usage.events import Outcome, Provenance, Quantities
from flow.sandbox.faults import Fault
from flow.sandbox.google.app import GoogleSandbox
from flow.sandbox.openai.replies import Reply, ToolCall
from flow.sandbox.server import Served
from flow.vendors.model_endpoint import Endpoint
from tests.bot.running import Witness, started
from tests.contract.vendors import a_tenth_a_word
from tests.events import an_event, an_owner
from tests.notebook import Notebook

OWNER = an_owner(team_id="team_a")
CHOICE = Choice("google", "gemini-3.8-live", {"system_instruction": "Be kind.", "voice": None})
LOOK: Any = {"function_declarations": [{"name": "look"}]}


@dataclass
class World:
    """A service of one call on a stand-in."""

    app: GoogleSandbox
    notebook: Notebook
    service: Any


@asynccontextmanager
async def world(app: GoogleSandbox, **options: Any) -> AsyncIterator[World]:
    notebook = Notebook()
    async with Served(app) as url:
        endpoint = Endpoint(SecretStr("a key"), url, timeout_secs=2)
        services = CallServices(OWNER, notebook, {"google": endpoint}, **options)
        yield World(app, notebook, services.build(BotPart.REALTIME, CHOICE))
        await services.close()
        await endpoint.close()


async def test_the_sdk_hands_the_metered_connection_on_and_insists_on_tls() -> None:
    """Elsewhere than on a plain address nothing of the SDK's own is changed."""
    endpoint = Endpoint(SecretStr("a key"), "https://google.example")
    services = CallServices(OWNER, Notebook(), {"google": endpoint})
    service: Any = services.build(BotPart.REALTIME, CHOICE)
    api = service._client._api_client
    handed_on = api._websocket_ssl_ctx
    assert issubclass(handed_on["create_connection"], ClientConnection)
    assert isinstance(handed_on["ssl"], ssl.SSLContext)
    assert "_websocket_base_url" not in vars(api)
    assert api._websocket_base_url().startswith("wss://google.example")
    await endpoint.close()


@pytest.mark.parametrize(("language", "sent"), [("de", "de-DE"), (None, "en-US")])
async def test_a_language_is_sent_with_a_region(language: str | None, sent: str) -> None:
    endpoint = Endpoint(SecretStr("a key"), "https://google.example")
    services = CallServices(OWNER, Notebook(), {"google": endpoint})
    choice = replace(CHOICE, options={"language": language})
    service: Any = services.build(BotPart.REALTIME, choice)
    assert service._settings.language == sent
    await endpoint.close()


async def test_a_generation_that_calls_a_tool_and_the_one_that_is_told_its_answer_are_two() -> None:
    replies = iter([Reply(tool_calls=(ToolCall("look", "{}"),)), Reply("It is there.")])
    app = GoogleSandbox(lambda _: next(replies), speak=a_tenth_a_word)
    async with world(app) as w:
        config = LiveConnectConfig(tools=[LOOK])
        connected = w.service._client.aio.live.connect(model="gemini-2.5-flash", config=config)
        async with connected as session:
            await session.send_client_content(turns={"role": "user", "parts": [{"text": "Where?"}]})
            async for message in session.receive():
                for call in message.tool_call.function_calls if message.tool_call else ():
                    answer = FunctionResponse(id=call.id, name=call.name, response={"a": 1})
                    await session.send_tool_response(function_responses=answer)
    events, lines = w.notebook.events, app.bill.lines
    assert [(e.outcome, e.provenance) for e in events] == [(Outcome.OK, Provenance.REPORTED)] * 2
    told = [(e.quantities["input_tokens"], e.quantities["output_tokens"]) for e in events]
    billed = [(line.amounts.prompt_tokens, line.amounts.completion_tokens) for line in lines]
    assert told == billed
    assert told[1][0] > told[0][0] + told[0][1]


async def test_a_key_that_is_refused_is_an_attempt_that_is_not_repeated() -> None:
    async with (
        world(GoogleSandbox(api_keys=["another key"])) as w,
        started([w.service, Witness()]),
        asyncio.timeout(10),
    ):
        while not w.notebook.events:
            await asyncio.sleep(0.01)
    (event,) = w.notebook.events
    assert (event.outcome, event.quantities) == (Outcome.ERROR, Quantities())


async def test_what_a_caller_says_before_there_is_a_session_is_heard() -> None:
    heard: list[bytes] = []

    def hear(pcm16: bytes, _: int) -> str:
        heard.append(pcm16)
        return "Hello."

    app = GoogleSandbox(speak=a_tenth_a_word, hear=hear)
    # The session comes with the second attempt, when all of it has been said.
    app.faults.add(Fault(kind="status", status=503, times=1))
    said = [n.to_bytes(2, "little") * 640 for n in range(5_000, 5_025)]
    async with world(app) as w, started([w.service, Witness()]) as worker, asyncio.timeout(10):
        for chunk in (*said, *[bytes(1_280)] * 20):
            await worker.queue_frame(InputAudioRawFrame(chunk, 16_000, 1))
        while not heard:
            await worker.queue_frame(InputAudioRawFrame(bytes(1_280), 16_000, 1))
            await asyncio.sleep(0.02)
    assert b"".join(said) in heard[0]


async def test_in_save_mode_a_session_begins_with_the_cheaper_model() -> None:
    async with world(
        GoogleSandbox(speak=a_tenth_a_word), model=lambda vendor, _: f"{vendor}-live-lite"
    ) as w:
        connected = w.service._client.aio.live.connect(model=w.service._settings.model, config={})
        async with connected as session:
            await session.send_client_content(turns={"role": "user", "parts": [{"text": "Hi."}]})
            async for _ in session.receive():
                pass
    (event,) = w.notebook.events
    assert (event.model, event.sent_model) == ("google-live-lite", "google-live-lite")
    assert event.requested_model == "gemini-3.8-live"
    assert [line.model for line in w.app.bill.lines] == ["google-live-lite"]


@pytest.mark.parametrize(
    ("model", "text_in", "text_out", "audio_in", "audio_out"),
    [
        ("gemini-3.8-live", "0.75", "4.5", "3", "12"),
        ("gemini-3.1-flash-live-preview", "0.75", "4.5", "3", "12"),
        ("gemini-2.5-flash-native-audio-preview-12-2025", "0.5", "2", "3", "12"),
    ],
)
def test_sound_is_priced_as_sound(
    model: str, text_in: str, text_out: str, audio_in: str, audio_out: str
) -> None:
    million = 10**6
    spoken = Quantities(input_tokens=million, output_tokens=million)
    heard = Quantities(
        input_tokens=million, input_audio_tokens=million,
        output_tokens=million, output_audio_tokens=million,
    )  # fmt: skip
    pricer, event = Pricer.read(), an_event(OWNER, provider="google", model=model)
    for quantities, expected in (
        (spoken, [text_in, text_out]),
        (heard, [audio_in, audio_out]),
    ):
        cost = pricer.price(replace(event, quantities=quantities)).cost
        assert cost is not None
        assert cost.total == sum(map(type(cost.total), expected))


def closed(code: int | None) -> ConnectionClosed:
    return ConnectionClosedError(None if code is None else Close(code, "why"), None)


@pytest.mark.parametrize(
    ("error", "may_pass"),
    [
        (closed(1007), False),
        (closed(1008), False),
        (closed(1011), True),
        (closed(None), True),
        (APIError(1007, {}), False),
        (APIError(1011, {}), True),
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (InvalidMessage("no HTTP"), True),
        (ValueError("not JSON"), False),
    ],
    ids=repr,
)
def test_only_what_may_pass_is_tried_again(error: Exception, may_pass: bool) -> None:
    assert google_live._may_pass(error) is may_pass
