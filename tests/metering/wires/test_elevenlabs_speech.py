"""ElevenLabs' text to speech: what is sent to be spoken, context by context."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.usage.events import Outcome, Provenance, Quantities
from flow.domain.usage.units import Kind
from flow.metering.wires.elevenlabs_speech import ElevenLabsSpeech
from tests.metering.wires.talking import Talk

URL = (
    "wss://api.elevenlabs.io/v1/text-to-speech/JBFqnCBsd6RMkjVDRZzb/multi-stream-input"
    "?model_id=eleven_flash_v2_5&output_format=pcm_24000&auto_mode=true"
)
SENTENCE = "Hello there, how are you?"
INIT = {"text": " ", "context_id": "a", "voice_settings": {"stability": 0.5}}
TEXT = {"text": SENTENCE, "context_id": "a"}
CLOSE = {"context_id": "a", "close_context": True}
FINAL = {"isFinal": True, "contextId": "a"}


def talk() -> Talk:
    return Talk(ElevenLabsSpeech, URL, Kind.TTS)


def sound(text: str | None, context: str = "a") -> dict[str, Any]:
    alignment = None if text is None else {
        "chars": list(text),
        "charStartTimesMs": [10 * n for n in range(len(text))],
        "charDurationsMs": [10] * len(text),
    }  # fmt: skip
    return {"audio": "AAAA", "alignment": alignment, "contextId": context}


def test_a_turn_is_counted_by_its_characters() -> None:
    t = talk()
    t.send(INIT, TEXT, {"text": " Fine, I hope. ", "context_id": "a"}, CLOSE)
    t.receive(sound(SENTENCE), sound(" Fine, I hope. "))
    assert t.events == []
    t.receive(FINAL)
    (event,) = t.events
    assert event.quantities == Quantities(characters=len(SENTENCE) + 15)
    assert (event.provenance, event.outcome) == (Provenance.MEASURED, Outcome.OK)
    assert (event.model, event.note) == ("eleven_flash_v2_5", None)
    assert event.time_to_first_token_secs is not None
    assert t.close() == [event]


def test_what_opens_or_keeps_alive_is_not_speech() -> None:
    t = talk()
    t.send({"text": ""}, INIT, {"text": "", "context_id": "a"}, {"context_id": "a", "flush": True})
    t.send(CLOSE, {"close_socket": True})
    t.receive(FINAL)
    assert t.close(1000, by_us=False) == []
    assert t.notebook.begun == []


@pytest.mark.parametrize(
    ("messages", "characters"),
    [
        ([{"text": "Hi. ", "context_id": "a"}], 4),
        ([INIT, {"text": "Hi", "context_id": "a"}, {"text": " ", "context_id": "a"}], 3),
        ([INIT, {"text": "Hi. ", "context_id": "a", "flush": True}], 4),
        ([INIT, {"text": "Zürich 🙂", "context_id": "a"}], 8),
        ([{"text": " "}, {"text": "Hi. "}], 4),
    ],
    ids=["no blank to open it", "a blank between words", "flushed", "any script", "unnamed"],
)
def test_every_character_that_is_to_be_spoken_counts(
    messages: list[dict[str, Any]], characters: int
) -> None:
    t = talk()
    t.send(*messages)
    (event,) = t.close()
    assert event.quantities == Quantities(characters=characters)


def test_contexts_are_told_apart() -> None:
    t = talk()
    t.send(TEXT, {"text": "More.", "context_id": "b"}, CLOSE)
    t.receive(sound(SENTENCE), sound("More.", "b"), FINAL)
    t.send({"context_id": "b", "close_context": True})
    t.receive({"isFinal": True, "contextId": "b"}, FINAL)
    assert [event.quantities["characters"] for event in t.events] == [len(SENTENCE), 5]
    assert len(t.close()) == 2


@pytest.mark.parametrize("is_sent_whole", [True, False])
@pytest.mark.parametrize(
    ("sounds", "voiced"),
    [([], 0), ([sound("Hello ")], 5), ([sound("Hello "), sound("there, ")], 10)],
)
def test_a_barge_in_leaves_all_that_was_sent_billed(
    sounds: list[dict[str, Any]], voiced: int, is_sent_whole: bool
) -> None:
    t = talk()
    t.send(INIT, TEXT, *([CLOSE] if is_sent_whole else []))
    t.receive(*sounds)
    t.interrupt("a")
    (event,) = t.events
    assert event.quantities == Quantities(characters=len(SENTENCE))
    assert (event.provenance, event.outcome) == (Provenance.MEASURED, Outcome.INTERRUPTED)
    assert event.note == f"{voiced} of 19 letters were spoken; all that were sent count"
    t.send(CLOSE)
    t.receive(sound("rest"), FINAL)
    t.interrupt("a")
    assert t.close() == [event]


@pytest.mark.parametrize(
    ("sounds", "note"),
    [
        ([sound(SENTENCE)], None),
        ([sound("Hello "), sound("there, how are you")], None),
        ([sound("Hello "), sound(None)], None),
        ([], "0 of 19 letters were spoken; all that were sent count"),
        ([sound("Hello ")], "5 of 19 letters were spoken; all that were sent count"),
    ],
)
def test_what_the_vendor_leaves_out_is_noted(sounds: list[dict[str, Any]], note: str) -> None:
    t = talk()
    t.send(INIT, TEXT, CLOSE)
    t.receive(*sounds, FINAL)
    (event,) = t.events
    assert event.quantities == Quantities(characters=len(SENTENCE))
    assert (event.provenance, event.outcome) == (Provenance.MEASURED, Outcome.OK)
    assert event.note == note


def test_hanging_up_interrupts_what_is_being_spoken() -> None:
    t = talk()
    t.send(INIT, TEXT)
    (event,) = t.close()
    assert (event.provenance, event.outcome) == (Provenance.MEASURED, Outcome.INTERRUPTED)
    assert event.quantities == Quantities(characters=len(SENTENCE))


@pytest.mark.parametrize("code", [1008, 1011, None])
def test_a_connection_that_breaks_off_leaves_an_estimate(code: int | None) -> None:
    t = talk()
    t.send(INIT, TEXT)
    t.receive(sound("Hello"))
    (event,) = t.close(code, by_us=False)
    assert event.quantities == Quantities(characters=len(SENTENCE))
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.ERROR)
    assert event.failure is not None
    assert event.failure.type == "ConnectionClosed"


QUOTA = {"message": "This exceeds your quota.", "error": "quota_exceeded", "code": 1008}


@pytest.mark.parametrize(
    ("sounds", "counted", "provenance"),
    [([], 0, Provenance.MEASURED), ([sound("Hello")], 1, Provenance.ESTIMATED)],
    ids=["before it has spoken", "after"],
)
def test_an_error_is_the_reason_why_all_that_is_open_failed(
    sounds: list[dict[str, Any]], counted: int, provenance: Provenance
) -> None:
    t = talk()
    t.send(TEXT, {"text": "More.", "context_id": "b"})
    t.receive(*sounds, QUOTA)
    failures = [event.failure and event.failure.message for event in t.events]
    assert failures == ["the vendor failed in mid-answer: quota_exceeded"] * 2
    characters = [event.quantities["characters"] for event in t.events]
    assert characters == [counted * len(SENTENCE), counted * 5]
    assert {event.outcome for event in t.events} == {Outcome.ERROR}
    assert {event.provenance for event in t.events} == {provenance}
    assert len(t.close(1008, by_us=False)) == 2


def test_an_error_before_anything_was_asked_is_on_record_and_costs_nothing() -> None:
    t = talk()
    t.receive({"message": "Invalid API key", "error": "invalid_api_key", "code": 1008})
    (event,) = t.close(1008, by_us=False)
    assert (event.quantities, event.outcome) == (Quantities(), Outcome.ERROR)
    assert event.failure is not None
    assert event.failure.message.endswith("invalid_api_key")


@pytest.mark.parametrize("message", ["{", "[]", "null", b"\xff", '"text"'])
def test_nonsense_fails_what_is_open(message: str | bytes) -> None:
    t = talk()
    t.receive(message)
    t.send(INIT, TEXT)
    t.receive(message, sound(SENTENCE), FINAL)
    (event,) = t.close()
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.ERROR)
    assert event.quantities == Quantities(characters=len(SENTENCE))


def test_a_process_that_dies_leaves_what_was_sent_so_far() -> None:
    t = talk()
    t.send(INIT, TEXT, {"text": "More.", "context_id": "a"})
    assert t.estimate.quantities == Quantities(characters=len(SENTENCE) + 5)


def test_a_dialogue_is_read_as_well() -> None:
    """Eleven v3 and v4: other names for the same (``text_to_dialogue_websocket_*`` of the SDK)."""
    url = "wss://h/v1/text-to-dialogue/multi-stream-input?model_id=eleven_v3_conversational"
    t = Talk(ElevenLabsSpeech, url, Kind.TTS)
    keepalive = {"context_id": "pipecat-keepalive", "voices": ["v"]}
    line = {"text": "Hello. ", "voice_id": "v", "new_turn": True}
    t.send(keepalive, {"context_id": "a", "voices": ["v"]}, {"context_id": "a", "inputs": [line]})
    t.send({"context_id": "pipecat-keepalive", "keep_alive": True}, CLOSE)
    alignment = {"chars": list("Hello. "), "char_start_times_ms": [0] * 7, "char_durations_ms": []}
    t.receive(
        {"audio": "AAAA", "alignment": alignment, "context_id": "a"},
        {"is_final_audio_for_turn": True, "context_id": "a"},
        {"is_final": True, "context_id": "a"},
    )
    (event,) = t.close()
    assert event.quantities == Quantities(characters=7)
    assert (event.model, event.outcome) == ("eleven_v3_conversational", Outcome.OK)


@given(st.lists(st.text(min_size=1), min_size=1), st.booleans())
def test_however_the_text_is_cut_its_characters_are_counted(
    texts: list[str], is_hung_up: bool
) -> None:
    t = talk()
    t.send(INIT, TEXT, *({"text": text, "context_id": "a"} for text in texts), CLOSE)
    if not is_hung_up:
        t.receive(sound(None), FINAL)
    (event,) = t.close()
    assert event.quantities["characters"] == len(SENTENCE) + sum(len(text) for text in texts)
