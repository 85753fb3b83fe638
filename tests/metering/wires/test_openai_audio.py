"""OpenAI's speech and transcription: what is in the request, in the sound and in the report."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.audio import Transcription, TranscriptionVerbose

from flow.domain.usage.events import Outcome, Provenance, Quantities, UsageEvent
from flow.domain.usage.units import Kind
from flow.metering.evidence import Completed, Ended, Failed
from flow.metering.wires.openai_audio import OpenAISpeech, OpenAITranscription, form_fields
from flow.metering.wires.reader import Exchange, HttpRequest
from tests.metering.wires.reading import EVENT_STREAM, cut, ended, event_stream, opened, post, read
from tests.metering.wires.recordings import (
    SAID,
    SPEECH_EVENTS,
    SPEECH_REQUEST,
    TRANSCRIPT_USAGE,
    form,
    wav,
)


def segment(model: str = "gpt-4o-transcribe", **fields: str) -> Exchange:
    return opened(OpenAITranscription(), form(model=model, file=wav(3), **fields))


def transcribed(answer: Any, exchange: Exchange | None = None) -> UsageEvent:
    exchange = exchange or segment()
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return ended(exchange.opening, read(exchange, body), kind=Kind.STT)


def test_a_transcription_by_tokens_is_counted_by_the_tokens_it_reports() -> None:
    usage = {
        "type": "tokens",
        "input_tokens": 30,
        "output_tokens": 10,
        "input_token_details": {"audio_tokens": 30},
    }
    event = transcribed({"text": SAID, "usage": usage})
    assert event.quantities == Quantities(
        input_tokens=30, input_audio_tokens=30, output_tokens=10, audio_seconds=Decimal(3)
    )
    assert (event.provenance, event.outcome) == (Provenance.REPORTED, Outcome.OK)
    assert event.model == "gpt-4o-transcribe"


@pytest.mark.parametrize("seconds", [2, 2.5, 9])
def test_a_transcription_by_the_minute_is_counted_by_the_seconds_it_reports(seconds: float) -> None:
    answer = {"text": SAID, "usage": {"type": "duration", "seconds": seconds}}
    Transcription.model_validate(answer)
    event = transcribed(answer, segment("whisper-1"))
    assert event.quantities == Quantities(audio_seconds=Decimal(str(seconds)))
    assert event.provenance is Provenance.REPORTED


@pytest.mark.parametrize(
    "usage",
    [None, {}, 5, {"type": "duration"}, {"type": "duration", "seconds": -1}, {"type": "tokens"},
     {"type": "duration", "seconds": "3"}, {"type": "duration", "seconds": True}],
)  # fmt: skip
def test_without_a_report_the_seconds_that_were_sent_count(usage: Any) -> None:
    event = transcribed({"text": SAID, "usage": usage})
    assert event.quantities == Quantities(audio_seconds=Decimal(3))
    assert (event.provenance, event.outcome) == (Provenance.MEASURED, Outcome.OK)


@pytest.mark.parametrize("name", ["text", "srt", "vtt"])
def test_a_plain_transcript_is_whole_and_reports_nothing(name: str) -> None:
    event = transcribed(b"Hello", segment("whisper-1", response_format=name))
    assert (event.provenance, event.outcome) == (Provenance.MEASURED, Outcome.OK)


def test_a_verbose_transcript_is_json_too() -> None:
    answer = {
        "task": "transcribe", "language": "english", "duration": 3.0, "text": SAID,
        "usage": {"type": "duration", "seconds": 3},
    }  # fmt: skip
    TranscriptionVerbose.model_validate(answer)
    event = transcribed(answer, segment("whisper-1", response_format="verbose_json"))
    assert event.provenance is Provenance.REPORTED


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"error": {}}', b"Hello"])
def test_what_is_no_transcript_fails(body: bytes) -> None:
    found = read(segment(), body)
    assert [type(one) for one in found] == [Failed]
    assert transcribed(body).outcome is Outcome.ERROR


def test_a_contradiction_is_noted_with_both_numbers() -> None:
    usage = {**TRANSCRIPT_USAGE, "input_token_details": {"audio_tokens": 77}}
    event = transcribed({"text": SAID, "usage": usage})
    assert event.note is not None
    assert "77" in event.note
    assert "30" in event.note
    assert event.quantities["input_audio_tokens"] == 30


def test_sound_of_an_unknown_kind_has_a_length_by_its_size_and_is_not_counted() -> None:
    exchange = opened(OpenAITranscription(), form(model="whisper-1", file=b"ID3.." * 3200))
    assert exchange.opening.estimate == Quantities(audio_seconds=Decimal(2))
    assert exchange.opening.sent == Quantities()


def of_webm(**fields: str) -> Exchange:
    sound = b"\x1aE\xdf\xa3" * 8_000
    return opened(OpenAITranscription(), form(model="whisper-1", file=sound, **fields))


@pytest.mark.parametrize("name", ["text", "srt", "vtt", "json"])
def test_sound_of_an_unknown_kind_is_estimated_where_nothing_is_reported(name: str) -> None:
    answer = {"text": SAID} if name == "json" else SAID.encode()
    event = transcribed(answer, of_webm(response_format=name))
    assert event.quantities == Quantities(audio_seconds=Decimal(4))
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.OK)


def test_a_verbose_transcript_tells_how_long_such_sound_was() -> None:
    answer = {"text": SAID, "duration": 7.5, "segments": []}
    event = transcribed(answer, of_webm(response_format="verbose_json"))
    assert event.quantities == Quantities(audio_seconds=Decimal("7.5"))
    assert event.provenance is Provenance.REPORTED


def test_a_transcript_in_any_form_of_json_reports() -> None:
    answer = {"text": SAID, "segments": [], "usage": TRANSCRIPT_USAGE}
    event = transcribed(answer, segment(response_format="diarized_json"))
    assert event.provenance is Provenance.REPORTED
    assert event.quantities["output_tokens"]


def test_no_sound_at_all_is_no_sound_for_free() -> None:
    event = transcribed(b"", opened(OpenAITranscription(), form(model="whisper-1")))
    assert (event.provenance, event.quantities) == (Provenance.UNMETERED, Quantities())


@given(
    st.dictionaries(
        st.text(alphabet="abc_", min_size=1, max_size=5),
        st.binary(max_size=30).filter(lambda value: b"--limit" not in value),
        max_size=4,
    )
)
def test_the_fields_of_a_form_are_read_as_they_were_sent(fields: dict[str, bytes]) -> None:
    assert form_fields(form(**fields)) == fields


@pytest.mark.parametrize(
    ("parameters", "mark"),
    [
        ('boundary="a;b c"', "a;b c"),
        ("charset=utf-8; BOUNDARY=ab", "ab"),
        ("boundary=ab; charset=utf-8", "ab"),
    ],
)
def test_a_boundary_may_be_quoted_and_stand_anywhere(parameters: str, mark: str) -> None:
    part = 'content-disposition: form-data; name="model"\r\n\r\nwhisper-1'
    body = f"--{mark}\r\n{part}\r\n--{mark}--\r\n".encode()
    request = post("/v1/audio/transcriptions", body, f"Multipart/Form-Data; {parameters}")
    assert form_fields(request) == {"model": b"whisper-1"}


@pytest.mark.parametrize("kind", ["", "application/json", "multipart/form-data"])
def test_what_is_no_form_has_no_fields(kind: str) -> None:
    assert form_fields(post("/v1/audio/transcriptions", b"--x\r\n", kind)) == {}


# --- speech -------------------------------------------------------------------------------------


def sentence(wire: OpenAISpeech | None = None, **request: Any) -> Exchange:
    plain = {**SPEECH_REQUEST, "stream_format": None, **request}
    return opened(wire or OpenAISpeech(), post("/v1/audio/speech", plain))


@given(st.lists(st.integers(0, 10**6), max_size=40), st.integers(1, 60_000))
def test_pcm_is_as_long_as_its_bytes_however_they_are_cut(cuts: list[int], samples: int) -> None:
    exchange = sentence()
    found = read(exchange, *cut(bytes(2 * samples), cuts), content_type="audio/pcm")
    event = ended(exchange.opening, found, kind=Kind.TTS)
    seconds = (Decimal(samples) / 24_000).quantize(Decimal("0.000001"))
    assert event.quantities == Quantities(characters=len(SAID), audio_seconds=seconds)
    assert (event.provenance, event.outcome) == (Provenance.MEASURED, Outcome.OK)


def test_sound_in_another_format_cannot_be_measured() -> None:
    exchange = sentence(response_format="mp3")
    event = ended(exchange.opening, read(exchange, b"ID3"), kind=Kind.TTS)
    assert event.quantities == exchange.opening.estimate
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.OK)


def test_no_sound_is_no_speech() -> None:
    assert [type(one) for one in read(sentence())] == [Failed]


def test_a_sentence_that_is_cut_off_is_as_long_as_the_voice_speaks() -> None:
    wire = OpenAISpeech()
    text = "a" * 100
    read(sentence(wire, input=text), bytes(48_000 * 20), content_type="audio/pcm")
    exchange = sentence(wire, input=text)
    event = ended(
        exchange.opening, read(exchange, bytes(480), is_whole=False), Ended.ABANDONED, Kind.TTS
    )
    assert event.quantities["characters"] == 100
    assert 17 < event.quantities["audio_seconds"] < 20
    assert (event.provenance, event.outcome) == (Provenance.ESTIMATED, Outcome.INTERRUPTED)


def test_events_report_tokens_and_their_sound_is_counted() -> None:
    exchange = sentence(stream_format="sse")
    found = read(exchange, event_stream(SPEECH_EVENTS), content_type=EVENT_STREAM)
    assert Completed() in found
    event = ended(exchange.opening, found, kind=Kind.TTS)
    assert event.quantities == Quantities(
        characters=len(SAID),
        input_tokens=14,
        output_tokens=101,
        output_audio_tokens=101,
        audio_seconds=Decimal("0.000292"),
    )
    assert event.provenance is Provenance.REPORTED


@pytest.mark.parametrize("garbage", ["\U0001f600", "A", 5, None])
def test_events_whose_sound_is_none_report_all_the_same(garbage: Any) -> None:
    exchange = sentence(stream_format="sse")
    events = [{"type": "speech.audio.delta", "audio": garbage}, *SPEECH_EVENTS]
    found = read(exchange, event_stream(events), content_type=EVENT_STREAM)
    event = ended(exchange.opening, found, kind=Kind.TTS)
    assert event.quantities["output_tokens"] == 101
    assert event.provenance is Provenance.REPORTED


@pytest.mark.parametrize(
    ("wire", "path"), [(OpenAISpeech(), "/v1/audio/speech"), (OpenAITranscription(), "/v1/models")]
)
def test_other_requests_are_not_theirs(wire: Any, path: str) -> None:
    assert wire.open(HttpRequest("GET", path, {}, b"")) is None


def test_translations_are_transcriptions() -> None:
    request = form(model="whisper-1", file=wav(1))
    other = HttpRequest("POST", "/v1/audio/translations", request.headers, request.body)
    assert opened(OpenAITranscription(), other).opening.model == "whisper-1"


def test_a_report_of_no_seconds_is_a_report() -> None:
    event = transcribed({"text": "", "usage": {"type": "duration", "seconds": 0}})
    assert event.provenance is Provenance.REPORTED


def test_a_voice_that_says_nothing_teaches_nothing() -> None:
    voice = OpenAISpeech()
    before = sentence(voice).opening.estimate
    read(sentence(voice, response_format="pcm"), b"", content_type="audio/pcm")
    assert sentence(voice).opening.estimate == before


def test_the_characters_of_compressed_speech_stand_beside_what_is_reported() -> None:
    exchange = sentence(stream_format="sse", response_format="mp3")
    told = read(exchange, event_stream(SPEECH_EVENTS), content_type=EVENT_STREAM)
    event = ended(exchange.opening, told, kind=Kind.TTS)
    assert event.quantities["characters"] == len(SPEECH_REQUEST["input"])
    assert event.provenance is Provenance.REPORTED
