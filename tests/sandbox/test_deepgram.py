"""Deepgram's stand-in, held to the models of Deepgram's own SDK."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from deepgram.listen.v1.types import (
    ListenV1Error,
    ListenV1Metadata,
    ListenV1Results,
    ListenV1SpeechStarted,
    ListenV1UtteranceEnd,
)
from deepgram.listen.v2.types import ListenV2Connected, ListenV2FatalError, ListenV2TurnInfo
from deepgram.speak.v1.types import (
    SpeakV1Cleared,
    SpeakV1Flushed,
    SpeakV1Metadata,
    SpeakV1Warning,
)
from pydantic import BaseModel
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from flow.sandbox.deepgram.app import DeepgramSandbox
from flow.sandbox.deepgram.hearing import HearingPace
from flow.sandbox.server import Served
from flow.sandbox.speech.recognition import Ears
from flow.sandbox.speech.synthesis import recordings, synthesize
from flow.sandbox.speech.voice_pace import VoicePace

MODELS: Mapping[str, Mapping[str, type[BaseModel]]] = {
    "/v1/listen": {
        "Results": ListenV1Results,
        "Metadata": ListenV1Metadata,
        "SpeechStarted": ListenV1SpeechStarted,
        "UtteranceEnd": ListenV1UtteranceEnd,
        "Error": ListenV1Error,
    },
    "/v2/listen": {
        "Connected": ListenV2Connected,
        "TurnInfo": ListenV2TurnInfo,
        "Error": ListenV2FatalError,
    },
    "/v1/speak": {
        "Metadata": SpeakV1Metadata,
        "Flushed": SpeakV1Flushed,
        "Cleared": SpeakV1Cleared,
        "Warning": SpeakV1Warning,
    },
}
OUTSIDE_THE_SDK = {"sha256"}
"""Fields that the reference has and the SDK does not know."""
RATE = 16_000
TEXTS = ("What is the weather like today?", "I would like a table for two on Friday evening.")
SOUNDS = recordings(TEXTS, sample_rate=RATE)
EARS = Ears(SOUNDS, RATE).transcribe
PAUSE = bytes(RATE)
"""Half a second of silence."""
KEY = {"Authorization": "Token a key"}
LISTEN = f"/v1/listen?model=nova-3-general&encoding=linear16&sample_rate={RATE}"
FLUX = f"/v2/listen?model=flux-general-en&encoding=linear16&sample_rate={RATE}"
SPEAK = "/v1/speak?model=aura-2-thalia-en&encoding=linear16&sample_rate=24000"


@dataclass
class Client:
    """A connection, and what has come over it."""

    path: str
    socket: ClientConnection
    received: list[Any] = field(default_factory=list)

    async def send(self, *messages: Mapping[str, Any] | str | bytes) -> None:
        for message in messages:
            is_json = isinstance(message, Mapping)
            await self.socket.send(json.dumps(message) if is_json else message)

    async def stream(self, *sounds: bytes) -> None:
        """Send sound in frames of 20 ms, faster than it is heard."""
        whole = b"".join(sounds)
        for start in range(0, len(whole), RATE // 25):
            await self.socket.send(whole[start : start + RATE // 25])

    async def until(self, *types: str) -> list[Any]:
        """What comes up to the next message of one of these types."""
        start = len(self.received)
        async with asyncio.timeout(30):
            while len(self.received) == start or self.received[-1].get("type") not in types:
                self.received.append(self._checked(await self.socket.recv()))
        return self.received[start:]

    async def closed(self) -> tuple[int, str]:
        """With what code and reason the other side closes; what comes before is kept."""
        with suppress(ConnectionClosed):
            async with asyncio.timeout(30):
                while True:
                    self.received.append(self._checked(await self.socket.recv()))
        assert self.socket.close_code is not None
        return self.socket.close_code, self.socket.close_reason or ""

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.received if message.get("type") == kind]

    def _checked(self, raw: str | bytes) -> dict[str, Any]:
        if isinstance(raw, bytes):
            return {"type": "sound", "bytes": raw}
        message: dict[str, Any] = json.loads(raw)
        model = MODELS[self.path][message["type"]]
        model.model_validate(message, strict=True)
        assert message.keys() - model.model_fields.keys() <= OUTSIDE_THE_SDK
        return message


@asynccontextmanager
async def talking(
    sandbox: DeepgramSandbox, target: str, headers: Mapping[str, str] = KEY
) -> AsyncIterator[Client]:
    async with Served(sandbox) as url:
        address = f"ws{url.removeprefix('http')}{target}"
        async with connect(address, additional_headers=headers, compression=None) as socket:
            yield Client(target.partition("?")[0], socket)


def billed(sandbox: DeepgramSandbox) -> list[tuple[str, Decimal, int]]:
    """The model, seconds and characters of each line."""
    return [(a.model, a.amounts.audio_seconds, a.amounts.characters) for a in sandbox.bill.lines]


def finals(client: Client) -> list[str]:
    texts = [
        result["channel"]["alternatives"][0]["transcript"]
        for result in client.of("Results")
        if result["is_final"]
    ]
    return [text for text in texts if text]


async def test_nova_hears_what_is_said_and_says_how_long_it_was() -> None:
    sandbox = DeepgramSandbox(hear=EARS, hearing_pace=HearingPace(final=0.3))
    query = "&interim_results=true&vad_events=true&utterance_end_ms=1000"
    sounds = (PAUSE, SOUNDS[TEXTS[0]], PAUSE * 3, SOUNDS[TEXTS[1]])
    async with talking(sandbox, LISTEN + query) as client:
        await client.stream(*sounds)
        await client.send({"type": "CloseStream"})
        assert await client.closed() == (1000, "")
    assert " ".join(finals(client)) == " ".join(TEXTS)
    assert len(client.of("SpeechStarted")) >= 2
    assert len(client.of("UtteranceEnd")) == 1
    assert any(not result["is_final"] for result in client.of("Results"))
    (metadata,) = client.of("Metadata")
    assert client.received[-1] is metadata
    seconds = Decimal(len(b"".join(sounds))) / (2 * RATE)
    assert Decimal(repr(metadata["duration"])) == seconds.quantize(Decimal("0.000001"))
    assert billed(sandbox) == [("nova-3-general", seconds.quantize(Decimal("0.000001")), 0)]


async def test_nova_answers_a_finalize_at_once_and_after_its_time() -> None:
    sandbox = DeepgramSandbox(hear=EARS, hearing_pace=HearingPace(final=0.2))
    async with talking(sandbox, LISTEN) as client:
        await client.stream(SOUNDS[TEXTS[0]])
        asked = time.monotonic()
        await client.send({"type": "Finalize"})
        while not (await client.until("Results"))[-1]["from_finalize"]:
            pass
        assert time.monotonic() - asked >= 0.2
        await client.send({"type": "Finalize"})
        (empty,) = await client.until("Results")
    assert " ".join(finals(client)) == TEXTS[0]
    assert empty["from_finalize"] is True
    assert empty["channel"]["alternatives"][0]["transcript"] == ""


async def test_nova_hears_two_channels_apart_and_bills_both() -> None:
    sandbox = DeepgramSandbox(hear=EARS, hearing_pace=HearingPace(final=0.3))
    first, second = (SOUNDS[text] for text in TEXTS)
    size = max(len(first), len(second))
    pairs = zip(_samples(first, size), _samples(second, size), strict=True)
    both = b"".join(left + right for left, right in pairs)
    async with talking(sandbox, f"{LISTEN}&channels=2&multichannel=true") as client:
        await client.stream(both)
        await client.send(b"")  # an old way to close the stream
        await client.closed()
    said: dict[int, list[str]] = {0: [], 1: []}
    for result in client.of("Results"):
        number, count = result["channel_index"]
        assert count == 2
        said[number] += [result["channel"]["alternatives"][0]["transcript"]]
    assert [" ".join(filter(None, texts)) for texts in said.values()] == list(TEXTS)
    (metadata,) = client.of("Metadata")
    assert metadata["channels"] == 2
    assert billed(sandbox)[0][1] == 2 * Decimal(repr(metadata["duration"]))


def _samples(sound: bytes, size: int) -> list[bytes]:
    padded = sound.ljust(size, b"\0")
    return [padded[n : n + 2] for n in range(0, size, 2)]


async def test_a_connection_costs_a_second_at_the_least() -> None:
    sandbox = DeepgramSandbox()
    for target in (LISTEN, FLUX):
        async with talking(sandbox, target):
            pass
    await sandbox.bill.settled()
    expected = [("nova-3-general", Decimal(1), 0), ("flux-general-en", Decimal(1), 0)]
    assert billed(sandbox) == expected


async def test_nova_closes_an_idle_connection_unless_it_is_kept_open() -> None:
    sandbox = DeepgramSandbox(idle_secs=0.3)
    async with talking(sandbox, LISTEN) as client:
        for _ in range(4):
            await asyncio.sleep(0.15)
            await client.send({"type": "KeepAlive"})
        assert await client.closed() == (1011, "NET-0001")
    assert billed(sandbox) == [("nova-3-general", Decimal(1), 0)]


@pytest.mark.parametrize(
    ("target", "message", "expected"),
    [
        (LISTEN, "no JSON", (1008, "DATA-0000")),
        (FLUX, "no JSON", (1008, "DATA-0000")),
        (SPEAK, "no JSON", (1008, "DATA-0000")),
        (SPEAK, b"no text", (1003, "MESSAGE-0000")),
    ],
)
async def test_what_cannot_be_read_closes_the_connection(
    target: str, message: str | bytes, expected: tuple[int, str]
) -> None:
    async with talking(DeepgramSandbox(), target) as client:
        await client.send(message)
        assert await client.closed() == expected


@pytest.mark.parametrize(("target", "kind"), [(LISTEN, "Error"), (SPEAK, "Warning")])
async def test_an_unknown_message_is_answered(target: str, kind: str) -> None:
    async with talking(DeepgramSandbox(), target) as client:
        await client.send({"type": "Nonsense"})
        await client.until(kind)


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        (LISTEN, {}, 401),
        (SPEAK, {"Authorization": "Token another"}, 401),
        (LISTEN.replace("linear16", "opus"), KEY, 400),
        (LISTEN.replace("16000", "fast"), KEY, 400),
        (FLUX.replace("model=", "m="), KEY, 400),
        (SPEAK.replace("aura", "nova"), KEY, 400),
    ],
)
async def test_a_refused_handshake_says_why(
    target: str, headers: Mapping[str, str], status: int
) -> None:
    sandbox = DeepgramSandbox(api_keys=["a key"])
    with pytest.raises(InvalidStatus) as refused:
        async with talking(sandbox, target, headers):
            pass
    answer = refused.value.response
    assert answer.status_code == status
    assert answer.headers["dg-error"] == json.loads(answer.body)["err_msg"]
    assert answer.headers["dg-request-id"]
    assert sandbox.bill.lines == []


async def test_flux_tells_turns() -> None:
    sandbox = DeepgramSandbox(hear=EARS, hearing_pace=HearingPace(end_of_turn=0.6))
    async with talking(sandbox, f"{FLUX}&eager_eot_threshold=0.4") as client:
        await client.until("Connected")
        await client.stream(PAUSE, SOUNDS[TEXTS[0]], PAUSE[: RATE // 10 * 9], SOUNDS[TEXTS[1]])
        await client.stream(PAUSE, PAUSE, SOUNDS[TEXTS[0]])
        await client.send({"type": "CloseStream"})
        assert await client.closed() == (1005, "")
    turns = client.of("TurnInfo")
    events = [turn["event"] for turn in turns]
    assert events[0] == "StartOfTurn"
    assert events.index("EagerEndOfTurn") < events.index("TurnResumed") < events.index("EndOfTurn")
    assert events.count("EndOfTurn") == 1
    assert events[-1] == "Update"
    ended = turns[events.index("EndOfTurn")]
    assert ended["transcript"] == " ".join(TEXTS)
    assert [turns[0]["turn_index"], turns[-1]["turn_index"]] == [0, 1]
    sequence = [message["sequence_id"] for message in client.received]
    assert sequence == list(range(len(sequence)))


async def test_flux_fails_at_a_message_that_it_does_not_know() -> None:
    async with talking(DeepgramSandbox(), FLUX) as client:
        await client.send({"type": "KeepAlive"})
        assert (await client.closed())[0] == 1008
    assert client.of("Error")


async def test_aura_speaks_and_bills_characters() -> None:
    sandbox = DeepgramSandbox()
    async with talking(sandbox, SPEAK) as client:
        await client.until("Metadata")
        text = r'Take \{"word": "this", "pronounce": "ðis"\} now. '
        await client.send({"type": "Speak", "text": text}, {"type": "Flush"})
        spoken = await client.until("Flushed")
        await client.send({"type": "Close"})
        assert (await client.closed())[0] == 1000
    sound = b"".join(message["bytes"] for message in spoken[:-1])
    assert sound == synthesize("Take this now.", sample_rate=24_000)
    assert billed(sandbox) == [("aura-2-thalia-en", Decimal(len(sound)) / 48_000, 15)]


async def test_aura_speaks_a_sentence_before_it_is_flushed() -> None:
    async with talking(DeepgramSandbox(), SPEAK) as client:
        await client.send({"type": "Speak", "text": "It is said at once. And this"})
        await client.until("sound")


async def test_what_is_cleared_is_not_spoken_any_further_and_is_billed() -> None:
    sandbox = DeepgramSandbox(voice_pace=VoicePace(times_real_time=1.0))
    async with talking(sandbox, SPEAK) as client:
        await client.send({"type": "Speak", "text": TEXTS[0]}, {"type": "Flush"})
        await client.until("sound")
        await client.send({"type": "Clear"})
        await client.until("Cleared")
        await client.send({"type": "Speak", "text": "Yes."}, {"type": "Flush"})
        spoken = await client.until("Flushed")
        await client.send({"type": "Close"})
        await client.closed()
    sound = b"".join(message["bytes"] for message in spoken[:-1])
    assert sound == synthesize("Yes.", sample_rate=24_000)
    assert [line.outcome for line in sandbox.bill.lines] == ["disconnected", "complete"]
    assert [characters for _, _, characters in billed(sandbox)] == [len(TEXTS[0]), 4]


async def test_a_voice_takes_its_time() -> None:
    pace = VoicePace(first_sound_secs=0.2, times_real_time=3.0)
    async with talking(DeepgramSandbox(voice_pace=pace), SPEAK) as client:
        asked = time.monotonic()
        await client.send({"type": "Speak", "text": TEXTS[1]}, {"type": "Flush"})
        await client.until("sound")
        first = time.monotonic() - asked
        await client.until("Flushed")
        whole = time.monotonic() - asked
    lasts = len(synthesize(TEXTS[1], sample_rate=24_000)) / 48_000
    assert first >= 0.2
    assert whole >= 0.2 + (lasts - 0.08) / 3
