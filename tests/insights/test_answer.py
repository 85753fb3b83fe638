"""Judging what a model answered."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flow.insights.answer import Answer, judge, parse_object

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


def answer(text: str = '{"a": "x"}', refusal: str | None = None, finish: str = "stop") -> Answer:
    return Answer(text, refusal, finish, "gpt-4.1-mini")


@pytest.mark.parametrize(
    ("given_answer", "reason"),
    [
        (answer(), None),
        (answer("", refusal="I can't help with that."), "refused"),
        (answer(finish="content_filter"), "refused"),
        (answer('{"a": "x', finish="length"), "truncated"),
        (answer(""), "invalid_output"),
        (answer("Sure! Here is the JSON."), "invalid_output"),
        (answer("[1]"), "invalid_output"),
        (answer('{"a": 1}'), "invalid_output"),
        (answer("{}"), "invalid_output"),
    ],
)
def test_verdicts(given_answer, reason):
    verdict = judge(given_answer, SCHEMA)
    assert verdict.reason == reason
    assert (verdict.data == {"a": "x"}) is (reason is None)


def test_a_detail_never_quotes_the_answer():
    verdict = judge(answer('{"a": ["a secret"]}'), SCHEMA)
    assert "secret" not in (verdict.detail or "")
    assert "secret" in verdict.problems[0]


def test_a_schema_that_cannot_be_evaluated_is_no_fault_of_the_answer():
    assert judge(answer(), {"type": "object", "$ref": "#/none"}).reason == "unusable_schema"


@pytest.mark.parametrize(
    "text",
    [
        '{"a": NaN}',
        '{"a": Infinity}',
        '{"a": 1e999}',
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"a": ' + "9" * 5000 + "}",
        '{"a": ' * 65 + "1" + "}" * 65,
        '"a"',
        "null",
        "",
    ],
    ids=lambda text: text[:12],
)
def test_what_is_no_storable_json_object_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse_object(text)


def test_what_postgres_cannot_keep_is_taken_out():
    parsed = parse_object('{"a\\u0000": ["x\\u0000y", {"b": "\\ud800z"}], "c": "\\ud83d\\ude00"}')
    assert parsed == {"a": ["xy", {"b": "z"}], "c": "😀"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def texts(value):
    """Every string in a JSON value, names too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


@settings(max_examples=50)
@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_every_object_comes_back_without_nul(value):
    parsed = parse_object(json.dumps(value))
    assert "\x00" not in "".join(texts(parsed))
    if "\x00" not in "".join(texts(value)):
        assert parsed == value
