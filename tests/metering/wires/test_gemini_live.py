"""Gemini Live: what a session's messages become, generation by generation."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.usage.events import Outcome, Provenance, Quantities, UsageEvent
from flow.domain.usage.units import Kind
from flow.metering.meter import Meter, Service
from flow.metering.taps.socket import SocketTap
from flow.metering.wires.gemini_live import GeminiLive
from tests.events import an_owner
from tests.metering.wires.recordings import modality
from tests.notebook import Notebook

URL = "wss://generativelanguage.googleapis.com/ws/BidiGenerateContent"
OK, CUT, BROKEN = Outcome.OK, Outcome.INTERRUPTED, Outcome.ERROR
TOLD, GUESSED = Provenance.REPORTED, Provenance.ESTIMATED


def sound(seconds: float, rate: int) -> dict[str, str]:
    data = base64.b64encode(bytes(int(seconds * rate) * 2)).decode()
    return {"data": data, "mimeType": f"audio/pcm;rate={rate}"}


def usage(prompt: int, response: int, *, heard: int = 0, spoken: int = 0, **more: int) -> Any:
    return {
        "promptTokenCount": prompt,
        "responseTokenCount": response,
        "totalTokenCount": prompt + response,
        "promptTokensDetails": [modality("TEXT", prompt - heard), modality("AUDIO", heard)],
        "responseTokensDetails": [modality("AUDIO", spoken)],
        **more,
    }


SETUP = {
    "setup": {
        "model": "models/gemini-3.8-live",
        "systemInstruction": {"parts": [{"text": "You answer the telephone of a shop."}]},
    }
}
ASK = {"client_content": {"turns": [{"parts": [{"text": "Hello?"}]}], "turnComplete": True}}
STOP = {"client_content": {"turnComplete": False}}
HEAR = {"realtime_input": {"audio": sound(0.1, 16_000)}}
ANSWER = {"tool_response": {"functionResponses": [{"name": "look", "response": {"a": 1}}]}}
SPEAK = {"serverContent": {"modelTurn": {"parts": [{"inlineData": sound(0.4, 24_000)}]}}}
SAY = {"serverContent": {"outputTranscription": {"text": "Good evening to you."}}}
CALL = {"toolCall": {"functionCalls": [{"name": "look", "args": {}, "id": "1"}]}}
READY: Any = {"setupComplete": {}}
MADE: Any = {"serverContent": {"generationComplete": True}}
DONE: Any = {"serverContent": {"turnComplete": True}}
STOPPED: Any = {"serverContent": {"interrupted": True}}
ONE, TWO = usage(100, 20, heard=60, spoken=20), usage(150, 30, heard=80, spoken=30)
FIRST = Quantities(
    input_tokens=100, output_tokens=20, input_audio_tokens=60, output_audio_tokens=20
)
SECOND = Quantities(
    input_tokens=150, output_tokens=30, input_audio_tokens=80, output_audio_tokens=30
)


def with_usage(message: Any, told: Any) -> Any:
    return {**message, "usageMetadata": told}


class Dialogue:
    """A session that is played to a tap; what the bot sends is marked by its name."""

    def __init__(self, *, as_bytes: bool = False) -> None:
        self.notebook = Notebook()
        meter = Meter(Service(Kind.LLM, "google", "gemini-3.8-live"), an_owner(), self.notebook)
        self.tap = SocketTap(meter, GeminiLive, asked_for="gemini-3.8-live")
        self.conversation = self.tap.opened(URL)
        self._as_bytes = as_bytes

    def play(self, messages: Sequence[Any]) -> None:
        for message in messages:
            said: Any = message if isinstance(message, str) else json.dumps(message)
            if isinstance(message, dict) and {*message} & {*SETUP, *ASK, *HEAR, *ANSWER}:
                self.conversation.sent(said)
            else:
                self.conversation.received(said.encode() if self._as_bytes else said)

    def events(self, code: int | None = None, *, by_us: bool = True) -> list[UsageEvent]:
        self.conversation.closed(code, by_us=by_us)
        assert self.notebook.open == set()
        return self.notebook.events


REPORTED = {
    "a turn": (
        [HEAR, SPEAK, SAY, MADE, with_usage(DONE, ONE)],
        [(OK, FIRST)],
    ),
    "each turn has read the session again": (
        [SPEAK, with_usage(DONE, ONE), HEAR, SPEAK, with_usage(DONE, TWO)],
        [(OK, FIRST), (OK, SECOND)],
    ),
    "what is told bit by bit is told once": (
        [with_usage(SPEAK, ONE), with_usage(SPEAK, ONE), with_usage(DONE, TWO)],
        [(OK, SECOND)],
    ),
    "usage with the last that is generated": (
        [SPEAK, with_usage(MADE, ONE), SAY, DONE],
        [(OK, FIRST)],
    ),
    "usage after the turn": (
        [SPEAK, DONE, {"usageMetadata": ONE}, SPEAK, DONE, {"usageMetadata": TWO}],
        [(OK, FIRST), (OK, SECOND)],
    ),
    "usage that is told twice": (
        [SPEAK, with_usage(DONE, ONE), {"usageMetadata": ONE}],
        [(OK, FIRST)],
    ),
    "a late transcript is no other turn": (
        [SPEAK, DONE, SAY, {"usageMetadata": ONE}],
        [(OK, FIRST)],
    ),
    "usage beside an interruption": (
        [SPEAK, with_usage(STOPPED, ONE), DONE, SPEAK, with_usage(DONE, TWO)],
        [(CUT, FIRST), (OK, SECOND)],
    ),
    "usage beside an interruption and after it": (
        [SPEAK, with_usage(STOPPED, ONE), with_usage(DONE, TWO)],
        [(CUT, SECOND)],
    ),
    "an interruption in the same message as its end": (
        [SPEAK, with_usage({"serverContent": {"interrupted": True, "turnComplete": True}}, ONE)],
        [(CUT, FIRST)],
    ),
    "usage beside the call of a tool": (
        [ASK, with_usage(CALL, ONE), ANSWER, SPEAK, with_usage(DONE, TWO)],
        [(OK, FIRST), (OK, SECOND)],
    ),
    "the call of a tool that tells no usage": (
        [ASK, CALL, ANSWER, SPEAK, with_usage(DONE, TWO)],
        [(OK, SECOND)],
    ),
    "a model that goes on speaking while its tool works": (
        [ASK, with_usage(CALL, ONE), SPEAK, ANSWER, with_usage(DONE, TWO)],
        [(OK, SECOND)],
    ),
    "hung up with an interruption that is accounted for": (
        [ASK, SPEAK, STOP, with_usage(STOPPED, ONE)],
        [(CUT, FIRST)],
    ),
    "hung up while a tool works": (
        [ASK, with_usage(CALL, ONE)],
        [(OK, FIRST)],
    ),
    "a turn without a word": (
        [with_usage(DONE, usage(100, 0, heard=60))],
        [(OK, Quantities(input_tokens=100, input_audio_tokens=60))],
    ),
    "thoughts, which the total leaves out": (
        [SPEAK, with_usage(DONE, {**ONE, "thoughtsTokenCount": 50})],
        [(OK, FIRST.replaced(output_tokens=70, reasoning_tokens=50))],
    ),
    "what was cached, by modality": (
        [
            SPEAK,
            with_usage(
                DONE,
                {
                    **ONE,
                    "cachedContentTokenCount": 40,
                    "cacheTokensDetails": [modality("AUDIO", 10), modality("TEXT", 30)],
                },
            ),
        ],
        [
            (
                OK,
                FIRST.replaced(
                    input_tokens=60,
                    input_audio_tokens=50,
                    cache_read_tokens=40,
                    cache_read_audio_tokens=10,
                ),
            )
        ],
    ),
    "what belongs to no turn": (
        [HEAR, {"goAway": {"timeLeft": "5s"}}, {"sessionResumptionUpdate": {"newHandle": "h"}}],
        [],
    ),
}


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize(("messages", "expected"), REPORTED.values(), ids=[*REPORTED])
def test_what_the_vendor_tells_is_what_is_counted(
    messages: list[Any], expected: list[Any], as_bytes: bool
) -> None:
    dialogue = Dialogue(as_bytes=as_bytes)
    dialogue.play([SETUP, READY, *messages])
    assert not dialogue.conversation._reader.expects_report
    events = dialogue.events()
    assert [(event.outcome, event.quantities) for event in events] == expected
    assert {event.provenance for event in events} <= {TOLD}
    assert {(event.model, event.requested_model, event.note) for event in events} <= {
        ("gemini-3.8-live", "gemini-3.8-live", None)
    }


UNTOLD = {
    "hung up before an answer": ([ASK], None, CUT, 0),
    "hung up in mid-answer": ([ASK, SPEAK, SAY, SPEAK, SPEAK, SAY], None, CUT, 30),
    "a turn that tells nothing": ([ASK, SPEAK, SPEAK, SPEAK, DONE], None, OK, 30),
    "broken off in mid-answer": ([ASK, SPEAK, SPEAK, SPEAK], 1011, BROKEN, 30),
    "nonsense in mid-answer": ([ASK, SPEAK, '{"serverContent": '], None, BROKEN, 10),
    "more was said than is told": ([ASK, with_usage(SPEAK, usage(14, 4)), SPEAK], None, CUT, 20),
}


@pytest.mark.parametrize(("messages", "code", "outcome", "made"), UNTOLD.values(), ids=[*UNTOLD])
def test_what_nobody_tells_is_estimated_from_text_and_sound(
    messages: list[Any], code: int | None, outcome: Outcome, made: int
) -> None:
    dialogue = Dialogue()
    dialogue.play([SETUP, READY, *messages])
    (event,) = dialogue.events(code, by_us=code is None)
    assert (event.outcome, event.provenance) == (outcome, GUESSED)
    assert event.quantities["input_tokens"] == pytest.approx(23, abs=12)
    assert event.quantities["output_tokens"] == made
    assert event.quantities["output_audio_tokens"] in (made, 0)


@pytest.mark.parametrize("last", [DONE, STOP])
def test_the_account_of_a_turn_that_is_over_or_stopped_is_waited_for(last: Any) -> None:
    dialogue = Dialogue()
    dialogue.play([SETUP, READY, ASK, SPEAK, last])
    assert dialogue.conversation._reader.expects_report
    dialogue.play([{"usageMetadata": ONE} if last is DONE else with_usage(STOPPED, ONE)])
    assert not dialogue.conversation._reader.expects_report


def test_nothing_is_waited_for_where_nothing_was_said() -> None:
    dialogue = Dialogue()
    dialogue.play([SETUP, READY, ASK, STOP])
    assert not dialogue.conversation._reader.expects_report


def test_the_next_turn_is_estimated_to_read_all_that_the_last_one_had() -> None:
    dialogue = Dialogue()
    said = {"serverContent": {"inputTranscription": {"text": "Where is my parcel?" * 3}}}
    dialogue.play([SETUP, READY, SPEAK, with_usage(DONE, TWO), *[HEAR] * 100, said, SPEAK])
    _, cut = dialogue.events()
    spoken = 25 * 57 // 15
    assert cut.quantities["input_tokens"] == pytest.approx(150 + 30 + spoken, abs=1)
    assert cut.quantities["input_audio_tokens"] == pytest.approx(80 + 30 + spoken, abs=1)


def test_an_answer_that_is_asked_for_in_mid_answer_is_another_one() -> None:
    dialogue = Dialogue()
    dialogue.play([SETUP, READY, ASK, SPEAK, ASK, STOPPED, with_usage(DONE, ONE)])
    first, second = dialogue.events()
    assert (first.outcome, first.quantities) == (CUT, FIRST)
    assert (second.outcome, second.provenance) == (CUT, GUESSED)
    assert second.quantities["input_tokens"] > 120


def test_a_search_of_the_web_is_noted_once() -> None:
    dialogue = Dialogue()
    found: Any = {"serverContent": {"groundingMetadata": {"webSearchQueries": ["a", "b"]}}}
    dialogue.play([SETUP, READY, ASK, SPEAK, found, found, with_usage(DONE, ONE)])
    (event,) = dialogue.events()
    assert (event.provenance, event.quantities) == (TOLD, FIRST)
    assert event.note == "web searches (2) are billed beside the tokens"


def test_a_nudge_before_the_answer_asks_for_none_of_its_own() -> None:
    """Pipecat sends a blank after the content, without which Gemini 3 does not answer."""
    dialogue = Dialogue()
    nudge = {"realtime_input": {"text": " "}}
    dialogue.play([SETUP, READY, ASK, nudge, SPEAK, with_usage(DONE, ONE)])
    assert [event.quantities for event in dialogue.events()] == [FIRST]


def test_each_second_of_sound_is_put_on_record_should_the_process_die() -> None:
    dialogue = Dialogue()
    dialogue.play([SETUP, READY, ASK, *[SPEAK] * 5])
    assert dialogue.notebook.begun[-1].quantities["output_tokens"] == 30
    dialogue.events()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
names = [
    "setup", "clientContent", "realtimeInput", "toolResponse", "serverContent", "toolCall",
    "usageMetadata", "modelTurn", "parts", "inlineData", "turns", "turnComplete", "interrupted",
    "outputTranscription", "inputTranscription", "text", "functionCalls", "functionResponses",
    "promptTokenCount", "responseTokenCount", "audio", "data", "mimeType",
]  # fmt: skip
messages_of_any_shape = st.recursive(
    anything, lambda inner: st.dictionaries(st.sampled_from(names), inner, max_size=4)
)


@given(st.lists(st.tuples(st.booleans(), messages_of_any_shape), max_size=8))
def test_no_message_of_any_shape_breaks_it(said: list[tuple[bool, Any]]) -> None:
    reader = GeminiLive()
    for is_sent, message in said:
        list((reader.sent if is_sent else reader.received)(json.dumps(message)))
