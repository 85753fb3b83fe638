"""OpenAI's Realtime API: what a session's events become, response by response."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

from flow.domain.usage.events import Failure, Outcome, Provenance, Quantities, UsageEvent
from flow.domain.usage.token_estimates import count_tokens, estimate_chat_tokens
from flow.domain.usage.units import Kind
from flow.metering.meter import Meter, Service
from flow.metering.taps.socket import SocketTap
from flow.metering.wires.openai_realtime import OpenAIRealtime
from tests.events import an_owner
from tests.notebook import Notebook

URL = "wss://api.openai.com/v1/realtime?model=gpt-realtime"
OK, CUT, BROKEN = Outcome.OK, Outcome.INTERRUPTED, Outcome.ERROR
TOLD, GUESSED, COUNTED = Provenance.REPORTED, Provenance.ESTIMATED, Provenance.MEASURED
EVENTS: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
SECOND = 48_000
PROMPT = "You answer the telephone of a shop."
SAID = "Good evening to you."
CLIENT = ("input_audio_buffer.append",)


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "event_id": "event_1", **fields}


def sound(seconds: float) -> str:
    return base64.b64encode(bytes(int(seconds * SECOND))).decode()


def settings(transcribing: str | None = None) -> dict[str, Any]:
    transcription = {"model": transcribing} if transcribing else None
    session = {
        "type": "realtime",
        "model": "gpt-realtime",
        "instructions": PROMPT,
        "audio": {"input": {"transcription": transcription}},
    }
    return event("session.updated", session=session)


def usage(
    text: int,
    audio: int = 0,
    cached: int = 0,
    cached_audio: int = 0,
    said: int = 0,
    spoken: int = 0,
) -> Any:
    return {
        "total_tokens": text + audio + said + spoken,
        "input_tokens": text + audio,
        "output_tokens": said + spoken,
        "input_token_details": {
            "text_tokens": text,
            "audio_tokens": audio,
            "image_tokens": 0,
            "cached_tokens": cached,
            "cached_tokens_details": {
                "text_tokens": cached - cached_audio,
                "audio_tokens": cached_audio,
                "image_tokens": 0,
            },
        },
        "output_token_details": {"text_tokens": said, "audio_tokens": spoken},
    }


def created(response: str = "resp_1") -> Any:
    return event("response.created", response={"id": response, "status": "in_progress"})


def done(
    status: str = "completed", told: Any = None, response: str = "resp_1", **details: Any
) -> Any:
    more = {"status_details": {"type": status, **details}} if details else {}
    told = {"id": response, "status": status, "usage": told, **more}
    return event("response.done", response=told)


def place(item: str = "item_b", response: str = "resp_1") -> dict[str, Any]:
    return {"response_id": response, "item_id": item, "output_index": 0, "content_index": 0}


def added(item: str, role: str, *content: Any, **fields: Any) -> Any:
    told = {"id": item, "type": "message", "role": role, "content": list(content), **fields}
    return event("conversation.item.added", item=told)


SPOKEN = added("item_b", "assistant")
WORDS = event("response.output_audio_transcript.delta", **place(), delta=SAID)
SPEECH = event("response.output_audio.delta", **place(), delta=sound(1.5))
ASKED = added("item_a", "user", {"type": "input_text", "text": "Are you open?"})
CALLED = event(
    "response.output_item.added",
    response_id="resp_1",
    output_index=0,
    item={"id": "item_c", "type": "function_call", "name": "look", "arguments": ""},
)
STARTED = event("input_audio_buffer.speech_started", item_id="item_u", audio_start_ms=700)
STOPPED = event("input_audio_buffer.speech_stopped", item_id="item_u", audio_end_ms=2_700)
COMMITTED = event("input_audio_buffer.committed", item_id="item_u", previous_item_id=None)
HEARD = added("item_u", "user", {"type": "input_audio", "transcript": None})
TOKENS = {"type": "tokens", "input_tokens": 20, "output_tokens": 5, "total_tokens": 25}
TOKENS |= {"input_token_details": {"audio_tokens": 18, "text_tokens": 2}}


def transcribed(told: Any) -> Any:
    kind = "conversation.item.input_audio_transcription.completed"
    return event(kind, item_id="item_u", content_index=0, transcript="Are you open?", usage=told)


class Dialogue:
    """A session that is played to a tap."""

    def __init__(self) -> None:
        self.notebook = Notebook()
        meter = Meter(Service(Kind.LLM, "openai", "gpt-realtime"), an_owner(), self.notebook)
        self.tap = SocketTap(meter, OpenAIRealtime, asked_for="gpt-realtime-2")
        self.conversation = self.tap.opened(URL)

    def play(self, *messages: Any) -> Dialogue:
        for message in messages:
            said = message if isinstance(message, str) else json.dumps(message)
            if isinstance(message, dict) and message["type"] in CLIENT:
                self.conversation.sent(said)
            else:
                self.conversation.received(said)
        return self

    def events(self, code: int | None = None, *, by_us: bool = True) -> list[UsageEvent]:
        self.conversation.closed(code, by_us=by_us)
        assert self.notebook.open == set()
        return self.notebook.events


def told(events: Sequence[UsageEvent]) -> list[tuple[Outcome, Provenance, Quantities]]:
    return [(event.outcome, event.provenance, event.quantities) for event in events]


TURN = usage(100, 60, cached=64, cached_audio=20, said=6, spoken=30)
COUNTED_TURN = Quantities(
    input_tokens=96,
    input_audio_tokens=40,
    cache_read_tokens=64,
    cache_read_audio_tokens=20,
    output_tokens=36,
    output_audio_tokens=30,
)
NULL_DETAILS = {**TURN, "input_token_details": None, "output_token_details": None}
REPORTED = {
    "a turn": ([created(), SPOKEN, WORDS, SPEECH, done(told=TURN)], OK, COUNTED_TURN),
    "a turn that was cut short by its limit": (
        [created(), WORDS, SPEECH, done("incomplete", TURN, reason="max_output_tokens")],
        OK,
        COUNTED_TURN,
    ),
    "one that the caller interrupted": (
        [created(), SPOKEN, SPEECH, done("cancelled", TURN, reason="turn_detected")],
        CUT,
        COUNTED_TURN,
    ),
    "one that was cancelled before its first word": (
        [created(), done("cancelled", usage(100), reason="client_cancelled")],
        CUT,
        Quantities(input_tokens=100),
    ),
    "one that failed and is billed": (
        [created(), done("failed", TURN, error={"type": "server_error"})],
        BROKEN,
        COUNTED_TURN,
    ),
    "a call of a tool": (
        [created(), CALLED, done(told=usage(100, said=9))],
        OK,
        Quantities(input_tokens=100, output_tokens=9),
    ),
    "usage without its parts": (
        [created(), SPOKEN, WORDS, SPEECH, done(told=NULL_DETAILS)],
        OK,
        Quantities(input_tokens=160, output_tokens=36),
    ),
    "an explicit zero": ([created(), done(told=usage(0))], OK, Quantities()),
}


@pytest.mark.parametrize("case", REPORTED.values(), ids=REPORTED)
def test_what_is_reported_is_kept_and_each_token_once(
    case: tuple[list[Any], Outcome, Quantities],
) -> None:
    messages, outcome, quantities = case
    events = Dialogue().play(settings(), *messages).events()
    assert told(events) == [(outcome, TOLD, quantities)]
    assert {(event.kind, event.model) for event in events} == {(Kind.LLM, "gpt-realtime")}
    assert {event.requested_model for event in events} == {"gpt-realtime-2"}


def test_each_response_is_an_event_of_its_own() -> None:
    one, two = usage(100, said=5), usage(200, said=7)
    events = (
        Dialogue()
        .play(
            settings(),
            *(created(), done(told=one)),
            *(created("resp_2"), done(told=two, response="resp_2")),
            # What is told again is told already.
            done(told=two, response="resp_2"),
        )
        .events()
    )
    assert [event.quantities["input_tokens"] for event in events] == [100, 200]


UNTOLD = {
    "hung up on": (None, True, CUT),
    "closed in peace": (1000, False, CUT),
    "closed with an error": (1011, False, BROKEN),
    "lost": (None, False, BROKEN),
}


@pytest.mark.parametrize("case", UNTOLD.values(), ids=UNTOLD)
def test_a_response_that_is_under_way_is_estimated_by_all_that_was_said(
    case: tuple[int | None, bool, Outcome],
) -> None:
    code, by_us, outcome = case
    dialogue = Dialogue().play(
        settings(),
        *(STARTED, STOPPED, COMMITTED, HEARD),
        *(created(), SPOKEN, WORDS, SPEECH),
    )
    assert dialogue.notebook.events == []
    prompt = estimate_chat_tokens(
        [{"role": "system", "content": PROMPT}, {"role": "user", "content": ""}]
    )
    assert told(dialogue.events(code, by_us=by_us)) == [
        (
            outcome,
            GUESSED,
            Quantities(
                input_tokens=prompt + 20,
                input_audio_tokens=20,
                output_tokens=count_tokens(SAID) + 30,
                output_audio_tokens=30,
            ),
        )
    ]


def test_what_is_made_is_put_on_record_as_it_comes_but_not_with_every_word() -> None:
    dialogue = Dialogue().play(settings(), created(), SPOKEN)
    word = {**WORDS, "delta": " word"}
    bit = {**SPEECH, "delta": sound(0.05)}
    for _ in range(50):
        dialogue.play(word, bit)
    (*_, last) = noted = dialogue.notebook.begun
    assert 5 < len(noted) < 15
    assert last.quantities["output_tokens"] >= 90
    assert last.quantities["output_audio_tokens"] >= 45
    (event,) = dialogue.events()
    assert event.quantities["output_tokens"] == 100


def spoken_input(*messages: Any) -> tuple[int, int]:
    """What the next response is estimated to read: all of it, and of that what is sound."""
    dialogue = Dialogue().play(settings(), *messages, created("resp_9"))
    (*_, event) = dialogue.events()
    q = event.quantities
    return int(q["input_tokens"]), int(q["input_audio_tokens"])


def test_the_whole_conversation_is_read_again() -> None:
    empty, _ = spoken_input()
    turn = [created(), SPOKEN, WORDS, SPEECH, done(told=TURN)]
    whole, audio = spoken_input(ASKED, *turn)
    assert audio == 30
    assert whole - audio > empty + count_tokens("Are you open?")
    # The model's words are sound to it, and no text.
    assert whole - audio < empty + count_tokens("Are you open?") + 2 * 5
    cut = event("conversation.item.truncated", item_id="item_b", content_index=0, audio_end_ms=400)
    assert spoken_input(ASKED, *turn, cut) == (whole - 22, 8)
    gone = event("conversation.item.deleted", item_id="item_b")
    assert spoken_input(ASKED, *turn, gone)[1] == 0


@pytest.mark.parametrize("by_client", [True, False])
def test_what_the_user_says_is_as_long_as_what_was_committed(by_client: bool) -> None:
    append = event("input_audio_buffer.append", audio=sound(1.25))
    cleared = event("input_audio_buffer.cleared")
    spoken = [append, cleared, append, append] if by_client else [append, STARTED, STOPPED]
    assert spoken_input(*spoken, COMMITTED, HEARD)[1] == (25 if by_client else 20)


TRANSCRIPTIONS = {
    "by tokens": (
        [transcribed(TOKENS)],
        (OK, TOLD),
        {"input_tokens": 20, "input_audio_tokens": 18, "output_tokens": 5},
    ),
    "by seconds": ([transcribed({"type": "duration", "seconds": 2.5})], (OK, TOLD), None),
    "never told": ([], (CUT, COUNTED), {}),
    "failed": (
        [
            event(
                "conversation.item.input_audio_transcription.failed",
                item_id="item_u",
                content_index=0,
                error={"type": "transcription_error", "code": "audio_unintelligible"},
            )
        ],
        (BROKEN, GUESSED),
        {},
    ),
}


@pytest.mark.parametrize("case", TRANSCRIPTIONS.values(), ids=TRANSCRIPTIONS)
def test_a_transcription_is_another_model_s_work(
    case: tuple[list[Any], tuple[Outcome, Provenance], dict[str, int] | None],
) -> None:
    messages, (outcome, provenance), tokens = case
    dialogue = Dialogue().play(settings("gpt-4o-mini-transcribe"), STARTED, STOPPED, COMMITTED)
    (event,) = dialogue.play(*messages).events()
    assert (event.kind, event.model) == (Kind.STT, "gpt-4o-mini-transcribe")
    assert event.requested_model == "gpt-4o-mini-transcribe"
    seconds = Decimal("2.5") if tokens is None else Decimal(2)
    assert told([event]) == [
        (outcome, provenance, Quantities(audio_seconds=seconds, **(tokens or {})))
    ]


def test_without_a_transcription_model_nothing_is_transcribed() -> None:
    assert Dialogue().play(settings(), STARTED, STOPPED, COMMITTED).events() == []


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "insufficient_quota"])
def test_a_response_that_was_never_begun_costs_nothing(code: str) -> None:
    failed = done("failed", None, error={"type": "invalid_request_error", "code": code})
    (event,) = Dialogue().play(settings(), ASKED, created(), failed).events()
    assert (event.outcome, event.quantities) == (BROKEN, Quantities())
    assert event.failure == Failure("APIError", f"the vendor failed: {code}")


def an_error(kind: str, code: str | None) -> Any:
    return event("error", error={"type": kind, "code": code, "message": "No."})


ERRORS = {
    "with nothing under way": ([an_error("invalid_request_error", "unknown_parameter")], [BROKEN]),
    "at the end of a session": ([an_error("invalid_request_error", "session_expired")], []),
    "of the server in a response": (
        [created(), WORDS, an_error("server_error", None)],
        [BROKEN],
    ),
    "of the server, and the response came to its end": (
        [created(), WORDS, an_error("server_error", None), done("failed", TURN)],
        [BROKEN],
    ),
    "in answer to something else": (
        [created(), an_error("invalid_request_error", "unknown_parameter"), done(told=TURN)],
        [OK],
    ),
    "that harms nothing": ([an_error("invalid_request_error", "response_cancel_not_active")], []),
}


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS)
def test_an_error_is_of_what_it_is_about(case: tuple[list[Any], list[Outcome]]) -> None:
    messages, outcomes = case
    events = Dialogue().play(settings(), *messages).events()
    assert [event.outcome for event in events] == outcomes


def test_an_account_is_waited_for_as_long_as_something_is_under_way() -> None:
    reader = OpenAIRealtime(URL)
    seen: list[bool] = []
    for message in [
        settings("whisper-1"),
        COMMITTED,
        created(),
        transcribed({"type": "duration", "seconds": 1}),
        done(told=TURN),
    ]:
        list(reader.received(json.dumps(message)))
        seen.append(reader.expects_report)
    assert seen == [False, True, True, True, False]


@pytest.mark.parametrize("message", ['{"type": ', "[]", "null", b"\xff"])
def test_what_cannot_be_read_is_said(message: Any) -> None:
    dialogue = Dialogue().play(settings(), created())
    dialogue.conversation.received(message)
    (event,) = dialogue.events()
    assert (event.outcome, event.provenance) == (BROKEN, GUESSED)
    assert event.failure is not None
    assert event.failure.type == "MalformedAnswer"


def test_these_messages_are_those_of_the_sdk() -> None:
    for message in [
        *(SPEECH, WORDS, STARTED, STOPPED, COMMITTED, CALLED | {"item": CALLED["item"]}),
        *(transcribed(TOKENS), created(), done(told=TURN), settings("whisper-1"), SPOKEN, ASKED),
    ]:
        EVENTS.validate_python(message)


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "type", "usage", "item_id", "status"]), inner)
    ),
    max_leaves=8,
)
KINDS = [settings(), created(), SPOKEN, WORDS, SPEECH, COMMITTED, HEARD, transcribed(TOKENS)]
KINDS += [done(told=TURN), STARTED, STOPPED, an_error("server_error", None)]
FIELDS = sorted({name for one in KINDS for name in one} - {"type"})


@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(FIELDS), json_values), max_size=6)
)
def test_no_message_breaks_the_reading(messages: list[tuple[Any, str, Any]]) -> None:
    reader = OpenAIRealtime(URL)
    for message, name, value in messages:
        list(reader.received(json.dumps({**message, name: value})))
        list(reader.sent(json.dumps({**message, name: value})))
