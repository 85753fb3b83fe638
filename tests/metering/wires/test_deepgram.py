"""Deepgram's connections, in messages written after its reference."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from flow.domain.usage.events import Outcome, Provenance, UsageEvent
from flow.domain.usage.units import Kind
from flow.metering.meter import Meter, Service
from flow.metering.taps.socket import SocketTap
from flow.metering.wires.deepgram_listen import DeepgramFlux, DeepgramListen
from flow.metering.wires.deepgram_speak import DeepgramSpeak, billed_characters
from flow.metering.wires.socket import SocketWire
from tests.events import an_owner
from tests.notebook import Notebook

LISTEN = "/v1/listen?model=nova-3-general&encoding=linear16&sample_rate=16000&channels=1"
FLUX = "wss://api.deepgram.com/v2/listen?model=flux-general-en&sample_rate=16000&encoding=linear16"
SPEAK = "wss://api.deepgram.com/v1/speak?model=aura-2-thalia-en&encoding=linear16&sample_rate=24000"

OK, CUT, BAD = Outcome.OK, Outcome.INTERRUPTED, Outcome.ERROR
MEA, REP, EST = Provenance.MEASURED, Provenance.REPORTED, Provenance.ESTIMATED
SECOND = bytes(32_000)
"""At 16 kHz."""
CLOSE_STREAM = {"type": "CloseStream"}
FLUSH, CLEAR = {"type": "Flush"}, {"type": "Clear"}
FLUSHED, CLEARED = {"type": "Flushed", "sequence_id": 0}, {"type": "Cleared", "sequence_id": 0}


def results(text: str) -> dict[str, Any]:
    alternative = {"transcript": text, "confidence": 0.99, "words": []}
    return {
        "type": "Results",
        "channel_index": [0, 1],
        "start": 0.0,
        "duration": 1.0,
        "is_final": True,
        "channel": {"alternatives": [alternative]},
    }


def metadata(duration: float, channels: int = 1) -> dict[str, Any]:
    return {"type": "Metadata", "request_id": "r", "duration": duration, "channels": channels}


def speak(text: str) -> dict[str, Any]:
    return {"type": "Speak", "text": text}


class Talk:
    """One connection, played message by message."""

    def __init__(self, wire: SocketWire, url: str, kind: Kind) -> None:
        self.notebook = Notebook()
        meter = Meter(Service(kind, "deepgram", "asked"), an_owner(), self.notebook)
        self._conversation = SocketTap(meter, wire).opened(url)

    def send(self, *messages: Mapping[str, Any] | bytes | str) -> Talk:
        for message in messages:
            self._conversation.sent(_raw(message))
        return self

    def receive(self, *messages: Mapping[str, Any] | bytes | str) -> Talk:
        for message in messages:
            self._conversation.received(_raw(message))
        return self

    def close(self, code: int | None = None, *, by_us: bool = True) -> list[UsageEvent]:
        self._conversation.closed(code, by_us=by_us)
        assert self.notebook.open == set()
        return self.notebook.events


def _raw(message: Mapping[str, Any] | bytes | str) -> str | bytes:
    return json.dumps(message) if isinstance(message, Mapping) else message


def nova(url: str = LISTEN) -> Talk:
    return Talk(DeepgramListen, url, Kind.STT)


def flux() -> Talk:
    return Talk(DeepgramFlux, FLUX, Kind.STT)


def aura(url: str = SPEAK) -> Talk:
    return Talk(DeepgramSpeak, url, Kind.TTS)


def seconds(events: list[UsageEvent]) -> Decimal:
    return sum((Decimal(event.quantities["audio_seconds"]) for event in events), Decimal(0))


def characters(events: list[UsageEvent]) -> list[int]:
    return [int(event.quantities["characters"]) for event in events]


@pytest.mark.parametrize(
    ("query", "billed"),
    [
        ("", "2"),
        ("&sample_rate=16000&channels=2", "1"),
        ("&sample_rate=16000&channels=2&multichannel=true", "2"),
        ("&sample_rate=8000&encoding=mulaw", "8"),
        ("&sample_rate=8000", "4"),
    ],
)
def test_sound_is_measured_by_the_format_of_its_connection(query: str, billed: str) -> None:
    (event,) = nova(f"/v1/listen?model=nova-3{query}").send(SECOND, SECOND, CLOSE_STREAM).close()
    assert event.quantities["audio_seconds"] == Decimal(billed)


def test_what_keeps_a_connection_open_is_free() -> None:
    keep_alive, finalize = {"type": "KeepAlive"}, {"type": "Finalize"}
    (event,) = nova().send(SECOND, *[keep_alive] * 20, finalize, SECOND, CLOSE_STREAM).close()
    assert event.quantities["audio_seconds"] == 2


@pytest.mark.parametrize("talk", [nova, flux])
@pytest.mark.parametrize("sent", [0, 3_200, 31_999])
def test_a_connection_costs_a_second_at_the_least(talk: Any, sent: int) -> None:
    (event,) = talk().send(bytes(sent) or CLOSE_STREAM, CLOSE_STREAM).close()
    assert event.quantities["audio_seconds"] == 1
    assert (event.provenance, event.outcome) == (MEA, OK)


def test_what_a_dying_process_leaves_of_a_short_connection_is_what_it_costs() -> None:
    talk = nova().send(bytes(3_200))
    assert talk.notebook.begun[-1].quantities["audio_seconds"] == 1
    talk.close()


@pytest.mark.parametrize(
    ("duration", "channels", "billed", "note"),
    [
        (2.0, 1, "2", None),
        (2.04, 1, "2.04", None),
        (2.5, 1, "2.5", "the vendor heard 2.5 s of 2 s that were sent"),
        (0.25, 1, "1", "the vendor heard 0.25 s of 2 s that were sent"),
        (0.0, 0, "1", "the vendor heard 0.0 s of 2 s that were sent"),
    ],
)
def test_the_closing_report_wins(
    duration: float, channels: int, billed: str, note: str | None
) -> None:
    talk = nova().send(SECOND, SECOND).receive(results("hello"))
    (event,) = talk.send(CLOSE_STREAM).receive(metadata(duration, channels)).close()
    assert event.quantities["audio_seconds"] == Decimal(billed)
    assert (event.provenance, event.outcome, event.note) == (REP, OK, note)


def test_a_report_of_two_channels_is_of_both() -> None:
    talk = nova(f"{LISTEN}&multichannel=true".replace("channels=1", "channels=2"))
    talk.send(SECOND, SECOND, CLOSE_STREAM).receive(metadata(1.0, 2))
    (event,) = talk.close()
    assert (event.quantities["audio_seconds"], event.note) == (2, None)


@pytest.mark.parametrize(
    ("duration", "channels"),
    [
        ("2.0", 1),
        (None, 1),
        (True, 1),
        (-1.0, 1),
        (1e9, 1),
        (1e308, 1),
        (float("nan"), 1),
        # More than can be, and than the ledger takes.
        (9e8, 1),
        (2.0, 10**30),
        (3_603.0, 1),
    ],
)
def test_a_report_that_says_nothing_is_none(duration: Any, channels: int) -> None:
    talk = nova().send(SECOND, SECOND, CLOSE_STREAM).receive(metadata(duration, channels))
    (event,) = talk.close()
    assert (event.quantities["audio_seconds"], event.provenance) == (2, MEA)


@pytest.mark.parametrize("early", [0.0, 1.0])
@pytest.mark.parametrize("code", [None, 1011])
def test_what_is_sent_after_an_early_report_comes_on_top(early: float, code: int | None) -> None:
    talk = nova().send(SECOND).receive(metadata(early)).send(*[SECOND] * 40)
    events = talk.close(code, by_us=code is None)
    assert seconds(events) == 40 + Decimal(early)


def test_an_early_report_is_not_the_one_that_is_waited_for() -> None:
    reader = DeepgramListen(LISTEN)
    list(reader.sent(SECOND))
    list(reader.received(json.dumps(metadata(1.0))))
    list(reader.sent(json.dumps(CLOSE_STREAM)))
    assert reader.expects_report


def test_the_last_report_counts() -> None:
    talk = nova().send(SECOND, SECOND).receive(metadata(2.0)).send(SECOND, CLOSE_STREAM)
    (event,) = talk.receive(metadata(3.0)).close()
    assert (event.quantities["audio_seconds"], event.note) == (3, None)


@pytest.mark.parametrize("talk", [nova, flux])
def test_an_error_before_any_sound_is_on_record_with_what_the_connection_costs(talk: Any) -> None:
    error = {"type": "Error", "code": "INVALID_AUTH", "description": "..."}
    (event,) = talk().receive(error).close(1008, by_us=False)
    assert event.failure.message == "the vendor failed in mid-answer: INVALID_AUTH"
    assert (event.quantities["audio_seconds"], event.outcome) == (1, BAD)


@pytest.mark.parametrize("talk", [nova, flux])
def test_an_error_is_of_the_piece_in_which_it_came(talk: Any) -> None:
    """The connection that breaks much later breaks off another."""
    error = {"type": "Error", "variant": "UNPARSABLE_CLIENT_MESSAGE"}
    events = talk().send(SECOND).receive(error).send(*[SECOND] * 31).close(1011, by_us=False)
    assert [event.outcome for event in events] == [BAD, BAD]
    assert events[1].failure.message == "it was closed with code 1011"


def test_the_report_is_waited_for_only_once_the_stream_is_being_closed() -> None:
    reader = DeepgramListen(LISTEN)
    list(reader.sent(SECOND))
    assert not reader.expects_report
    list(reader.sent(json.dumps(CLOSE_STREAM)))
    assert reader.expects_report
    list(reader.received(json.dumps(metadata(1.0))))
    assert not reader.expects_report


def test_a_long_stream_adds_up() -> None:
    events = nova().send(*[SECOND] * 70, CLOSE_STREAM).receive(metadata(70.5)).close()
    assert [event.provenance for event in events] == [MEA, MEA, REP]
    assert seconds(events) == Decimal("70.5")


@pytest.mark.parametrize("talk", [nova, flux])
def test_a_stream_that_breaks_is_counted_as_it_was_sent(talk: Any) -> None:
    (event,) = talk().send(SECOND, SECOND).close(1011, by_us=False)
    assert event.quantities["audio_seconds"] == 2
    assert (event.provenance, event.outcome) == (EST, BAD)
    assert event.failure.message == "it was closed with code 1011"


def test_flux_closes_without_a_code_after_the_end_of_the_stream() -> None:
    (event,) = flux().send(SECOND, SECOND, CLOSE_STREAM).close(1005, by_us=False)
    assert (event.provenance, event.outcome) == (MEA, OK)


@pytest.mark.parametrize("talk", [nova, flux])
@pytest.mark.parametrize(
    ("message", "name"),
    [
        ('{"type": ', "MalformedAnswer"),
        ("[]", "MalformedAnswer"),
        (b"\x00", "MalformedAnswer"),
        ({"type": "Error", "code": "NET-0001", "description": "..."}, "APIError"),
    ],
)
def test_an_answer_that_is_none_is_a_failure(talk: Any, message: Any, name: str) -> None:
    (event,) = talk().send(SECOND).receive(message).close()
    assert (event.outcome, event.failure.type) == (BAD, name)
    assert event.quantities["audio_seconds"] == 1


@pytest.mark.parametrize(
    "message",
    [
        {"type": "Connected", "request_id": "r", "sequence_id": 0},
        {"type": "TurnInfo", "event": "StartOfTurn", "transcript": ""},
        {"type": "SpeechStarted", "channel": [0], "timestamp": 0.1},
        {"type": "Results"},
        {"type": "Results", "channel": {"alternatives": []}},
        {"type": "Something new"},
        {},
    ],
)
def test_what_says_nothing_changes_nothing(message: Any) -> None:
    for talk in (nova(), flux()):
        (event,) = talk.send(SECOND).receive(message).close()
        assert (event.outcome, event.time_to_first_token_secs) == (OK, None)


def test_several_languages_at_once_are_another_price() -> None:
    (event,) = nova(f"{LISTEN}&language=multi").send(SECOND).close()
    assert event.model == "nova-3-general-multilingual"


@pytest.mark.parametrize(
    ("text", "billed"),
    [
        ("Hello there. ", 13),
        ("", 0),
        (r'Take \{"word": "dupilumab", "pronounce": "dupilumab"\} now.', 19),
        (r'\{"word": "a\"b", "pronounce": "x"\}', 3),
        (r'\{"word": "unfinished', 21),
        (r'\{"word": "\q", "pronounce": "x"\}', 34),
        ('\\{"word": "a\nb", "pronounce": "x"\\}', 35),
        ("\U0001f600 \u00e9", 3),
    ],
)
def test_characters_are_those_of_the_text(text: str, billed: int) -> None:
    assert billed_characters(text) == billed
    (event,) = aura().send(speak(text), FLUSH).receive(b"\x00\x00", FLUSHED).close()
    assert characters([event]) == [billed]


def test_the_texts_up_to_a_flush_are_one_piece_of_work() -> None:
    talk = aura().send(speak("one "), speak("two "), FLUSH, speak("three "), FLUSH)
    talk.receive(bytes(48_000), FLUSHED, bytes(24_000), FLUSHED)
    first, second = talk.close()
    assert characters([first, second]) == [8, 6]
    assert seconds([first]) == 1
    assert seconds([second]) == Decimal("0.5")
    assert {(e.provenance, e.outcome) for e in (first, second)} == {(MEA, OK)}
    assert {event.model for event in (first, second)} == {"aura-2-thalia-en"}


def test_sound_before_the_flush_is_of_the_text_that_is_still_coming() -> None:
    talk = aura().send(speak("one. ")).receive(bytes(48_000)).send(speak("two. "), FLUSH)
    (event,) = talk.receive(FLUSHED).close()
    assert (characters([event]), seconds([event])) == ([10], 1)


def test_what_is_cleared_was_interrupted_and_counts_as_sent() -> None:
    talk = aura().send(speak("one "), FLUSH, speak("two "), CLEAR)
    events = talk.receive(bytes(48_000), FLUSHED, CLEARED).close()
    assert characters(events) == [4, 4]
    assert {(event.provenance, event.outcome) for event in events} == {(MEA, CUT)}
    assert seconds(events) == 0


@pytest.mark.parametrize(
    "late",
    [(FLUSHED, CLEARED), (CLEARED,), (bytes(9_600), FLUSHED, bytes(9_600), CLEARED), (FLUSHED,)],
    ids=["flushed and cleared", "cleared", "sound and both", "flushed alone"],
)
def test_what_comes_late_of_cleared_text_is_not_of_the_next(late: tuple[Any, ...]) -> None:
    talk = aura().send(speak("one "), FLUSH, CLEAR, speak("three "), FLUSH)
    cut, said = talk.receive(*late, bytes(48_000), FLUSHED).close()
    assert (cut.outcome, said.outcome) == (CUT, OK)
    assert characters([cut, said]) == [4, 6]
    # Where it is never said that the text was cleared, nobody knows whose the sound is.
    assert seconds([said]) == (1 if CLEARED in late else 0)


def test_text_that_is_never_spoken_is_counted() -> None:
    for code, by_us, outcome in [(None, True, CUT), (1000, False, CUT), (1011, False, BAD)]:
        (event,) = aura().send(speak("one "), FLUSH).close(code, by_us=by_us)
        assert (characters([event]), event.outcome) == ([4], outcome)


def test_an_idle_voice_costs_nothing() -> None:
    assert aura().send(FLUSH, CLEAR, {"type": "Close"}).receive(FLUSHED, CLEARED).close() == []


def test_a_voice_that_fails_fails_at_the_text_being_spoken() -> None:
    talk = aura().send(speak("one "), FLUSH, speak("two "), FLUSH)
    error = {"type": "Error", "err_code": "DATA-0001"}
    events = talk.receive(FLUSHED, error, FLUSHED).close()
    assert [event.outcome for event in events] == [OK, BAD]


def test_compressed_sound_has_no_length() -> None:
    url = SPEAK.replace("linear16", "mp3")
    (event,) = aura(url).send(speak("one "), FLUSH).receive(b"mp3", FLUSHED).close()
    assert event.quantities == {"characters": 4}
