"""Server-sent events: fields, ends of lines, and chunks that are cut anywhere."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.metering.wires.server_sent_events import EventStream, ServerSentEvent
from tests.metering.wires.reading import cut


def events(*chunks: bytes) -> list[ServerSentEvent]:
    stream = EventStream()
    return [event for chunk in chunks for event in stream.feed(chunk)] + list(stream.end())


def one(data: str, kind: str = "") -> list[ServerSentEvent]:
    return [ServerSentEvent(kind, data)]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"data: a\n\n", one("a")),
        (b"data:a\n\n", one("a")),
        (b"data:  a\n\n", one(" a")),
        (b"data: a\r\n\r\n", one("a")),
        (b"data: a\r\r", one("a")),
        (b"event: x\ndata: a\n\n", one("a", "x")),
        (b"data: a\nevent: x\n\n", one("a", "x")),
        (b"data: a\ndata: b\n\n", one("a\nb")),
        (b"data\n\n", one("")),
        (b"id: 1\nretry: 5\nunknown: 7\ndata: a\n\n", one("a")),
        (b": a comment\n\ndata: a\n\n", one("a")),
        (b"event: x\n\ndata: a\n\n", one("a")),
        (b"\n\n\ndata: a\n\n\n\n", one("a")),
        (b"data: a", one("a")),
        (b"data: a\n", one("a")),
        (b"data: a\r", one("a")),
        (b"data: \xff\n\n", one("\ufffd")),
        (b"\xef\xbb\xbfdata: a\n\n", one("a")),
        (b"\xef\xbb\xbfevent: x\ndata: a\n\n", one("a", "x")),
        (b"", []),
        (b"event: x\n\n", []),
    ],
)
def test_an_event_is_its_type_and_its_data(body: bytes, expected: list[ServerSentEvent]) -> None:
    assert events(body) == expected


lines = st.text(alphabet=st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=8)
sent = st.lists(st.tuples(lines, st.lists(lines, min_size=1, max_size=3)), max_size=5)


@given(sent, st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 10**4), max_size=20))
def test_what_is_sent_arrives_however_it_is_cut(
    told: list[tuple[str, list[str]]], newline: str, cuts: list[int]
) -> None:
    written = [
        newline.join([f"event: {kind}", *(f"data: {line}" for line in data), "", ""])
        for kind, data in told
    ]
    expected = [ServerSentEvent(kind, "\n".join(data)) for kind, data in told]
    assert events(*cut("".join(written).encode(), cuts)) == expected


def test_a_long_line_takes_no_more_than_its_length() -> None:
    data = b"x" * 4_000_000
    stream, started = EventStream(), time.process_time()
    found = [e for at in range(0, len(data), 1_000) for e in stream.feed(data[at : at + 1_000])]
    assert found == []
    assert time.process_time() - started < 1
    assert list(EventStream().feed(b"data: " + data + b"\n\n")) == one(data.decode())
