"""The scripted calls are plausible, long enough to interrupt, and what the API accepts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from flow.domain.calls.join_request import JoinRequest
from flow.sandbox.callers.script import (
    QUICK_MODEL_CALL,
    SUPPORT_CALL,
    AfterBot,
    Interrupt,
    Line,
    Script,
)
from flow.sandbox.speech.synthesis import synthesize

CALLS = pytest.mark.parametrize("script", [SUPPORT_CALL, QUICK_MODEL_CALL], ids=["slow", "quick"])


def interrupted(script: Script) -> tuple[Line, Interrupt]:
    """The line whose reply is interrupted, and the cue of the one that does it."""
    for before, line in zip(script.lines, script.lines[1:], strict=False):
        if isinstance(line.when, Interrupt):
            return before, line.when
    raise AssertionError("nobody interrupts")


def seconds(text: str) -> float:
    return len(synthesize(text)) / 2 / 24_000


def writing_seconds(script: Script, text: str) -> float:
    """How long the model takes for a text; a word is one token or more."""
    return script.token_secs * len(text.split())


@CALLS
def test_the_interrupted_reply_is_long(script: Script):
    line, cue = interrupted(script)
    assert seconds(line.reply) >= 25
    assert cue.speaking_secs < 10


def test_the_slow_model_is_still_writing_when_it_is_interrupted():
    line, cue = interrupted(SUPPORT_CALL)
    first_sentence = line.reply.split(". ")[0]
    spoken_from = 1.0 + 2 * writing_seconds(SUPPORT_CALL, first_sentence)
    assert spoken_from + cue.speaking_secs < writing_seconds(SUPPORT_CALL, line.reply)


def test_the_quick_model_has_long_written_all_when_it_is_interrupted():
    line, cue = interrupted(QUICK_MODEL_CALL)
    assert 3 * writing_seconds(QUICK_MODEL_CALL, line.reply) < cue.speaking_secs


@CALLS
def test_the_join_request_is_one_the_api_accepts(script: Script):
    request = JoinRequest.model_validate(script.join_request())
    assert request.bot.greeting == script.greeting
    assert request.insights.json_schema == script.insights.schema


@CALLS
def test_the_expected_insights_fit_their_schema(script: Script):
    Draft202012Validator(dict(script.insights.schema)).validate(script.insights.expected)


@pytest.mark.parametrize("line", SUPPORT_CALL.lines, ids=lambda line: line.text[:20])
def test_each_line_gets_its_own_reply(line: Line):
    assert SUPPORT_CALL.reply_to(line.text) == line.reply
    assert SUPPORT_CALL.reply_to(line.text.upper().replace(",", "")) == line.reply


@pytest.mark.parametrize("line", SUPPORT_CALL.lines, ids=lambda line: line.text[:20])
def test_the_larger_part_of_a_line_gets_its_reply(line: Line):
    words = line.text.split()
    assert SUPPORT_CALL.reply_to(" ".join(words[: len(words) * 2 // 3])) == line.reply


def test_of_two_lines_in_one_message_the_later_is_answered():
    first, second = SUPPORT_CALL.lines[:2]
    assert SUPPORT_CALL.reply_to(f"{first.text} {second.text}") == second.reply


@pytest.mark.parametrize("said", ["", "(unintelligible)", "Zwölf Boxkämpfer"])
def test_what_is_nobodys_line_is_not_understood(said: str):
    assert SUPPORT_CALL.reply_to(said) == SUPPORT_CALL.not_understood


@given(st.text())
def test_there_is_a_reply_to_anything(said: str):
    assert SUPPORT_CALL.reply_to(said)


def test_without_lines_nothing_is_understood():
    empty = Script("prompt", "hello", (), SUPPORT_CALL.insights, hang_up=AfterBot(0.5))
    assert empty.reply_to("anything") == empty.not_understood
