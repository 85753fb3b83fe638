"""ElevenLabs' speech to text: the seconds of the sound that is sent."""

from __future__ import annotations

from base64 import b64encode
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.usage.events import Outcome, Provenance, Quantities
from flow.domain.usage.units import Kind
from flow.metering.wires.elevenlabs_realtime import ElevenLabsRealtime
from tests.metering.wires.talking import Talk

URL = "wss://h/v1/speech-to-text/realtime?model_id=scribe_v2_realtime&commit_strategy=manual"
STARTED = {"message_type": "session_started", "session_id": "s", "config": {}}
COMMITTED = {"message_type": "committed_transcript", "text": "Hello."}
COMMIT = {
    "message_type": "input_audio_chunk",
    "audio_base_64": "",
    "commit": True,
    "sample_rate": 16_000,
}


def talk(audio_format: str | None = "pcm_16000") -> Talk:
    known = "" if audio_format is None else f"&audio_format={audio_format}"
    return Talk(ElevenLabsRealtime, URL + known, Kind.STT)


def chunk(size: int) -> dict[str, Any]:
    return {**COMMIT, "audio_base_64": b64encode(bytes(size)).decode(), "commit": False}


def error(kind: str) -> dict[str, Any]:
    return {"message_type": kind, "error": "You cannot."}


def total(t: Talk) -> Decimal:
    return sum((event.quantities.seconds() for event in t.events), Decimal(0))


def test_the_sound_that_was_sent_is_counted() -> None:
    t = talk()
    t.receive(STARTED)
    t.send(chunk(32_000), COMMIT)
    t.receive({"message_type": "partial_transcript", "text": "Hel"}, COMMITTED)
    t.send(chunk(3_200))
    (event,) = t.close()
    assert event.quantities == Quantities(audio_seconds=Decimal("1.1"))
    assert (event.provenance, event.outcome) == (Provenance.MEASURED, Outcome.OK)
    assert event.model == "scribe_v2_realtime"
    assert event.time_to_first_token_secs is not None


def test_silence_that_keeps_an_idle_connection_open_is_billed() -> None:
    t = talk()
    t.send(*[chunk(3_200)] * 5)
    t.close()
    assert total(t) == Decimal("0.5")


def test_a_connection_without_sound_costs_nothing() -> None:
    t = talk()
    t.receive(STARTED)
    t.send(COMMIT)
    assert t.close() == []


@pytest.mark.parametrize(
    ("audio_format", "size", "seconds"),
    [
        ("pcm_16000", 32_000, "1"),
        ("pcm_8000", 16_000, "1"),
        ("pcm_44100", 44_100, "0.5"),
        ("pcm_48000", 9_600, "0.1"),
        ("ulaw_8000", 8_000, "1"),
        (None, 32_000, "1"),
        ("opus", 32_000, "1"),
    ],
)
def test_how_long_sound_is_depends_on_its_format(
    audio_format: str | None, size: int, seconds: str
) -> None:
    t = talk(audio_format)
    t.send(chunk(size))
    t.close()
    assert total(t) == Decimal(seconds)


@pytest.mark.parametrize("garbage", ["\U0001f600", "A", "*", 5, None, ["AAAA"]])
def test_what_is_no_sound_is_none(garbage: Any) -> None:
    t = talk()
    t.send({**COMMIT, "audio_base_64": garbage}, chunk(32_000))
    t.close()
    assert total(t) == 1


@given(st.lists(st.integers(0, 40_000).map(lambda n: 2 * n), min_size=1))
def test_chunks_add_up_to_the_sound(sizes: list[int]) -> None:
    t = talk("pcm_44100")
    t.send(*(chunk(size) for size in sizes))
    t.close()
    assert abs(total(t) - Decimal(sum(sizes)) / 88_200) <= Decimal("0.000001")


@pytest.mark.parametrize("kind", ["auth_error", "quota_exceeded", "rate_limited", "error"])
@pytest.mark.parametrize("is_started", [True, False])
def test_an_error_before_any_sound_is_on_record_and_costs_nothing(
    kind: str, is_started: bool
) -> None:
    t = talk()
    if is_started:
        t.receive(STARTED)
    t.receive(error(kind))
    (event,) = t.close(1008, by_us=False)
    assert (event.quantities, event.outcome) == (Quantities(), Outcome.ERROR)
    assert event.failure is not None
    assert event.failure.message.endswith(kind)


def test_an_error_in_place_of_the_first_word_refuses_all_sound() -> None:
    t = talk()
    t.send(chunk(64_000))
    t.receive(error("quota_exceeded"))
    t.send(chunk(64_000))
    (event,) = t.close(1008, by_us=False)
    assert (event.quantities, event.outcome) == (Quantities(), Outcome.ERROR)
    assert event.provenance is Provenance.MEASURED


@pytest.mark.parametrize("kind", ["quota_exceeded", "session_time_limit_exceeded", "input_error"])
@pytest.mark.parametrize("code", [1000, 1008])
def test_an_error_after_sound_is_why_it_failed(kind: str, code: int) -> None:
    t = talk()
    t.receive(STARTED)
    t.send(chunk(32_000))
    t.receive(error(kind))
    (event,) = t.close(code, by_us=False)
    assert event.quantities == Quantities(audio_seconds=Decimal(1))
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.ERROR)
    assert event.failure is not None
    assert event.failure.message.endswith(kind)


def test_a_commit_that_came_too_soon_fails_nothing() -> None:
    t = talk()
    t.receive(STARTED)
    t.send(chunk(3_200), COMMIT)
    t.receive(error("commit_throttled"))
    (event,) = t.close()
    assert (event.provenance, event.outcome) == (Provenance.MEASURED, Outcome.OK)


@pytest.mark.parametrize("message", ["{", "[]", b"\xff"])
def test_nonsense_fails_the_sound_that_it_answers(message: str | bytes) -> None:
    t = talk()
    t.send(chunk(32_000))
    t.receive(message)
    (event,) = t.close()
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.ERROR)


@pytest.mark.parametrize("audio", ["?", 5, None, "AAA"])
def test_a_chunk_that_holds_no_sound_is_none(audio: Any) -> None:
    t = talk()
    t.send({**COMMIT, "audio_base_64": audio})
    assert t.close() == []
