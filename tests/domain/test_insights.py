"""Transcripts as a model is shown them, and results as they are stored."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.calls.thread import Turn
from flow.domain.insights.insights import InsightsResult, has_words, render_transcript

START = datetime(2026, 11, 1, tzinfo=UTC)


def turns(*said: str) -> tuple[Turn, ...]:
    return tuple(
        Turn(n, "assistant" if n % 2 else "user", text, START + timedelta(seconds=3 * n))
        for n, text in enumerate(said)
    )


def test_a_transcript_is_one_json_object_a_line():
    lines = render_transcript(turns("Hello?", "Hi!\nHow are you?")).text.split("\n")
    assert [json.loads(line) for line in lines] == [
        {"seconds": 0, "role": "user", "text": "Hello?"},
        {"seconds": 3, "role": "assistant", "text": "Hi!\nHow are you?"},
    ]


def test_an_interrupted_turn_says_so():
    said = Turn(0, "assistant", "Well, I", START, interrupted=True)
    assert json.loads(render_transcript((said,)).text)["interrupted"] is True


@given(st.lists(st.text(max_size=40), min_size=1, max_size=20))
def test_nothing_said_can_pass_for_another_line(said):
    lines = render_transcript(turns(*said)).text.split("\n")
    assert [json.loads(line)["text"] for line in lines] == said


@given(
    st.lists(st.integers(min_value=0, max_value=3000), min_size=1, max_size=60),
    st.integers(min_value=1000, max_value=20_000),
)
def test_a_long_transcript_keeps_its_ends_and_says_what_is_missing(sizes, most):
    said = turns(*("x" * size for size in sizes))
    shown = render_transcript(said, most)
    lines = [json.loads(line) for line in shown.text.split("\n")]
    kept = [line for line in lines if "omitted_turns" not in line]
    assert len(kept) + shown.omitted_turns == len(said)
    assert [line["omitted_turns"] for line in lines if "omitted_turns" in line] == (
        [shown.omitted_turns] if shown.omitted_turns else []
    )
    assert kept[0]["seconds"] == 0
    assert kept[-1]["seconds"] == 3 * (len(said) - 1)
    # The line about the gap comes on top, and a cut turn says how much it lost.
    assert len(shown.text) <= most + 200


def test_a_single_giant_turn_is_cut_in_its_middle():
    shown = render_transcript(turns("a" * 50_000 + "b" * 50_000), 10_000)
    text = json.loads(shown.text)["text"]
    assert text.startswith("aaa")
    assert text.endswith("bbb")
    assert "97500 characters left out" in text


@pytest.mark.parametrize(("said", "expected"), [((), False), (("", " \n"), False), (("a",), True)])
def test_whether_anybody_said_anything(said, expected):
    assert has_words(turns(*said)) is expected


@pytest.mark.parametrize(
    ("result", "stored"),
    [
        (
            InsightsResult("ok", {"summary": "x"}, model="m", omitted_turns=3),
            {"status": "ok", "data": {"summary": "x"}, "model": "m", "omitted_turns": 3},
        ),
        (InsightsResult("ok", {}), {"status": "ok", "data": {}}),
        (
            InsightsResult("skipped", reason="empty_transcript"),
            {"status": "skipped", "reason": "empty_transcript"},
        ),
        (
            InsightsResult("failed", reason="vendor_error", detail="HTTP 500"),
            {"status": "failed", "reason": "vendor_error", "detail": "HTTP 500"},
        ),
    ],
)
def test_a_result_is_stored_without_what_is_unknown(result, stored):
    assert result.to_json() == stored
