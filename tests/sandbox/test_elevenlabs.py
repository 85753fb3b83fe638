"""ElevenLabs' wires against the stand-in, held against its SDK's own models, and its bill."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from typing import Any

import pytest
from elevenlabs import types as sdk
from elevenlabs.core.unchecked_base_model import UncheckedBaseModel
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from flow.sandbox.bill import Amounts
from flow.sandbox.callers import mulaw
from flow.sandbox.elevenlabs.app import ElevenLabsSandbox
from flow.sandbox.faults import Fault
from flow.sandbox.speech.recognition import Ears
from flow.sandbox.speech.synthesis import recordings, synthesize
from tests.sandbox.conftest import Server

SPEECH = (
    "/v1/text-to-speech/a-voice/multi-stream-input"
    "?model_id=eleven_flash_v2_5&output_format=pcm_16000&auto_mode=true"
)
DIALOGUE = (
    "/v1/text-to-dialogue/multi-stream-input"
    "?model_id=eleven_v3_conversational&output_format=pcm_16000&sync_alignment=true"
)
REALTIME = "/v1/speech-to-text/realtime?model_id=scribe_v2_realtime&audio_format=pcm_16000"
SENTENCE = "The quick brown fox jumps over the lazy dog."
SAID = ["I would like to book a table.", "For two people, please."]
SPOKEN = {
    "isFinal": sdk.FinalOutputMulti,
    "audio": sdk.AudioOutputMulti,
    "is_final": sdk.TextToDialogueWebsocketFinalMulti,
    "is_final_audio_for_turn": sdk.TextToDialogueWebsocketFinalAudioForTurnMulti,
    "error": sdk.TextToDialogueWebsocketError,
}
"""By a field that no other message of a voice has."""
HEARD = {
    "session_started": sdk.SessionStartedPayload,
    "partial_transcript": sdk.PartialTranscriptPayload,
    "committed_transcript": sdk.CommittedTranscriptPayload,
    "committed_transcript_with_timestamps": sdk.CommittedTranscriptWithTimestampsPayload,
    "commit_throttled": sdk.ScribeThrottledErrorPayload,
    "auth_error": sdk.ScribeAuthErrorPayload,
    "input_error": sdk.ScribeInputErrorPayload,
    "invalid_request": sdk.ScribeInvalidRequestError,
    "insufficient_audio_activity": sdk.ScribeInsufficientAudioActivityErrorPayload,
}

Message = dict[str, Any]


class Client:
    """Talks to a stand-in, and holds what it says against the SDK's models."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def send(self, *messages: Mapping[str, Any] | str) -> None:
        for one in messages:
            await self._socket.send(one if isinstance(one, str) else json.dumps(one))

    async def hear(self) -> Message:
        message: Message = json.loads(await self._socket.recv())
        model = _model_of(message)
        assert _unknown_fields(model.model_validate(message)) == []
        return message

    async def until(self, is_last: Callable[[Message], Any]) -> list[Message]:
        heard = [await self.hear()]
        while not is_last(heard[-1]):
            heard.append(await self.hear())
        return heard

    async def closed(self) -> tuple[list[Message], int | None]:
        """What is said before the vendor closes, and the code."""
        heard: list[Message] = []
        with suppress(ConnectionClosed):
            while True:
                heard.append(await self.hear())
        return heard, self._socket.close_code


def _model_of(message: Message) -> type[UncheckedBaseModel]:
    if "message_type" in message:
        return HEARD[message["message_type"]]
    if "context_id" in message and "audio" in message:
        return sdk.TextToDialogueWebsocketAudioChunkMulti
    return next(model for field, model in SPOKEN.items() if field in message)


def _unknown_fields(value: Any) -> list[str]:
    if isinstance(value, list):
        return [name for one in value for name in _unknown_fields(one)]
    if not isinstance(value, UncheckedBaseModel):
        return []
    inner = [name for field in value.__dict__.values() for name in _unknown_fields(field)]
    return [*(value.model_extra or {}), *inner]


@asynccontextmanager
async def client(
    server: Server, vendor: ElevenLabsSandbox, path: str, key: str | None = "a key"
) -> AsyncIterator[Client]:
    url = (await server.url(vendor)).replace("http", "ws", 1)
    headers = {} if key is None else {"xi-api-key": key}
    async with asyncio.timeout(20), connect(url + path, additional_headers=headers) as socket:
        yield Client(socket)


def text(said: str, context: str = "a", **more: Any) -> Message:
    return {"text": said, "context_id": context, **more}


def line(said: str, context: str = "a") -> Message:
    return {"context_id": context, "inputs": [{"text": said, "voice_id": "v", "new_turn": True}]}


def close(context: str = "a") -> Message:
    return {"context_id": context, "close_context": True}


def is_final(message: Message) -> bool:
    return message.get("isFinal") is True or message.get("is_final") is True


def sound(pcm: bytes, *, commit: bool = False) -> Message:
    message = {
        "message_type": "input_audio_chunk",
        "audio_base_64": b64encode(pcm).decode(),
        "commit": commit,
        "sample_rate": 16_000,
    }
    assert _unknown_fields(sdk.InputAudioChunkPayload.model_validate(message)) == []
    return message


@pytest.mark.parametrize(
    ("path", "messages"),
    [
        (SPEECH, [text(" "), text(SENTENCE), close()]),
        (DIALOGUE, [{"context_id": "a", "voices": ["v"]}, line(SENTENCE), close()]),
    ],
)
async def test_text_is_spoken_aligned_and_billed_by_its_characters(
    server: Server, path: str, messages: list[Message]
) -> None:
    vendor = ElevenLabsSandbox()
    async with client(server, vendor, path) as c:
        await c.send(*messages)
        heard = await c.until(is_final)
    chunks = [one for one in heard if "audio" in one]
    spoken = b"".join(b64decode(one["audio"]) for one in chunks)
    assert spoken == synthesize(SENTENCE, sample_rate=16_000)
    assert "".join("".join(one["alignment"]["chars"]) for one in chunks) == SENTENCE
    [billed] = vendor.bill.lines
    assert (billed.kind, billed.outcome) == ("tts", "complete")
    assert billed.model in path
    assert billed.amounts == Amounts(characters=len(SENTENCE))


async def test_what_opens_a_context_or_keeps_it_alive_is_not_billed(server: Server) -> None:
    vendor = ElevenLabsSandbox()
    async with client(server, vendor, SPEECH) as c:
        await c.send({"text": ""}, text(" ", voice_settings={"speed": 1.1}), text(""), close())
        assert await c.until(is_final) == [{"isFinal": True, "contextId": "a"}]
    assert vendor.bill.lines == []


async def test_without_the_automatic_mode_text_waits_for_more_or_for_a_flush(
    server: Server,
) -> None:
    async with client(
        server, ElevenLabsSandbox(), SPEECH.replace("auto_mode=true", "auto_mode=false")
    ) as c:
        await c.send(text(" "), text(SENTENCE))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(c.hear(), 0.2)
        await c.send({"context_id": "a", "flush": True})
        assert (await c.hear())["audio"]


async def test_contexts_are_spoken_apart_and_the_last_of_them_close_the_connection(
    server: Server,
) -> None:
    vendor = ElevenLabsSandbox()
    async with client(server, vendor, SPEECH) as c:
        await c.send(text("One. "), text("Two, two. ", "b"), close(), {"close_socket": True})
        heard, code = await c.closed()
    assert code == 1000
    assert {one["contextId"] for one in heard if is_final(one)} == {"a", "b"}
    assert sorted(one.amounts.characters for one in vendor.bill.lines) == [5, 10]


async def test_what_nobody_waits_for_is_billed_all_the_same(server: Server) -> None:
    vendor = ElevenLabsSandbox()
    vendor.faults.add(Fault(kind="slow_tokens", delay_secs=5))
    async with client(server, vendor, SPEECH) as c:
        await c.send(text(" "), text(SENTENCE))
    [billed] = await vendor.bill.settled()
    assert (billed.outcome, billed.amounts.characters) == ("disconnected", len(SENTENCE))


@pytest.mark.parametrize(
    ("path", "messages", "error"),
    [
        (SPEECH, ["nonsense"], "invalid_message"),
        (SPEECH, [text(" "), text("Hi.", voice_settings={"speed": 1.1})], "invalid_message"),
        (SPEECH, [text(" ", str(n)) for n in range(6)], "max_active_conversations"),
        (SPEECH.replace("eleven_flash_v2_5", "eleven_v3"), [], "unsupported_model"),
        (SPEECH.replace("pcm_16000", "mp3_44100_128"), [], "output_format_not_allowed"),
        (f"{SPEECH}&inactivity_timeout=0.1", [text(" ")], "input_timeout_exceeded"),
        (DIALOGUE, [line("Hi.")], "invalid_message"),
        (DIALOGUE, [{"voices": ["v"]}], "invalid_message"),
        (DIALOGUE.replace("eleven_v3_conversational", "eleven_v2"), [], "unsupported_model"),
    ],
)
async def test_an_error_is_named_and_closes(
    server: Server, path: str, messages: list[Any], error: str
) -> None:
    vendor = ElevenLabsSandbox()
    async with client(server, vendor, path) as c:
        await c.send(*messages)
        heard, code = await c.closed()
    assert (heard[-1]["error"], heard[-1]["code"], code) == (error, 1008, 1008)
    assert vendor.bill.lines == []


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (SPEECH, {"error": "invalid_api_key"}),
        (DIALOGUE, {"error": "authentication_required"}),
        (REALTIME, {"message_type": "auth_error"}),
    ],
)
@pytest.mark.parametrize("key", [None, "wrong"])
async def test_who_has_no_key_is_told_so(
    server: Server, path: str, told: Message, key: str | None
) -> None:
    async with client(server, ElevenLabsSandbox(api_keys=["a key"]), path, key) as c:
        (heard,), code = await c.closed()
    assert told.items() <= heard.items()
    assert code == 1008


async def test_sound_is_transcribed_while_it_is_spoken_and_billed_by_the_second(
    server: Server,
) -> None:
    known = recordings(SAID)
    vendor = ElevenLabsSandbox(hear=Ears(known, 16_000).transcribe)
    quiet = bytes(32_000)
    sent = 0
    async with client(server, vendor, REALTIME) as c:
        assert (await c.hear())["config"]["model_id"] == "scribe_v2_realtime"
        for words in SAID:
            pcm = quiet + known[words] + quiet
            sent += len(pcm)
            await c.send(*(sound(pcm[at : at + 3_200]) for at in range(0, len(pcm), 3_200)))
            await c.send(sound(b"", commit=True))
            heard = await c.until(lambda one: one["message_type"] == "committed_transcript")
            assert heard[-1]["text"] == words
            assert len(heard) > 1
    [billed] = await vendor.bill.settled()
    assert (billed.kind, billed.model, billed.outcome) == ("stt", "scribe_v2_realtime", "complete")
    lasted = (Decimal(sent) / 32_000).quantize(Decimal("0.000001"))
    assert billed.amounts == Amounts(audio_seconds=lasted)


async def test_telephone_sound_is_heard_as_well(server: Server) -> None:
    known = recordings(SAID, sample_rate=8_000)
    vendor = ElevenLabsSandbox(hear=Ears(known, 8_000).transcribe)
    coded = mulaw.encode(known[SAID[0]])
    async with client(server, vendor, REALTIME.replace("pcm_16000", "ulaw_8000")) as c:
        await c.send(sound(coded, commit=True))
        heard = await c.until(lambda one: one["message_type"] == "committed_transcript")
    assert heard[-1]["text"] == SAID[0]
    [billed] = await vendor.bill.settled()
    assert billed.amounts.audio_seconds == Decimal(len(coded)) / 8_000


@pytest.mark.parametrize(
    ("asked", "language", "words"),
    [
        ("include_timestamps=true&language_code=de", "de", 6),
        ("include_language_detection=true", "en", None),
    ],
)
async def test_a_final_transcript_may_have_details(
    server: Server, asked: str, language: str, words: int | None
) -> None:
    async with client(server, ElevenLabsSandbox(), f"{REALTIME}&{asked}") as c:
        await c.send(sound(b"\x10\x20" * 16_000, commit=True))
        heard = await c.until(lambda one: one["message_type"].endswith("timestamps"))
    assert heard[-2]["message_type"] == "committed_transcript"
    assert heard[-1]["language_code"] == language
    assert heard[-1]["words"] is None if words is None else len(heard[-1]["words"]) == words


async def test_a_commit_of_hardly_anything_is_ignored(server: Server) -> None:
    async with client(server, ElevenLabsSandbox(), REALTIME) as c:
        await c.hear()
        await c.send(sound(bytes(3_200), commit=True))
        assert (await c.hear())["message_type"] == "commit_throttled"
        await c.send(sound(bytes(32_000), commit=True))
        assert (await c.hear()) == {"message_type": "committed_transcript", "text": ""}


@pytest.mark.parametrize(
    ("path", "messages", "kind"),
    [
        (REALTIME, ["nonsense"], "input_error"),
        (REALTIME, [{**sound(b""), "audio_base_64": "?"}], "input_error"),
        (REALTIME, [{"message_type": "something"}], "input_error"),
        (REALTIME, [], "insufficient_audio_activity"),
        (REALTIME.replace("scribe_v2_realtime", "whisper-1"), [], "invalid_request"),
        (REALTIME.replace("pcm_16000", "opus"), [], "invalid_request"),
        (f"{REALTIME}&commit_strategy=vad", [], "invalid_request"),
    ],
)
async def test_what_the_ears_cannot_do_is_said_and_closes(
    server: Server, path: str, messages: list[Any], kind: str
) -> None:
    vendor = ElevenLabsSandbox(idle_secs=0.1)
    async with client(server, vendor, path) as c:
        await c.send(*messages)
        heard, code = await c.closed()
    assert (heard[-1]["message_type"], code) == (kind, 1008)
    assert vendor.bill.lines == []


async def test_what_is_no_web_socket_is_not_there(server: Server) -> None:
    http = await server.http(ElevenLabsSandbox())
    answer = await http.get("/v1/voices")
    assert (answer.status_code, answer.json()["detail"]["status"]) == (404, "not_found")
