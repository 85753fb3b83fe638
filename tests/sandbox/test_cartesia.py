"""Cartesia's SDK against the stand-in: what goes over the wire, and what is billed for it."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import cartesia
import pytest
from cartesia.types import WebsocketResponse
from cartesia.types.stt import (
    STTAutoFinalizeWebsocketResponse,
    STTManualFinalizeWebsocketResponse,
)
from pydantic import TypeAdapter
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedOK, InvalidStatus

from flow.sandbox.bill import Amounts
from flow.sandbox.cartesia import hearing, listening, speaking, turns
from flow.sandbox.cartesia.app import CartesiaSandbox
from flow.sandbox.cartesia.hearing import HearingPace
from flow.sandbox.faults import Fault
from flow.sandbox.speech.recognition import Ears
from flow.sandbox.speech.synthesis import recordings, synthesize
from flow.sandbox.speech.voice_pace import VoicePace
from tests.sandbox.conftest import Server

HEADERS = {"X-API-Key": "a key", "Cartesia-Version": "2026-03-01"}
SPEECH: Any = TypeAdapter(WebsocketResponse)
MANUAL: Any = TypeAdapter(STTManualFinalizeWebsocketResponse)
TURNS: Any = TypeAdapter(STTAutoFinalizeWebsocketResponse)
FIRST, NEXT = "Hello, there. ", "How are you today?"
SAID = "Where is my parcel?"
RATE = 16_000
STT_QUERY = "encoding=pcm_s16le&sample_rate=16000"


def say(text: str, context: str = "a", *, is_last: bool = False, **more: Any) -> str:
    return json.dumps(
        {
            "context_id": context,
            "model_id": "sonic-3.6",
            "transcript": text,
            "voice": {"mode": "id", "id": "a voice"},
            "output_format": {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 24_000},
            "continue": not is_last,
            "add_timestamps": True,
            **more,
        }
    )


def cancel(context: str = "a") -> str:
    return json.dumps({"context_id": context, "cancel": True})


class Line:
    """A connection. All that comes is checked by the SDK's own models."""

    def __init__(self, connection: ClientConnection, models: Any) -> None:
        self.connection = connection
        self._models = models

    async def send(self, *messages: str | bytes) -> None:
        for message in messages:
            await self.connection.send(message)

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(20):
            message = json.loads(await self.connection.recv())
        self._models.validate_python(message)
        return dict(message)

    async def until(self, *kinds: str) -> list[dict[str, Any]]:
        """All messages up to the first of these kinds."""
        found = [await self.next()]
        while found[-1]["type"] not in kinds:
            found.append(await self.next())
        return found


@asynccontextmanager
async def line(
    server: Server, vendor: CartesiaSandbox, path: str = "/tts/websocket", models: Any = SPEECH
) -> AsyncIterator[Line]:
    url = (await server.url(vendor)).replace("http", "ws", 1)
    async with connect(f"{url}{path}", additional_headers=HEADERS) as connection:
        yield Line(connection, models)


async def client_of(server: Server, vendor: CartesiaSandbox) -> cartesia.AsyncCartesia:
    url = await server.url(vendor)
    return cartesia.AsyncCartesia(
        api_key="a key", base_url=url, websocket_base_url=url.replace("http", "ws", 1)
    )


def kinds(messages: Sequence[dict[str, Any]]) -> list[str]:
    """The kinds of messages, those that repeat once."""
    found = [message["type"] for message in messages]
    return [kind for n, kind in enumerate(found) if n == 0 or kind != found[n - 1]]


def sound_of(messages: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(b64decode(m["data"]) for m in messages if m["type"] == "chunk")


async def test_a_context_is_spoken_input_by_input_and_billed_by_its_text(server: Server) -> None:
    vendor = CartesiaSandbox()
    async with line(server, vendor) as c:
        await c.send(say(FIRST), say(NEXT, is_last=True))
        messages = await c.until("done")
    one = ["chunk", "timestamps", "chunk", "flush_done"]
    assert kinds(messages) == [*one, *one, "done"]
    assert [m["flush_id"] for m in messages if m["type"] == "flush_done"] == [1, 2]
    assert {m["context_id"] for m in messages} == {"a"}
    assert sound_of(messages) == synthesize(FIRST) + synthesize(NEXT)
    [billed] = vendor.bill.lines
    lasts = Decimal(len(sound_of(messages))) / 48_000
    assert billed.amounts.characters == len(FIRST + NEXT)
    assert billed.amounts.audio_seconds == lasts.quantize(Decimal("0.000001"))
    assert (billed.kind, billed.model, billed.outcome) == ("tts", "sonic-3.6", "complete")
    assert billed.billed_by == ("characters",)


async def test_words_have_times_within_their_context(server: Server) -> None:
    async with line(server, CartesiaSandbox()) as c:
        await c.send(say(FIRST), say(NEXT, is_last=True))
        told = [m["word_timestamps"] for m in await c.until("done") if m["type"] == "timestamps"]
    assert [word for one in told for word in one["words"]] == (FIRST + NEXT).split()
    starts, ends = ([time for one in told for time in one[which]] for which in ("start", "end"))
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert starts[2] == pytest.approx(len(synthesize(FIRST)) / 48_000)
    assert all(start < end for start, end in zip(starts, ends, strict=True))


async def test_a_context_that_is_to_go_on_is_not_done(server: Server) -> None:
    vendor = CartesiaSandbox()
    async with line(server, vendor) as c:
        await c.send(say(FIRST))
        await c.until("flush_done")
        assert vendor.bill.open == 1
        await c.send(say("", is_last=True))
        assert kinds(await c.until("done")) == ["done"]
    assert [one.amounts.characters for one in vendor.bill.lines] == [len(FIRST)]


async def test_contexts_are_spoken_at_once(server: Server) -> None:
    vendor = CartesiaSandbox(voice_pace=VoicePace(times_real_time=20))
    async with line(server, vendor) as c:
        await c.send(say(NEXT * 3, "a", is_last=True), say(FIRST, "b", is_last=True))
        first_done = (await c.until("done"))[-1]["context_id"]
        await c.until("done")
    assert first_done == "b"
    assert [one.amounts.characters for one in vendor.bill.lines] == [len(FIRST), len(NEXT * 3)]


async def test_a_cancel_before_any_sound_halts_everything(server: Server) -> None:
    vendor = CartesiaSandbox(voice_pace=VoicePace(first_sound_secs=3600))
    async with line(server, vendor) as c:
        await c.send(say(FIRST), say(NEXT), cancel(), cancel("b"))
        assert kinds(await c.until("done")) == ["done"]
    [billed] = vendor.bill.lines
    assert (billed.amounts, billed.outcome) == (Amounts(), "disconnected")


async def test_a_cancel_lets_what_is_spoken_come_to_its_end(server: Server) -> None:
    vendor = CartesiaSandbox(voice_pace=VoicePace(times_real_time=10))
    async with line(server, vendor) as c:
        await c.send(say(FIRST), say(NEXT))
        await c.until("chunk")
        await c.send(cancel())
        messages = await c.until("done")
    assert kinds(messages)[-2:] == ["flush_done", "done"]
    assert [m["flush_id"] for m in messages if m["type"] == "flush_done"] == [1]
    assert [one.amounts.characters for one in vendor.bill.lines] == [len(FIRST)]


async def test_whoever_leaves_pays_for_what_was_begun(server: Server) -> None:
    vendor = CartesiaSandbox(voice_pace=VoicePace(times_real_time=2))
    async with line(server, vendor) as c:
        await c.send(say(FIRST), say(NEXT))
        await c.until("chunk")
    [billed] = await vendor.bill.settled()
    assert (billed.amounts.characters, billed.outcome) == (len(FIRST), "disconnected")


async def test_whoever_leaves_before_the_first_sound_pays_for_what_is_being_made(
    server: Server,
) -> None:
    vendor = CartesiaSandbox(voice_pace=VoicePace(first_sound_secs=60))
    async with line(server, vendor) as c:
        await c.send(say(FIRST), say(NEXT))
        await asyncio.sleep(0.3)
    [billed] = await vendor.bill.settled()
    assert (billed.amounts.characters, billed.outcome) == (len(FIRST), "disconnected")


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"model_id": "gpt-4"}, "model_not_found"),
        ({"voice": {"mode": "id", "id": ""}}, "invalid_request"),
        ({"output_format": {"container": "mp3"}}, "invalid_request"),
        ({"transcript": None}, "invalid_request"),
    ],
)
async def test_what_is_wrong_is_said_and_free(
    server: Server, wrong: dict[str, Any], code: str
) -> None:
    vendor = CartesiaSandbox()
    async with line(server, vendor) as c:
        await c.send(say(FIRST, **wrong))
        [error] = await c.until("error")
        assert (error["error_code"], error["status_code"], error["done"]) == (code, 400, True)
        assert error["context_id"] == "a"
        await c.send(say(FIRST, is_last=True))
        await c.until("done")
    assert [one.amounts.characters for one in vendor.bill.lines] == [len(FIRST)]


@pytest.mark.parametrize("said", ["", "nonsense", "[]", b"\x00\x01", '{"transcript": "Hi"}'])
async def test_a_message_of_no_context_is_an_error_of_none(
    server: Server, said: str | bytes
) -> None:
    async with line(server, CartesiaSandbox()) as c:
        await c.send(said)
        [error] = await c.until("error")
        assert "context_id" not in error


async def test_inputs_of_a_context_are_of_one_voice(server: Server) -> None:
    vendor = CartesiaSandbox()
    async with line(server, vendor) as c:
        await c.send(say(FIRST))
        await c.until("flush_done")
        await c.send(say(NEXT, voice={"mode": "id", "id": "another"}))
        assert kinds(await c.until("error")) == ["error"]
    [billed] = vendor.bill.lines
    assert (billed.amounts.characters, billed.outcome) == (len(FIRST), "failed")


async def test_an_input_that_fails_before_its_end_is_free(server: Server) -> None:
    vendor = CartesiaSandbox()
    vendor.faults.add(Fault(kind="error_chunk", chunks=2))
    async with line(server, vendor) as c:
        await c.send(say(FIRST))
        messages = await c.until("error")
        assert kinds(messages) == ["chunk", "timestamps", "chunk", "error"]
        assert messages[-1]["status_code"] == 500
    [billed] = vendor.bill.lines
    assert (billed.amounts.characters, billed.outcome) == (0, "failed")


async def test_sound_comes_at_the_voices_pace(server: Server) -> None:
    vendor = CartesiaSandbox(voice_pace=VoicePace(first_sound_secs=0.2, times_real_time=4))
    clock = asyncio.get_running_loop().time
    async with line(server, vendor) as c:
        begun = clock()
        await c.send(say(NEXT, is_last=True))
        await c.until("chunk")
        first = clock() - begun
        await c.until("done")
        whole = clock() - begun
    lasts = len(synthesize(NEXT)) / 48_000
    assert first >= 0.19
    assert whole >= 0.2 + (lasts - 0.1) / 4


@pytest.mark.parametrize(
    "path", ["/tts/websocket", f"/stt/websocket?model=ink-whisper&{STT_QUERY}"]
)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Cartesia-Version": "2026-03-01"}, 401),
        ({"X-API-Key": "another", "Cartesia-Version": "2026-03-01"}, 401),
        ({"X-API-Key": "a key"}, 400),
    ],
)
async def test_a_handshake_without_what_it_takes_is_refused(
    server: Server, path: str, headers: dict[str, str], status: int
) -> None:
    vendor = CartesiaSandbox(api_keys={"a key"})
    url = (await server.url(vendor)).replace("http", "ws", 1)
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{url}{path}", additional_headers=headers)
    assert refused.value.response.status_code == status
    said = json.loads(refused.value.response.body or b"")
    assert {"title", "message", "error_code", "request_id", "status_code"} <= set(said)


async def test_an_unknown_path_is_not_found(server: Server) -> None:
    http = await server.http(CartesiaSandbox())
    answer = await http.get("/tts/nothing")
    assert (answer.status_code, answer.json()["error_code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("module", "path"),
    [
        (speaking, "/tts/websocket"),
        (listening, f"/stt/websocket?model=ink-whisper&{STT_QUERY}"),
        (turns, f"/stt/turns/websocket?model=ink-2&{STT_QUERY}"),
    ],
)
async def test_an_idle_connection_is_closed(
    server: Server, monkeypatch: pytest.MonkeyPatch, module: Any, path: str
) -> None:
    assert hearing.IDLE_SECS == 180
    assert speaking.IDLE_SECS == 300
    monkeypatch.setattr(module, "IDLE_SECS", 0.05)
    async with line(server, CartesiaSandbox(), path, TURNS) as c:
        await c.connection.wait_closed()
        assert c.connection.close_code == 1000


def ears() -> CartesiaSandbox:
    return CartesiaSandbox(hear=Ears(recordings([SAID, NEXT], sample_rate=RATE), RATE).transcribe)


def pieces(pcm16: bytes, secs: float = 0.1) -> list[bytes]:
    size = 2 * round(RATE * secs)
    return [pcm16[start : start + size] for start in range(0, len(pcm16), size)]


def silence(secs: float) -> bytes:
    return bytes(2 * round(RATE * secs))


async def test_what_is_finalized_is_transcribed_and_all_sound_is_billed(server: Server) -> None:
    vendor, sound = ears(), synthesize(SAID, sample_rate=RATE)
    heard = silence(2) + sound + silence(0.5)
    async with line(server, vendor, f"/stt/websocket?model=ink-whisper&{STT_QUERY}", MANUAL) as c:
        await c.send(*pieces(heard), "finalize")
        transcript, flushed = await c.until("flush_done")
        assert (transcript["type"], transcript["text"]) == ("transcript", SAID)
        assert transcript["is_final"] is True
        assert transcript["request_id"] == flushed["request_id"]
        await c.send(silence(1), "finalize")
        assert kinds(await c.until("flush_done")) == ["flush_done"]
        await c.send("close")
        assert kinds(await c.until("done")) == ["done"]
        with pytest.raises(ConnectionClosedOK):
            await c.next()
    [billed] = vendor.bill.lines
    seconds = Decimal(len(heard) + 2 * RATE) / 2 / RATE
    assert billed.amounts.audio_seconds == seconds.quantize(Decimal("0.000001"))
    assert (billed.kind, billed.model, billed.outcome) == ("stt", "ink-whisper", "complete")
    assert billed.billed_by == ("audio_seconds",)


async def test_a_command_that_there_is_not_is_an_error(server: Server) -> None:
    path = f"/stt/websocket?model=ink-whisper&{STT_QUERY}"
    async with line(server, CartesiaSandbox(), path, MANUAL) as c:
        await c.send("finish")
        [error] = await c.until("error")
        assert error["error_code"] == "invalid_request"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        (f"model=whisper&{STT_QUERY}", "model_not_found"),
        ("model=ink-2&encoding=opus&sample_rate=16000", "invalid_request"),
        ("model=ink-2&encoding=pcm_s16le&sample_rate=1", "invalid_request"),
        ("", "model_not_found"),
    ],
)
@pytest.mark.parametrize("path", ["/stt/websocket", "/stt/turns/websocket"])
async def test_what_cannot_be_heard_is_refused_in_the_first_word(
    server: Server, path: str, query: str, code: str
) -> None:
    vendor = CartesiaSandbox()
    async with line(server, vendor, f"{path}?{query}", TURNS) as c:
        [error] = await c.until("error")
        assert (error["error_code"], error["status_code"]) == (code, 400)
        with pytest.raises(ConnectionClosedOK):
            await c.next()
    assert vendor.bill.lines == []


async def test_turns_are_told_by_silence(server: Server) -> None:
    vendor = ears()
    said, then = (synthesize(text, sample_rate=RATE) for text in (SAID, NEXT))
    path = f"/stt/turns/websocket?model=ink-2&{STT_QUERY}"
    async with line(server, vendor, path, TURNS) as c:
        assert kinds(await c.until("connected")) == ["connected"]
        for sound, text in ((said, SAID), (then, NEXT)):
            await c.send(*pieces(silence(0.7) + sound + silence(0.7)))
            messages = await c.until("turn.end")
            assert kinds(messages) == ["turn.start", "turn.update", "turn.eager_end", "turn.end"]
            assert {m["transcript"] for m in messages[1:]} == {text}
        await c.send(json.dumps({"type": "config", "turn": {"end_timeout_ms": 640}}))
        await c.send(json.dumps({"type": "close"}))
        with pytest.raises(ConnectionClosedOK):
            await c.next()
    [billed] = vendor.bill.lines
    assert billed.model == "ink-2"
    seconds = Decimal(len(said) + len(then)) / 2 / RATE + Decimal("2.8")
    assert billed.amounts.audio_seconds == seconds.quantize(Decimal("0.000001"))


async def test_a_pause_that_is_too_short_resumes_the_turn(server: Server) -> None:
    vendor = CartesiaSandbox(hearing_pace=HearingPace(turn_end_secs=0.9))
    loud = b"\x10\x20" * RATE
    path = f"/stt/turns/websocket?model=ink-2&{STT_QUERY}"
    async with line(server, vendor, path, TURNS) as c:
        await c.send(loud + silence(0.5) + loud, json.dumps({"type": "close"}))
        assert kinds(await c.until("turn.end")) == [
            "connected", "turn.start", "turn.update", "turn.eager_end", "turn.resume", "turn.end",
        ]  # fmt: skip


async def test_the_ears_take_the_time_that_they_are_given(server: Server) -> None:
    vendor = CartesiaSandbox(hearing_pace=HearingPace(final_secs=0.2))
    clock = asyncio.get_running_loop().time
    async with line(server, vendor, f"/stt/websocket?model=ink-2&{STT_QUERY}", MANUAL) as c:
        begun = clock()
        await c.send(b"\x10\x20" * RATE, "finalize")
        await c.until("transcript")
        assert clock() - begun >= 0.19


async def test_the_sdk_speaks_and_is_heard(server: Server) -> None:
    vendor = ears()
    client = await client_of(server, vendor)
    async with client.tts.websocket_connect() as connection:
        context = connection.context(
            model_id="sonic-3.6",
            voice={"mode": "id", "id": "a voice"},
            output_format={"container": "raw", "encoding": "pcm_s16le", "sample_rate": RATE},
        )
        await context.push(SAID)
        await context.no_more_inputs()
        spoken = b"".join([e.audio async for e in context.receive() if e.type == "chunk"])
    async with client.stt.manual_finalize.websocket(
        model="ink-whisper", encoding="pcm_s16le", sample_rate=RATE
    ) as manual:
        await manual.send_raw(spoken)
        await manual.send("close")
        texts = [event.text async for event in manual if event.type == "transcript"]
    assert texts == [SAID]
    async with client.stt.auto_finalize.websocket(
        model="ink-2", encoding="pcm_s16le", sample_rate=RATE
    ) as turned:
        await turned.send_raw(spoken + silence(0.5))
        await turned.send({"type": "close"})
        ended = [event.transcript async for event in turned if event.type == "turn.end"]
    assert ended == [SAID]
    await client.close()
    assert [one.kind for one in vendor.bill.lines] == ["tts", "stt", "stt"]
