"""Templates and the values that fill them."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from flow.domain.agents.system_variables import SYSTEM_VARIABLES, CallFacts
from flow.domain.agents.variables import (
    MAX_FILLED_CHARS,
    MAX_PROBLEMS,
    MAX_VALUE_CHARS,
    MAX_VARIABLES,
    Filling,
    Variables,
)
from flow.errors import InvalidInput

VALUES: dict[str, Any] = {
    "name": "Ada",
    "size": 4,
    "price": 2.5,
    "vip": True,
    "none": "",
    "_x1": "x",
}

FILLED = {
    "no placeholder }} { }": "no placeholder }} { }",
    "Hello {{name}}!": "Hello Ada!",
    "{{ name }} {{name|you}}": "Ada Ada",
    "{{size}} {{price}} {{vip}} {{_x1}}": "4 2.5 true x",
    "<{{none}}> <{{none|default}}>": "<> <>",
    "{{who|you}} {{who| you there }} <{{who|}}>": "you you there <>",
    "{{who|a|b}}": "a|b",
    "{{who|a}}}": "a}",
    "{{who|one\ntwo}}": "one\ntwo",
    r"\{{name}}": "{{name}}",
    r"\\{{name}}": r"\Ada",
    r"\\\{{name}}": r"\{{name}}",
    r"C:\dir\n": r"C:\dir\n",
    "{{name}}{{size}}": "Ada4",
}

REFUSED = {
    "Hello {{who}}": "needs the variable 'who': give it in variables, or write {{who|default}}",
    "{{flow.date}}": "there is no 'flow.date'; there are flow.agent",
    "{{flow.day|today}}": "there is no 'flow.day'",
    "{{flow.agent}}": "needs 'flow.agent', which is not known of this call: write {{flow.agent|",
    "{{name": "without }}",
    "{{first name}}": "names no variable",
    "{{1st}}": "names no variable",
    "{{}}": "names no variable",
    "{{" + "n" * 65 + "}}": "names no variable",
    "{{a.b}}": "names no variable",
    "{{who|{{name}}}}": "a default is plain text",
}


def filling(values: dict[str, Any] | None = None) -> Filling:
    return Filling(VALUES if values is None else values, reserved=("flow.agent",))


def problems(filled: Filling) -> list[tuple[str, str]]:
    with pytest.raises(InvalidInput) as raised:
        filled.check()
    return [(problem.field, problem.message) for problem in raised.value.problems]


@pytest.mark.parametrize(("template", "text"), FILLED.items(), ids=FILLED)
def test_a_template_is_filled(template: str, text: str) -> None:
    filled = filling()
    assert filled.text("bot.greeting", template) == text
    filled.check()


@pytest.mark.parametrize(("template", "said"), REFUSED.items(), ids=REFUSED)
def test_what_cannot_be_filled_is_refused_with_its_field(template: str, said: str) -> None:
    filled = filling()
    filled.text("bot.greeting", template)
    [(field, message)] = problems(filled)
    assert field == "bot.greeting"
    assert said in message


def test_templates_can_be_judged_before_there_are_values() -> None:
    filled = Filling({}, reserved=("flow.agent",), assumed="x")
    assert filled.text("f", "{{who}} {{flow.agent}} {{who|you}}") == "x x you"
    assert filled.url("f", "https://{{host}}.example/{{who}}") == "https://x.example/x"
    filled.check()
    filled.text("f", "{{flow.other}}")
    filled.text("f", "{{")
    assert len(problems(filled)) == 2


def test_no_answer_names_thousands_of_problems() -> None:
    filled = filling()
    filled.text("f", "".join(f"{{{{a{n}}}}}" for n in range(3_000)))
    assert len(problems(filled)) == MAX_PROBLEMS


def test_every_problem_is_named_once_in_its_field() -> None:
    filled = filling()
    filled.text("bot.greeting", "{{a}} {{b}} {{a}}")
    filled.text("bot.system_prompt", "{{a}}")
    assert [(field, message.split("'")[1]) for field, message in problems(filled)] == [
        ("bot.greeting", "a"),
        ("bot.greeting", "b"),
        ("bot.system_prompt", "a"),
    ]


@given(st.text(), st.text())
def test_a_value_is_never_read_as_a_template(value: str, around: str) -> None:
    filled = Filling({"v": value + "{{v}}", "w": around})
    assert filled.text("f", "{{v}}{{w}}") == value + "{{v}}" + around
    filled.check()


@given(st.text(st.sampled_from("a\\{}|"), max_size=20))
def test_a_text_escaped_stands_for_itself(text: str) -> None:
    escaped = re.sub(r"(\\*)\{\{", lambda found: found[1] * 2 + r"\{{", text)
    filled = Filling({})
    assert filled.text("f", escaped) == text
    filled.check()


@pytest.mark.parametrize("piece", ["\\", "{", r"\{{", "{{name}}"])
def test_a_long_text_is_read_in_a_moment(piece: str) -> None:
    began = time.process_time()
    Filling(VALUES).text("f", piece * (32_768 // len(piece)))
    assert time.process_time() - began < 0.5


@given(st.text(max_size=200))
def test_a_value_in_a_url_stays_where_it_stands(value: str) -> None:
    template = "https://api.example/v1/{{v}}/find?q={{v}}#{{v}}"
    filled = Filling({"v": value})
    url = urlsplit(filled.url("url", template))
    if {".", ".."} & {*re.split(r"[/\\]", value)}:
        assert "leads elsewhere" in problems(filled)[0][1]
        return
    filled.check()
    assert (url.scheme, url.netloc) == ("https", "api.example")
    _, first, second, last = url.path.split("/")
    assert (first, unquote(second), last) == ("v1", value, "find")
    assert unquote(url.query.removeprefix("q=")) == value
    assert unquote(url.fragment) == value


URLS_REFUSED = {
    "{{name}}": "cannot be the scheme",
    "{{name}}://x.example/": "cannot be the scheme",
    "https://{{slash}}/": "in the host",
    "https://{{at}}.example/": "in the host",
    "https://x.example/{{dots}}/y": "leads elsewhere",
    "https://x.example/a/.{{dot}}": "leads elsewhere",
    "https://x.example/a/%2e{{dot}}": "leads elsewhere",
    "https://x.example/a/{{up}}": "leads elsewhere",
    "https://x.example/a/{{back}}": "leads elsewhere",
}


@pytest.mark.parametrize(("template", "said"), URLS_REFUSED.items(), ids=URLS_REFUSED)
def test_a_value_cannot_lead_a_url_elsewhere(template: str, said: str) -> None:
    leading = {"slash": "evil.example/x", "at": "a@b", "dots": "..", "dot": "."}
    filled = filling(VALUES | leading | {"up": "b/../../admin", "back": "..\\admin"})
    filled.url("url", template)
    assert said in problems(filled)[0][1]


def test_a_value_may_be_a_part_of_the_host() -> None:
    filled = filling()
    assert filled.url("url", "https://{{name}}.example:{{size}}/") == "https://Ada.example:4/"
    filled.check()


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b", "Zoë", "a\x7f"])
def test_a_value_cannot_break_a_header(value: str) -> None:
    filled = Filling({"v": value})
    filled.header("headers.X-Tenant", "t-{{v}}")
    assert "printable ASCII" in problems(filled)[0][1]


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=5), st.text())
def test_a_value_in_json_is_a_string_of_that_value(extra: dict[str, str], value: str) -> None:
    body = {"who": "{{v}}", "list": [1, None, {"deep": "is {{v}}"}], "extra": {"k": len(extra)}}
    filled = Filling({"v": value})
    sent = json.loads(json.dumps(filled.json("body", body)))
    filled.check()
    assert sent["who"] == value
    assert sent["list"] == [1, None, {"deep": f"is {value}"}]
    assert sent["extra"] == {"k": len(extra)}


def test_a_problem_in_json_is_named_by_its_path() -> None:
    filled = filling()
    filled.json("tools.0.body", {"a": [{"b": "{{who}}"}]})
    assert problems(filled)[0][0] == "tools.0.body.a.0.b"


def test_a_long_value_cannot_be_multiplied_without_end() -> None:
    filled = Filling({"v": "x" * MAX_VALUE_CHARS})
    filled.text("f", "{{v}}" * (MAX_FILLED_CHARS // MAX_VALUE_CHARS))
    filled.check()
    filled.text("f", "{{v}}" * 6_000)
    assert "longer than" in problems(filled)[0][1]


TAKEN: list[Any] = [{}, VALUES, {"n": 10**30}, {"n": -0.0}, {"v": "x" * MAX_VALUE_CHARS}]
NOT_TAKEN: dict[str, Any] = {
    "null": {"v": None},
    "list": {"v": []},
    "object": {"v": {}},
    "long": {"v": "x" * (MAX_VALUE_CHARS + 1)},
    "NaN": {"v": float("nan")},
    "NUL": {"v": "\0"},
    "many": {f"v{n}": 1 for n in range(MAX_VARIABLES + 1)},
    "reserved": {"flow.date": "x"},
    "blank": {"first name": "x"},
    "newline": {"name\n": "x"},
}


@pytest.mark.parametrize("given_", TAKEN, ids=lambda given_: str(given_)[:20])
def test_variables_are_taken_as_they_are(given_: dict[str, Any]) -> None:
    taken = TypeAdapter(Variables).validate_python(given_)
    assert [*map(type, taken.values())] == [*map(type, given_.values())]
    assert taken == given_


@pytest.mark.parametrize("given_", NOT_TAKEN.values(), ids=NOT_TAKEN)
def test_variables_that_are_none_are_refused(given_: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(Variables).validate_python(given_)
    assert len(raised.value.errors()) == 1


def test_the_date_is_that_of_the_bots_time_zone() -> None:
    facts = CallFacts(UUID(int=7), datetime(2026, 11, 30, 23, 30, tzinfo=UTC), "table", "+49301")
    utc, berlin = facts.variables(None), facts.variables("Europe/Berlin")
    assert (utc["flow.date"], utc["flow.time"]) == ("2026-11-30", "23:30")
    assert (berlin["flow.date"], berlin["flow.time"]) == ("2026-12-01", "00:30")
    assert (utc["flow.weekday"], berlin["flow.weekday"]) == ("Monday", "Tuesday")
    assert set(utc) == set(SYSTEM_VARIABLES) - {"flow.called_number"}
