"""Cartesia's WebSockets: what is billed of a context, and of the sound of a connection."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.usage.events import Outcome, Provenance, Quantities
from flow.domain.usage.units import Kind
from flow.metering.wires.cartesia_speech import MAY_HAVE_BEGUN, NOT_TOLD_APART, CartesiaSpeech
from flow.metering.wires.cartesia_transcription import CartesiaTranscription
from flow.metering.wires.reader import parsed
from flow.metering.wires.socket import SocketWire
from tests.metering.wires.talking import Talk

TTS_URL = "wss://api.cartesia.ai/tts/websocket"
STT_URL = (
    "wss://api.cartesia.ai/stt/websocket?model=ink-whisper&encoding=pcm_s16le&sample_rate=16000"
)
TURNS_URL = (
    "wss://api.cartesia.ai/stt/turns/websocket?model=ink-2&encoding=pcm_s16le&sample_rate=8000"
)
OK, CUT, BAD = Outcome.OK, Outcome.INTERRUPTED, Outcome.ERROR
MEA, EST = Provenance.MEASURED, Provenance.ESTIMATED
SECOND = b"\0" * 48_000
FIRST, NEXT = "Hello, there. ", "How are you? "


def speech() -> Talk:
    return Talk(CartesiaSpeech, TTS_URL, Kind.TTS)


def hearing(url: str) -> Talk:
    return Talk(CartesiaTranscription, url, Kind.STT)


def say(text: str, context: str = "a", **more: Any) -> dict[str, Any]:
    """An input as Pipecat sends it."""
    return {
        "transcript": text,
        "continue": bool(text),
        "context_id": context,
        "model_id": "sonic-3.6",
        "voice": {"mode": "id", "id": "a voice"},
        "output_format": {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 24_000},
        "add_timestamps": True,
        "use_normalized_timestamps": False,
        "max_buffer_delay_ms": 0,
        **more,
    }


def cancel(context: str = "a") -> dict[str, Any]:
    return {"context_id": context, "cancel": True}


def chunk(flush_id: int | None = 1, context: str = "a", sound: bytes = SECOND) -> dict[str, Any]:
    told = {} if flush_id is None else {"flush_id": flush_id}
    data = base64.b64encode(sound).decode()
    common = {"context_id": context, "done": False, "status_code": 206, "step_time": 20.5}
    return {"type": "chunk", "data": data, **common, **told}


def flushed(flush_id: int, context: str = "a") -> dict[str, Any]:
    common = {"context_id": context, "done": False, "status_code": 206}
    return {"type": "flush_done", "flush_done": True, "flush_id": flush_id, **common}


def done(context: str = "a") -> dict[str, Any]:
    return {"type": "done", "done": True, "status_code": 200, "context_id": context}


def error(context: str | None = "a", status: int = 400) -> dict[str, Any]:
    told = {} if context is None else {"context_id": context}
    said = {"title": "Invalid", "message": FIRST, "error_code": "voice_not_found"}
    return {"type": "error", "done": True, "status_code": status, **said, **told}


def spoken(characters: int, seconds: int = 0) -> Quantities:
    return Quantities(characters=characters, audio_seconds=Decimal(seconds))


def test_a_context_that_is_spoken_to_its_end_is_counted_by_its_text() -> None:
    talk = speech()
    talk.send(say(FIRST), say(NEXT))
    talk.receive(chunk(1), flushed(1), chunk(2), chunk(2), flushed(2))
    talk.send(say(""))
    assert talk.events == []
    talk.receive({"type": "timestamps", "context_id": "a", "word_timestamps": {}}, done())
    (event,) = talk.events
    assert event.quantities == spoken(len(FIRST + NEXT), 3)
    assert (event.provenance, event.outcome, event.model) == (MEA, OK, "sonic-3.6")
    assert event.time_to_first_token_secs is not None
    assert talk.close() == [event]


def test_a_process_that_dies_leaves_an_estimate_of_all_that_was_sent() -> None:
    talk = speech()
    talk.send(say(FIRST), say(NEXT))
    talk.receive(chunk(1))
    assert talk.estimate.quantities == Quantities(characters=len(FIRST + NEXT))
    assert talk.estimate.provenance is EST


def test_an_end_without_text_begins_nothing() -> None:
    talk = speech()
    talk.send(say(""), cancel("b"))
    talk.receive(done())
    assert talk.close() == []
    assert talk.notebook.begun == []


@pytest.mark.parametrize(
    ("heard", "after", "characters"),
    [
        pytest.param([], [done()], 0, id="before any sound"),
        pytest.param([], [chunk(1), done()], len(FIRST), id="sound comes all the same"),
        pytest.param([chunk(1)], [chunk(1), done()], len(FIRST), id="while the first is spoken"),
        pytest.param([chunk(1), flushed(1)], [done()], len(FIRST), id="between the two"),
        pytest.param(
            [chunk(1), flushed(1)],
            [chunk(2), flushed(2), done()],
            len(FIRST + NEXT),
            id="while the second begins",
        ),
        pytest.param(
            [chunk(1), flushed(1), flushed(2)], [done()], len(FIRST + NEXT), id="at the end"
        ),
    ],
)
def test_of_a_cancelled_context_only_what_was_begun_is_billed(
    heard: Sequence[Any], after: Sequence[Any], characters: int
) -> None:
    talk = speech()
    talk.send(say(FIRST), say(NEXT))
    talk.receive(*heard)
    talk.send(cancel())
    talk.receive(*after)
    (event,) = talk.events
    assert event.quantities["characters"] == characters
    assert (event.provenance, event.outcome, event.note) == (MEA, CUT, None)
    assert bool(event.quantities) is bool(characters)


@pytest.mark.parametrize("is_cancelled", [True, False], ids=["cancelled", "not cancelled"])
@pytest.mark.parametrize(
    ("heard", "characters"),
    [
        pytest.param([], len(FIRST), id="nothing: the first may have begun"),
        pytest.param([chunk(1)], len(FIRST), id="the first: the second waits for it"),
        pytest.param([chunk(1), flushed(1)], len(FIRST + NEXT), id="all of the first"),
    ],
)
def test_hanging_up_before_all_is_told_leaves_an_estimate(
    heard: Sequence[Any], characters: int, is_cancelled: bool
) -> None:
    talk = speech()
    talk.send(say(FIRST), say(NEXT))
    talk.receive(*heard)
    if is_cancelled:
        talk.send(cancel())
    (event,) = talk.close()
    assert event.quantities["characters"] == characters
    assert (event.provenance, event.outcome, event.note) == (EST, CUT, MAY_HAVE_BEGUN)


def test_hanging_up_when_all_had_begun_leaves_no_doubt() -> None:
    talk = speech()
    talk.send(say(FIRST))
    talk.receive(chunk(1))
    (event,) = talk.close()
    assert event.quantities == spoken(len(FIRST), 1)
    assert (event.provenance, event.outcome, event.note) == (MEA, CUT, None)


@pytest.mark.parametrize("code", [None, 1011])
def test_a_connection_that_breaks_leaves_an_estimate_of_what_had_begun(code: int | None) -> None:
    talk = speech()
    talk.send(say(FIRST), say(NEXT))
    talk.receive(chunk(1))
    (event,) = talk.close(code, by_us=False)
    assert event.quantities == spoken(len(FIRST), 1)
    assert (event.provenance, event.outcome) == (EST, BAD)


def test_a_later_context_at_its_end_tells_that_no_more_comes_of_a_cancelled_one() -> None:
    talk = speech()
    talk.send(say(FIRST), say(NEXT))
    talk.receive(chunk(1))
    talk.send(cancel(), say("Yes?", "b"))
    talk.receive(chunk(1, "b"), done("b"))
    cancelled, later = sorted(talk.events, key=lambda event: event.outcome is OK)
    assert (cancelled.quantities["characters"], cancelled.provenance) == (len(FIRST), MEA)
    assert later.quantities == spoken(4, 1)
    assert talk.close() == talk.events


def test_a_context_that_was_open_before_the_cancel_tells_nothing_of_it() -> None:
    talk = speech()
    talk.send(say(FIRST), say("Yes?", "b"), cancel())
    talk.receive(chunk(1, "b"), done("b"))
    assert [event.outcome for event in talk.events] == [OK]
    talk.receive(chunk(1))
    assert [event.outcome for event in talk.close()] == [OK, CUT]


def test_contexts_at_once_are_told_apart() -> None:
    talk = speech()
    talk.send(say(FIRST), say(NEXT, "b"))
    talk.receive(chunk(1), chunk(1, "b"), chunk(1, "b"), done("b"), done())
    assert [event.quantities for event in talk.events] == [
        spoken(len(NEXT), 2),
        spoken(len(FIRST), 1),
    ]


@pytest.mark.parametrize("context", ["a", None])
def test_what_failed_is_not_billed(context: str | None) -> None:
    talk = speech()
    talk.send(say(FIRST))
    talk.receive(chunk(1), error(context))
    (event,) = talk.events
    assert (event.quantities, event.provenance, event.outcome) == (Quantities(), MEA, BAD)
    assert event.failure is not None
    assert (event.failure.type, event.failure.http_status) == ("APIError", 400)
    assert event.failure.message == "the vendor failed: voice_not_found"
    assert talk.close() == [event]


def test_what_was_spoken_before_a_failure_is_billed() -> None:
    talk = speech()
    talk.send(say(FIRST), say(NEXT))
    talk.receive(chunk(1), flushed(1), chunk(2), error())
    (event,) = talk.events
    assert event.quantities["characters"] == len(FIRST)
    assert (event.provenance, event.outcome) == (EST, BAD)


def test_an_error_of_nothing_in_particular_fails_nothing() -> None:
    talk = speech()
    talk.send(say(FIRST), say(NEXT, "b"))
    talk.receive(error(None))
    assert talk.events == []


@pytest.mark.parametrize("delay", [None, 3000])
def test_of_text_that_the_vendor_gathers_all_is_counted_in_doubt(delay: int | None) -> None:
    talk = speech()
    talk.send(say(FIRST, max_buffer_delay_ms=delay), say(NEXT, max_buffer_delay_ms=delay))
    talk.receive(chunk(1))
    talk.send(cancel())
    talk.receive(done())
    (event,) = talk.events
    assert event.quantities["characters"] == len(FIRST + NEXT)
    assert (event.provenance, event.note) == (EST, NOT_TOLD_APART)


def test_sound_of_which_nothing_says_what_it_is_of_leaves_all_in_doubt() -> None:
    talk = speech()
    talk.send(say(FIRST), say(NEXT))
    talk.receive(chunk(None))
    talk.send(cancel())
    talk.receive(done())
    (event,) = talk.events
    assert event.quantities["characters"] == len(FIRST + NEXT)
    assert (event.provenance, event.note) == (EST, NOT_TOLD_APART)


@pytest.mark.parametrize(
    ("encoding", "seconds"),
    [("pcm_s16le", 1), ("pcm_f32le", Decimal("0.5")), ("pcm_mulaw", 2), ("pcm_alaw", 2)],
)
def test_sound_is_measured_by_its_encoding(encoding: str, seconds: Any) -> None:
    talk = speech()
    talk.send(say(FIRST, output_format={"encoding": encoding, "sample_rate": 24_000}))
    talk.receive(chunk(1), done())
    assert talk.events[0].quantities["audio_seconds"] == seconds


@pytest.mark.parametrize("told", [None, {}, {"encoding": "mp3", "sample_rate": 24_000}, "raw"])
def test_sound_of_a_size_nobody_knows_makes_an_estimate(told: Any) -> None:
    talk = speech()
    talk.send(say(FIRST, output_format=told))
    talk.receive(chunk(1), done())
    assert talk.events[0].quantities == Quantities(characters=len(FIRST))
    assert talk.events[0].provenance is EST


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
messages = st.one_of(
    st.binary(max_size=9),
    st.text(max_size=9),
    st.builds(
        json.dumps,
        st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from(["chunk", "flush_done", "done", "error", "transcript", 3]),
                "context_id": st.sampled_from(["a", "b"]) | anything,
                "transcript": st.text(max_size=9) | anything,
                "cancel": st.booleans(),
                "flush_id": st.integers(-1, 9) | anything,
                "data": st.just(base64.b64encode(b"12").decode()) | anything,
                "output_format": st.just({"encoding": "pcm_s16le", "sample_rate": 8000}) | anything,
                "max_buffer_delay_ms": st.just(0) | anything,
                "status_code": st.integers() | anything,
            },
        ),
    ),
)


@given(
    st.sampled_from([(CartesiaSpeech, Kind.TTS), (CartesiaTranscription, Kind.STT)]),
    st.lists(st.tuples(st.booleans(), messages), max_size=20),
    st.booleans(),
)
def test_nothing_that_is_sent_or_received_breaks_the_account(
    of: tuple[SocketWire, Kind], exchanged: list[tuple[bool, Any]], by_us: bool
) -> None:
    reader, talk = of[0](STT_URL), Talk(of[0], STT_URL, of[1])
    for is_ours, message in exchanged:
        # By itself: a tap would swallow what a reader raises.
        list((reader.sent if is_ours else reader.received)(message))
        (talk.send if is_ours else talk.receive)(message)
    counted = sum(event.quantities.count("characters") for event in talk.close(by_us=by_us))
    assert counted <= sum(len(text) for is_ours, m in exchanged if is_ours for text in texts(m))


def texts(message: str | bytes) -> list[str]:
    """What a message gives a voice to speak."""
    said = parsed(message)
    text = said.get("transcript") if isinstance(said, dict) else None
    return [text] if isinstance(text, str) else []


def test_sound_is_counted_with_the_silence_in_it() -> None:
    talk = hearing(STT_URL)
    talk.send(b"\1" * 32_000, "finalize", b"\0" * 16_000)
    talk.receive({"type": "transcript", "text": "Hi", "is_final": True, "duration": 0.4})
    talk.receive({"type": "flush_done", "request_id": "1"})
    talk.send("done")
    (event,) = talk.close()
    assert event.quantities == Quantities(audio_seconds=Decimal("1.5"))
    assert (event.provenance, event.outcome, event.model) == (MEA, OK, "ink-whisper")
    assert event.time_to_first_token_secs is not None


def turn(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "request_id": "2ff8af53", **more}


def test_turns_are_counted_by_the_sound_of_their_connection() -> None:
    talk = hearing(TURNS_URL)
    talk.send(b"\1" * 16_000)
    talk.receive(turn("connected"), turn("turn.start"), turn("turn.update", transcript="Hi"))
    talk.receive(turn("turn.eager_end", transcript="Hi"), turn("turn.resume"))
    talk.send(b"\1" * 16_000)
    talk.receive(turn("turn.end", transcript="Hi there"))
    talk.send({"type": "close"})
    (event,) = talk.close(1000, by_us=False)
    assert event.quantities == Quantities(audio_seconds=Decimal(2))
    assert (event.provenance, event.outcome, event.model) == (MEA, OK, "ink-2")


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_connection_that_is_refused_in_its_first_word_is_free(seconds: int) -> None:
    talk = hearing(TURNS_URL)
    if seconds:
        talk.send(b"\1" * 16_000 * seconds)
    talk.receive(error(None, status=402))
    talk.send(b"\1" * 16_000)
    (event,) = talk.close(1000, by_us=False)
    assert (event.quantities, event.provenance, event.outcome) == (Quantities(), MEA, BAD)
    assert event.failure is not None
    assert event.failure.http_status == 402


def test_an_error_before_any_sound_is_on_record_and_costs_nothing() -> None:
    talk = hearing(TURNS_URL)
    talk.receive(turn("connected"), error(None, status=429))
    (event,) = talk.close(1011, by_us=False)
    assert (event.quantities, event.outcome) == (Quantities(), BAD)
    assert event.failure is not None
    assert event.failure.http_status == 429


def test_sound_that_was_taken_is_counted_though_the_vendor_fails_at_it() -> None:
    talk = hearing(TURNS_URL)
    talk.receive(turn("connected"))
    talk.send(b"\1" * 16_000)
    talk.receive(error(None, status=500))
    (event,) = talk.close(1011, by_us=False)
    assert event.quantities == Quantities(audio_seconds=Decimal(1))
    assert (event.provenance, event.outcome) == (EST, BAD)


def test_what_cannot_be_read_is_a_failure() -> None:
    talk = hearing(STT_URL)
    talk.send(b"\1" * 32_000)
    talk.receive('{"type": ')
    (event,) = talk.close()
    assert (event.quantities["audio_seconds"], event.provenance, event.outcome) == (1, EST, BAD)
