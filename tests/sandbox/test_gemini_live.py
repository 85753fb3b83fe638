"""Google's SDK in a Live session with the stand-in: what goes over the wire, and what is billed."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
from google.genai.types import LiveServerMessage
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from flow.domain.usage.tokenizer import dictionary
from flow.sandbox.bill import Amounts
from flow.sandbox.google.app import GoogleSandbox
from flow.sandbox.openai.replies import SMALL_TALK, Reply, ToolCall
from tests.contract.vendors import a_tenth_a_word
from tests.sandbox.conftest import Server

PATH = "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
MODEL = "models/gemini-2.5-flash-native-audio-preview-12-2025"
HELLO = {"clientContent": {"turns": [{"parts": [{"text": "hello"}]}], "turnComplete": True}}
LOUD, QUIET = b"\x10\x20" * 1_600, bytes(3_200)
WORDS = "one two three four five"


def stand_in(*replies: Reply | str, **options: Any) -> GoogleSandbox:
    return GoogleSandbox(replies or SMALL_TALK, speak=a_tenth_a_word, **options)


class Client:
    """A connection that sends and receives messages as they are."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def send(self, message: Any) -> None:
        await self._socket.send(message if isinstance(message, str) else json.dumps(message))

    async def speak(self, *parts: bytes) -> None:
        for part in parts:
            audio = {"data": base64.b64encode(part).decode(), "mimeType": "audio/pcm"}
            await self.send({"realtimeInput": {"audio": audio}})

    async def receive(self) -> Any:
        data = await asyncio.wait_for(self._socket.recv(), 10)
        assert isinstance(data, bytes)
        message = json.loads(data)
        LiveServerMessage.model_validate(message, extra="forbid")
        return message

    async def closed(self) -> int | None:
        """The code with which the connection is closed, in the end."""
        await asyncio.wait_for(self._socket.wait_closed(), 10)
        return self._socket.close_code

    async def until(self, name: str) -> list[Any]:
        """All messages up to the first whose content, or own field, is called so."""
        seen: list[Any] = []
        while not seen or name not in {*seen[-1], *seen[-1].get("serverContent", ())}:
            seen.append(await self.receive())
        return seen


@asynccontextmanager
async def session(
    server: Server, vendor: GoogleSandbox, key: str = "a key", **setup: Any
) -> AsyncIterator[Client]:
    url = (await server.url(vendor)).replace("http://", "ws://")
    async with connect(f"{url}{PATH}", additional_headers={"x-goog-api-key": key}) as socket:
        client = Client(socket)
        with suppress(ConnectionClosed):  # Some are refused at once.
            await client.send({"setup": {"model": MODEL, **setup}})
        yield client


def sound_of(messages: list[Any]) -> int:
    parts = [m.get("serverContent", {}).get("modelTurn", {}).get("parts", []) for m in messages]
    return sum(len(part["inlineData"]["data"]) * 3 // 4 for some in parts for part in some)


async def test_a_turn_speaks_its_reply_with_a_transcript_and_reports_at_its_end(
    server: Server,
) -> None:
    vendor = stand_in(WORDS)
    async with session(server, vendor) as client:
        assert await client.receive() == {"setupComplete": {}}
        await client.send(HELLO)
        seen = await client.until("turnComplete")
    said = "".join(
        m["serverContent"]["outputTranscription"]["text"]
        for m in seen
        if "outputTranscription" in m.get("serverContent", {})
    )
    assert said == WORDS
    assert sound_of(seen) == 24_000
    assert "generationComplete" in seen[-2]["serverContent"]
    usage = seen[-1]["usageMetadata"]
    assert usage["responseTokenCount"] == 13
    assert usage["responseTokensDetails"] == [{"modality": "AUDIO", "tokenCount": 13}]
    [line] = vendor.bill.lines
    assert line.model == MODEL.removeprefix("models/")
    assert line.amounts == Amounts(
        prompt_tokens=usage["promptTokenCount"], completion_tokens=13, completion_audio_tokens=13
    )


async def test_each_turn_reads_all_of_the_session(server: Server) -> None:
    vendor = stand_in(WORDS)
    async with session(server, vendor, systemInstruction={"parts": [{"text": "x"}]}) as client:
        for _ in range(2):
            await client.send(HELLO)
            await client.until("turnComplete")
    first, second = (line.amounts for line in vendor.bill.lines)
    asked = first.prompt_tokens - len(dictionary("o200k_base").encode_ordinary("x")) - 4
    assert second.prompt_tokens == first.prompt_tokens + 13 + asked
    assert (first.prompt_audio_tokens, second.prompt_audio_tokens) == (0, 13)


async def test_speech_is_heard_and_interrupts_an_answer(server: Server) -> None:
    vendor = stand_in(WORDS * 20)
    async with session(server, vendor) as client:
        await client.speak(*[LOUD] * 5, *[QUIET] * 6)
        heard = await client.until("modelTurn")
        await client.speak(LOUD)
        stopped = (await client.until("interrupted"))[-1]
        done = (await client.until("turnComplete"))[-1]
    transcripts = [m for m in heard if "inputTranscription" in m.get("serverContent", {})]
    assert len(transcripts) == 1
    assert stopped["usageMetadata"]["responseTokenCount"] >= 3
    assert "usageMetadata" not in done
    [line] = vendor.bill.lines
    assert line.outcome == "disconnected"
    assert line.amounts.prompt_audio_tokens >= 20
    assert line.amounts.completion_tokens == stopped["usageMetadata"]["responseTokenCount"]


async def test_turns_that_the_client_marks_are_heard_between_the_marks(server: Server) -> None:
    vendor = stand_in(WORDS)
    detection = {"automaticActivityDetection": {"disabled": True}}
    async with session(server, vendor, realtimeInputConfig=detection) as client:
        await client.speak(*[LOUD] * 5)
        await client.send({"realtimeInput": {"activityStart": {}}})
        await client.speak(*[LOUD] * 10)
        await client.send({"realtimeInput": {"activityEnd": {}}})
        await client.until("turnComplete")
    [line] = vendor.bill.lines
    assert line.amounts.prompt_audio_tokens == 25


async def test_a_tool_is_called_and_its_answer_makes_another_generation(server: Server) -> None:
    replies = iter([Reply(tool_calls=(ToolCall("look", '{"a": 1}'),)), Reply(WORDS)])
    vendor = GoogleSandbox(lambda _: next(replies), speak=a_tenth_a_word)
    tools = [{"functionDeclarations": [{"name": "look"}]}]
    async with session(server, vendor, tools=tools) as client:
        await client.send(HELLO)
        asked = (await client.until("toolCall"))[-1]
        (call,) = asked["toolCall"]["functionCalls"]
        assert (call["name"], call["args"]) == ("look", {"a": 1})
        answer = {"id": call["id"], "name": "look", "response": {"b": 2}}
        await client.send({"toolResponse": {"functionResponses": [answer]}})
        await client.until("turnComplete")
    first, second = (line.amounts for line in vendor.bill.lines)
    assert asked["usageMetadata"]["responseTokenCount"] == first.completion_tokens > 0
    assert second.prompt_tokens > first.prompt_tokens + first.completion_tokens


async def test_gemini_3_answers_content_only_once_something_comes_in_real_time(
    server: Server,
) -> None:
    vendor = stand_in(WORDS)
    async with session(server, vendor, model="models/gemini-3.8-live") as client:
        await client.send(HELLO)
        await asyncio.sleep(0.1)
        assert vendor.bill.open == 0
        await client.send({"realtimeInput": {"text": " "}})
        await client.until("turnComplete")
    assert len(vendor.bill.lines) == 1


async def test_a_session_is_resumed_by_its_handle(server: Server) -> None:
    vendor = stand_in(WORDS)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(session(server, vendor, sessionResumption={}))
        await first.send(HELLO)
        update = (await first.until("sessionResumptionUpdate"))[-1]["sessionResumptionUpdate"]
        assert update["resumable"]
        resumed = {"handle": update["newHandle"]}
        other = await stack.enter_async_context(session(server, vendor, sessionResumption=resumed))
        await other.send(HELLO)
        await other.until("turnComplete")
    assert vendor.bill.lines[1].amounts.prompt_audio_tokens == 13


async def test_a_connection_ends_after_its_time(server: Server) -> None:
    async with session(server, stand_in(session_secs=0.1)) as client:
        assert (await client.until("goAway"))[-1]["goAway"] == {"timeLeft": "0s"}
        assert await client.closed() == 1000


@pytest.mark.parametrize(
    ("key", "message", "code"),
    [
        ("another key", HELLO, 1007),
        ("the key", "[]", 1007),
        ("the key", {"clientContent": {"turns": [{"role": "nobody"}]}}, 1007),
    ],
)
async def test_what_google_refuses_closes_the_connection(
    server: Server, key: str, message: Any, code: int
) -> None:
    vendor = stand_in(api_keys=["the key"])
    async with session(server, vendor, key) as client:
        with suppress(ConnectionClosed):
            await client.send(message)
        assert await client.closed() == code
    assert vendor.bill.lines == []
