"""The stand-in's Realtime API, over a WebSocket, by the SDK's own models."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import ceil
from typing import Any

import pytest
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from flow.sandbox.bill import Line
from flow.sandbox.faults import Fault
from flow.sandbox.openai.app import OpenAISandbox
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.replies import Reply, ToolCall
from tests.sandbox.conftest import Server, count_bytes
from tests.sandbox.test_openai import tokens, unknown_fields

EVENTS: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
# What a session says beyond what one may ask for.
SESSION_FIELDS = {"id", "object", "expires_at"}
SAID = "It is on its way."
SECOND = 48_000
LOUD = b"\x10\x20" * (SECOND // 2)
QUIET = bytes(SECOND)
TRANSCRIBED = {"audio": {"input": {"transcription": {"model": "gpt-4o-mini-transcribe"}}}}


def speak(text: str, *, sample_rate: int = 24_000) -> bytes:
    """A tenth of a second a character."""
    return bytes(len(text) * sample_rate // 10 * 2)


def a_vendor(*replies: Any, **options: Any) -> OpenAISandbox:
    return OpenAISandbox(replies or [SAID], speak=speak, hear=count_bytes, **options)


class Client:
    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, "event_id": "mine", **fields}))

    async def say(self, sound: bytes) -> None:
        for at in range(0, len(sound), SECOND // 10):
            audio = base64.b64encode(sound[at : at + SECOND // 10]).decode()
            await self.send("input_audio_buffer.append", audio=audio)

    async def until(self, kind: str) -> dict[str, Any]:
        """The next event of a kind."""
        async with asyncio.timeout(10):
            while True:
                event: dict[str, Any] = json.loads(await self.socket.recv())
                strange = unknown_fields(EVENTS.validate_python(event, strict=True))
                assert set(strange) <= (SESSION_FIELDS if "session" in event else set()), event
                self.events.append(event)
                if event["type"] == kind:
                    return event

    async def ask(self, text: str, **response: Any) -> dict[str, Any]:
        """Ask something in writing; the response when it is done."""
        content = [{"type": "input_text", "text": text}]
        await self.send(
            "conversation.item.create", item={"type": "message", "role": "user", "content": content}
        )
        await self.send("response.create", response=response)
        done: dict[str, Any] = (await self.until("response.done"))["response"]
        return done

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]


@asynccontextmanager
async def session(server: Server, vendor: OpenAISandbox, **settings: Any) -> AsyncIterator[Client]:
    url = (await server.url(vendor)).replace("http", "ws")
    headers = {"authorization": "Bearer a key"}
    async with connect(
        f"{url}/v1/realtime?model=gpt-realtime", additional_headers=headers, proxy=None
    ) as socket:
        client = Client(socket)
        await client.until("session.created")
        if settings:
            await client.send("session.update", session=settings)
            await client.until("session.updated")
        yield client


def lines(vendor: OpenAISandbox, kind: str) -> list[Line]:
    return [line for line in vendor.bill.lines if line.kind == kind]


async def test_a_spoken_turn_is_heard_answered_and_billed(server: Server) -> None:
    vendor = a_vendor()
    async with session(server, vendor, **TRANSCRIBED) as client:
        await client.say(QUIET + LOUD + QUIET)
        done = (await client.until("response.done"))["response"]
        if "conversation.item.input_audio_transcription.completed" not in client.kinds():
            await client.until("conversation.item.input_audio_transcription.completed")
    kinds = client.kinds()
    for before, after in [
        ("input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped"),
        ("input_audio_buffer.speech_stopped", "input_audio_buffer.committed"),
        ("input_audio_buffer.committed", "response.created"),
        ("response.created", "response.output_item.added"),
        ("response.output_item.added", "response.content_part.added"),
        ("response.content_part.added", "response.output_audio.delta"),
        ("response.output_audio.delta", "response.output_audio.done"),
        ("response.output_audio.done", "response.done"),
    ]:
        assert kinds.index(before) < kinds.index(after), (before, after)
    told = {event["type"]: event for event in client.events}
    start = told["input_audio_buffer.speech_started"]["audio_start_ms"]
    end = told["input_audio_buffer.speech_stopped"]["audio_end_ms"]
    # 300 ms before the speech, and the 500 ms of silence that end it.
    assert (start, end) == (700, 2_500)
    sound = b"".join(
        base64.b64decode(e["delta"])
        for e in client.events
        if e["type"] == "response.output_audio.delta"
    )
    assert sound == speak(SAID)
    (llm,), (stt,) = lines(vendor, "llm"), lines(vendor, "stt")
    usage = done["usage"]
    assert usage["output_token_details"] == {
        "text_tokens": tokens(SAID),
        "audio_tokens": ceil(len(SAID) / 10 * 20),
    }
    assert usage["input_token_details"]["audio_tokens"] == 18
    assert (llm.amounts.prompt_tokens, llm.amounts.completion_tokens) == (
        usage["input_tokens"],
        usage["output_tokens"],
    )
    heard = told["conversation.item.input_audio_transcription.completed"]
    assert heard["transcript"] == f"heard {48 * 1_800} bytes at 24000"
    assert heard["usage"]["input_token_details"] == {"audio_tokens": 18, "text_tokens": 0}
    assert stt.amounts.completion_tokens == tokens(heard["transcript"])
    assert (llm.model, stt.model) == ("gpt-realtime", "gpt-4o-mini-transcribe")


async def test_each_response_reads_the_whole_conversation_and_its_beginning_from_the_cache(
    server: Server,
) -> None:
    vendor = a_vendor("word " * 40)
    async with session(server, vendor, instructions="Be kind. " * 40) as client:
        first, second, third = [(await client.ask(f"Question {n}?"))["usage"] for n in range(3)]
    assert first["input_token_details"]["cached_tokens"] == 0
    # What the model has said is read again at the price of its sound.
    spoken = first["output_token_details"]["audio_tokens"]
    assert second["input_token_details"]["audio_tokens"] == spoken
    for before, after in [(first, second), (second, third)]:
        read = after["input_token_details"]
        assert read["cached_tokens"] == before["input_tokens"] // 64 * 64
        parts = read["cached_tokens_details"]
        assert sum(parts.values()) == read["cached_tokens"]
        assert parts["audio_tokens"] <= read["audio_tokens"]
    assert third["input_token_details"]["cached_tokens_details"]["audio_tokens"] > 0


async def test_the_caller_s_voice_cancels_the_response_which_is_billed_as_far_as_it_went(
    server: Server,
) -> None:
    vendor = a_vendor("word " * 100, pace=Pace(token_secs=0.01))
    async with session(server, vendor) as client:
        await client.say(LOUD + QUIET)
        await client.until("response.output_audio.delta")
        await client.say(LOUD)
        done = (await client.until("response.done"))["response"]
        assert done["status"] == "cancelled"
        assert done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
        await client.say(QUIET)
        again = (await client.until("response.done"))["response"]
    assert again["status"] == "completed"
    first, second = lines(vendor, "llm")
    assert 0 < first.amounts.completion_tokens == done["usage"]["output_tokens"]
    assert first.amounts.completion_tokens < second.amounts.completion_tokens


async def test_a_truncated_item_is_read_again_only_as_far_as_it_was_heard(server: Server) -> None:
    vendor = a_vendor()
    async with session(server, vendor) as client:
        done = await client.ask("Where is it?")
        item_id = done["output"][0]["id"]
        cut = {"item_id": item_id, "content_index": 0}
        await client.send("conversation.item.truncate", **cut, audio_end_ms=600)
        await client.until("conversation.item.truncated")
        usage = (await client.ask("Pardon?"))["usage"]
        assert usage["input_token_details"]["audio_tokens"] == 12
        await client.send("conversation.item.truncate", **cut, audio_end_ms=700)
        error = (await client.until("error"))["error"]
        assert (error["param"], error["event_id"]) == ("audio_end_ms", "mine")


async def test_what_is_truncated_while_it_is_made_is_cancelled_as_anything_is(
    server: Server,
) -> None:
    vendor = a_vendor("word " * 100, pace=Pace(token_secs=0.01))
    async with session(server, vendor) as client:
        await client.send("response.create")
        delta = await client.until("response.output_audio.delta")
        cut = {"item_id": delta["item_id"], "content_index": 0, "audio_end_ms": 0}
        await client.send("conversation.item.truncate", **cut)
        await client.until("conversation.item.truncated")
        await client.until("response.output_audio.delta")
        await client.send("conversation.item.truncate", **cut)
        await client.send("response.cancel")
        done = (await client.until("response.done"))["response"]
    assert done["status"] == "cancelled"


@pytest.mark.parametrize("modality", ["text", "audio"])
async def test_a_tool_is_called_and_its_result_taken(server: Server, modality: str) -> None:
    call = ToolCall("look_up", '{"order":"A"}')
    vendor = a_vendor(Reply("One moment.", tool_calls=(call,)), SAID)
    tool = {"type": "function", "name": "look_up", "parameters": {"type": "object"}}
    async with session(server, vendor, tools=[tool]) as client:
        done = await client.ask("Where is it?", output_modalities=[modality])
        message, called = done["output"]
        assert (message["type"], called["arguments"]) == ("message", call.arguments)
        await client.send(
            "conversation.item.create",
            item={
                "type": "function_call_output",
                "call_id": called["call_id"],
                "output": "on its way",
            },
        )
        again = await client.ask("And?", output_modalities=[modality])
    (part,) = again["output"][0]["content"]
    assert part["transcript" if modality == "audio" else "text"] == SAID
    made = again["usage"]["output_token_details"]
    assert bool(made["audio_tokens"]) is (modality == "audio")


async def test_a_client_may_detect_turns_itself(server: Server) -> None:
    vendor = a_vendor()
    by_client = {"audio": {"input": {"turn_detection": None}}}
    async with session(server, vendor, **by_client) as client:
        await client.say(LOUD)
        await client.send("input_audio_buffer.clear")
        await client.until("input_audio_buffer.cleared")
        await client.say(LOUD[: SECOND // 2])
        await client.send("input_audio_buffer.commit")
        await client.send("response.create")
        done = (await client.until("response.done"))["response"]
    assert done["usage"]["input_token_details"]["audio_tokens"] == 5
    assert "input_audio_buffer.speech_started" not in client.kinds()


@pytest.mark.parametrize(
    ("kind", "fields", "code"),
    [
        ("nonsense", {}, "invalid_value"),
        ("session.update", {"session": {"colour": "red"}}, "unknown_parameter"),
        ("session.update", {"session": {"model": "gpt-5"}}, "session_model_not_updatable"),
        ("response.cancel", {}, "response_cancel_not_active"),
        ("input_audio_buffer.commit", {}, "input_audio_buffer_commit_empty"),
        ("input_audio_buffer.append", {"audio": "?"}, "invalid_value"),
        ("conversation.item.delete", {"item_id": "x"}, "item_not_found"),
        ("conversation.item.create", {}, "missing_required_parameter"),
    ],
)
async def test_what_cannot_be_is_refused_by_an_event_and_the_session_goes_on(
    server: Server, kind: str, fields: dict[str, Any], code: str
) -> None:
    vendor = a_vendor()
    async with session(server, vendor) as client:
        await client.send(kind, **fields)
        error = (await client.until("error"))["error"]
        assert (error["code"], error["event_id"]) == (code, "mine")
        assert (await client.ask("Where is it?"))["status"] == "completed"


async def test_one_response_at_a_time(server: Server) -> None:
    vendor = a_vendor(pace=Pace(token_secs=0.01))
    async with session(server, vendor) as client:
        await client.send("response.create")
        await client.until("response.created")
        await client.send("response.create")
        error = (await client.until("error"))["error"]
        assert error["code"] == "conversation_already_has_active_response"
        await client.send("response.cancel")
        done = (await client.until("response.done"))["response"]
        assert done["status_details"]["reason"] == "client_cancelled"


@pytest.mark.parametrize(
    ("fault", "status", "has_usage"),
    [
        (Fault(kind="failed_response", chunks=2), "failed", True),
        (Fault(kind="error_chunk", chunks=2), "failed", False),
        (Fault(kind="no_usage"), "completed", False),
    ],
)
async def test_a_response_can_fail_or_not_report(
    server: Server, fault: Fault, status: str, has_usage: bool
) -> None:
    vendor = a_vendor()
    vendor.faults.add(fault)
    async with session(server, vendor) as client:
        done = await client.ask("Where is it?")
    assert (done["status"], done["usage"] is not None) == (status, has_usage)
    (line,) = lines(vendor, "llm")
    assert line.amounts.completion_tokens > 0
    assert ("error" in client.kinds()) is (fault.kind == "error_chunk")


async def test_a_client_that_leaves_is_billed_what_was_made(server: Server) -> None:
    vendor = a_vendor("word " * 100, pace=Pace(token_secs=0.01))
    async with session(server, vendor) as client:
        await client.send("response.create")
        await client.until("response.output_audio.delta")
    (line,) = await vendor.bill.settled()
    assert line.outcome == "disconnected"
    assert 0 < line.amounts.completion_tokens < 200


async def test_a_session_expires(server: Server) -> None:
    vendor = a_vendor(session_secs=0.1)
    async with session(server, vendor) as client:
        error = (await client.until("error"))["error"]
        assert error["code"] == "session_expired"
        with pytest.raises(ConnectionClosed) as closed:
            await client.socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [("?model=gpt-realtime", {}, 401), ("", {"authorization": "Bearer a key"}, 400)],
)
async def test_a_connection_needs_a_key_and_a_model(
    server: Server, query: str, headers: dict[str, str], status: int
) -> None:
    url = (await server.url(a_vendor())).replace("http", "ws")
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{url}/v1/realtime{query}", additional_headers=headers, proxy=None)
    assert refused.value.response.status_code == status


async def test_a_transcription_can_fail(server: Server) -> None:
    vendor = a_vendor()
    vendor.faults.add(Fault(kind="failed_transcription"))
    async with session(server, vendor, **TRANSCRIBED) as client:
        await client.say(LOUD + QUIET)
        await client.until("conversation.item.input_audio_transcription.failed")
    (line,) = lines(vendor, "stt")
    assert line.outcome == "failed"
