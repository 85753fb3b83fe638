"""What holds for the stream of every protocol, however it is cut and wherever it ends."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.audio import TranscriptionTextDeltaEvent, TranscriptionTextDoneEvent
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from flow.domain.usage.events import Outcome, Provenance, Quantities
from flow.domain.usage.units import UNITS, Measure
from flow.metering.evidence import Completed, Ended
from tests.metering.wires.reading import cut, ended, read
from tests.metering.wires.recordings import (
    CHAT_EVENTS,
    MESSAGE_EVENTS,
    RECORDINGS,
    RESPONSE_EVENTS,
    TRANSCRIPT_EVENTS,
    Recording,
)

recorded = pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
places = st.lists(st.integers(0, 10**6), max_size=12)
newlines = st.sampled_from(["\n", "\r\n", "\r"])


def billed(quantities: Quantities) -> dict[str, Any]:
    """What the vendor has a number of: not what was counted beside it."""
    return {u: n for u, n in quantities.items() if UNITS[u].measure is Measure.TOKENS}


@pytest.mark.parametrize(
    ("model", "events"),
    [
        (ChatCompletionChunk, CHAT_EVENTS[:-1]),
        (ResponseStreamEvent, RESPONSE_EVENTS),
        (anthropic.types.RawMessageStreamEvent, [e for e in MESSAGE_EVENTS if e["type"] != "ping"]),
        (TranscriptionTextDeltaEvent, TRANSCRIPT_EVENTS[:-1]),
        (TranscriptionTextDoneEvent, TRANSCRIPT_EVENTS[-1:]),
    ],
    ids=["chat", "responses", "messages", "transcript deltas", "transcript"],
)
def test_the_messages_are_as_the_vendor_s_own_client_describes_them(
    model: Any, events: Any
) -> None:
    adapter = TypeAdapter(model)
    for event in events:
        parsed = adapter.validate_python(event)
        assert getattr(parsed, "model_extra", None) in (None, {})


@recorded
def test_a_whole_stream_comes_to_what_the_vendor_reports(recording: Recording) -> None:
    exchange = recording.exchange()
    found = read(exchange, recording.body(), content_type=recording.content_type)
    assert Completed() in found
    event = ended(exchange.opening, found, kind=recording.kind)
    assert billed(event.quantities) == dict(recording.usage)
    assert (event.provenance, event.outcome) == (Provenance.REPORTED, Outcome.OK)
    assert event.note is None


@recorded
@given(places, newlines)
def test_where_it_is_cut_and_how_its_lines_end_makes_no_difference(
    recording: Recording, cuts: list[int], newline: str
) -> None:
    whole = read(recording.exchange(), recording.body(), content_type=recording.content_type)
    chunks = cut(recording.body(newline), cuts)
    assert read(recording.exchange(), *chunks, content_type=recording.content_type) == whole


@recorded
@given(st.integers(0, 10**6), places, st.sampled_from([e for e in Ended if e.name != "REFUSED"]))
def test_wherever_it_ends_one_event_comes_of_it_and_reports_nothing_less(
    recording: Recording, length: int, cuts: list[int], how: Ended
) -> None:
    body = recording.body()
    part = body[: length % (len(body) + 1)]
    exchange = recording.exchange()
    found = read(
        exchange,
        *cut(part, cuts),
        content_type=recording.content_type,
        is_whole=how in (Ended.DONE, Ended.INCOMPLETE),
    )
    event = ended(exchange.opening, found, how, recording.kind)
    if event.provenance is Provenance.REPORTED:
        assert billed(event.quantities) == dict(recording.usage)
    if event.outcome is Outcome.OK:
        assert Completed() in found
    assert event.quantities


@recorded
@given(st.binary(max_size=200), places)
def test_nonsense_is_no_answer_and_breaks_nothing(
    recording: Recording, nonsense: bytes, cuts: list[int]
) -> None:
    exchange = recording.exchange()
    found = read(exchange, *cut(nonsense, cuts), content_type=recording.content_type)
    event = ended(exchange.opening, found, kind=recording.kind)
    assert event.outcome is Outcome.ERROR
    assert event.provenance is Provenance.ESTIMATED
