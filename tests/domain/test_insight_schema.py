"""Customers' JSON Schemas: which can be used, in what mode, and hostile ones."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from flow.domain.insights.insight_schema import (
    MAX_DEPTH,
    is_quick,
    rule_problem,
    schema_problem,
    strict_form,
    violations,
)
from flow.domain.insights.insights import DEFAULT_SCHEMA
from flow.errors import InvalidInput


def an_object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return {"type": "object", **schema}


def test_the_default_schema_qualifies_as_it_is():
    Draft202012Validator.check_schema(DEFAULT_SCHEMA)
    assert schema_problem(DEFAULT_SCHEMA) is None
    assert strict_form(DEFAULT_SCHEMA) == DEFAULT_SCHEMA


@pytest.mark.parametrize(
    "schema",
    [
        an_object(a={"$ref": "https://attacker.example/schema.json"}),
        an_object(a={"anyOf": [{"type": "null"}, {"$ref": "file:///etc/passwd"}]}),
        {"type": "object", "$defs": {"x": {"$ref": "other.json#/a"}}},
        an_object(a={"$dynamicRef": "#x"}),
        an_object(a={"type": "object", "patternProperties": {"^(a+)+$": {}}}),
        {"type": "object", "unevaluatedProperties": False},
        nested(MAX_DEPTH),
        nested(50_000),
        an_object(a={"const": nested(50_000)}),
        an_object(a={"pattern": "(?i)" + "[ -\uffff]" * 1_100}),
        an_object(a={"items": {"pattern": "(" * 2_000 + ")" * 2_000}}),
    ],
)
def test_a_schema_that_reaches_out_or_costs_without_bound_is_refused(schema):
    assert schema_problem(schema)


@pytest.mark.parametrize(
    "schema",
    [
        an_object(**{"$ref": {"type": "string"}, "patternProperties": {"type": "string"}}),
        an_object(a={"enum": [{"$ref": "https://example.com"}]}),
        {
            "type": "object",
            "$defs": {"x": {"type": "string"}},
            **an_object(a={"$ref": "#/$defs/x"}),
        },
        {"type": "object"},
    ],
)
def test_a_harmless_schema_is_not_refused(schema):
    assert schema_problem(schema) is None


@pytest.mark.parametrize(
    "schema",
    [
        an_object(a={"type": "string"}) | {"required": []},
        an_object(a={"type": "string"}) | {"additionalProperties": True},
        an_object(a={"type": "string", "default": "x"}),
        an_object(a={"oneOf": [{"type": "string"}]}),
        an_object(a={"type": "object"}),
        an_object(a={}),
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"type": "object"},
        an_object(a={"type": "string"}) | {"anyOf": [{"type": "object"}]},
        nested(12),
    ],
)
def test_what_does_not_qualify_for_strict_mode(schema):
    assert strict_form(schema) is None


def test_closing_an_object_is_all_that_strict_mode_changes():
    inner = an_object(b={"type": ["string", "null"]})
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **an_object(a={"type": "array", "items": inner}),
    }
    closed = {**inner, "additionalProperties": False}
    assert strict_form(schema) == {
        **an_object(a={"type": "array", "items": closed}),
        "additionalProperties": False,
    }
    assert "additionalProperties" not in inner


def test_violations_name_the_place():
    assert violations({"a": 1}, an_object(a={"type": "string"})) == [
        '$.a: 1 is not of type "string"'
    ]
    assert violations({"a": "x"}, an_object(a={"type": "string"})) == []


def test_only_so_many_violations_are_told():
    schema = an_object(**{f"p{n}": {} for n in range(50)})
    assert len(violations({}, schema, most=3)) == 3


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"list": [1, {"b c": "x"}]}, "$.list[1].b c: "),
        ({"list": [1, {"b c": 5}, 7, "x" * 10_000]}, "$.list[3]: "),
        ({"one": "x"}, "$: "),
    ],
)
def test_a_violation_says_where_and_what_in_a_few_words(data: Any, path: str):
    item = {"type": ["integer", "object"], "properties": {"b c": {"type": "integer"}}}
    schema = {"properties": {"list": {"items": item}}, "additionalProperties": False}
    [said] = violations(data, schema)
    assert said.startswith(path)
    assert len(said) < 400
    assert said.endswith(('type "integer"', 'types "integer", "object"', "was unexpected)"))


@pytest.mark.parametrize(
    "reference", ["#/$defs/none", "http://127.0.0.1:9/schema.json", "file:///etc/passwd", "other"]
)
def test_a_reference_that_leads_nowhere_or_out_is_not_followed(reference: str):
    """Those that lead out are only reached by who skips `schema_problem`."""
    schema = an_object(a={"$ref": reference})
    assert rule_problem(schema)
    with pytest.raises(InvalidInput):
        violations({"a": 1}, schema)


@pytest.mark.parametrize(
    ("pattern", "text", "holds"),
    [
        ("^(a+)+$", "a" * 30_000 + "!", False),
        ("^(a|a)*$", "a" * 30_000, True),
        ("b", "abc", True),
        ("^b", "abc", False),
        (r"^\d{4}-\d{2}$", "2026-11", True),
        # A linear-time engine has no look-around: not checked.
        (r"^(?!x)", "x", True),
    ],
)
def test_patterns_are_checked_in_linear_time(pattern, text, holds):
    found = violations({"a": text}, an_object(a={"type": "string", "pattern": pattern}))
    assert (found == []) is holds


EMAIL = r"^(?!\.)(?!.*\.\.)([\w'+\-.]*)[\w+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"^\d{4}-\d{2}$", r"^\/a\-b$", r"^[\p{L} '-]{1,100}$", r"^\w{1,900}$", "(?i)^yes|no$"),
        *(r"^.{1,200}$", r"(?<year>\d+)", EMAIL, r"(?<=a)b", r"(a)\1"),
    ],
)
def test_a_pattern_that_people_write_is_taken(pattern: str):
    schema = an_object(a={"type": "string", "pattern": pattern})
    assert (schema_problem(schema), rule_problem(schema)) == (None, None)


@pytest.mark.parametrize(
    "pattern",
    [
        *("a{99999999999}", "(" * 2_000 + ")" * 2_000, "(?=" * 2_000 + ")" * 2_000),
        *("[", "a{3,1}", r"\Aa\Z", r"[^\p{L}]{500}", "(((a{50}){50}){50}){50}"),
    ],
    ids=lambda text: text[:12],
)
def test_a_pattern_that_cannot_be_used_is_named_with_its_place(pattern: str):
    schema = an_object(a={"items": {"anyOf": [{}, {"pattern": pattern}]}})
    found = rule_problem(schema) or ""
    assert found.startswith("properties.a.items.anyOf.1.pattern: is no regular expression")
    assert len(found) < 200


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"properties": {"a": {"type": "strin"}}}, "properties.a.type: "),
        ({"properties": {"a": 3}}, "properties.a: "),
        ({"required": "a"}, "required: "),
        ({"minimum": "x"}, "minimum: "),
        ({"$anchor": "a b"}, "$anchor: "),
        ({"$ref": "#/%zz"}, "the schema: "),
        ({"enum": "x" * 10_000}, "enum: "),
        ({"enum": ["\ud800"]}, "must not contain half of a surrogate pair"),
    ],
)
def test_a_schema_that_is_none_is_named_with_the_place(schema: dict[str, Any], said: str):
    found = rule_problem(schema) or ""
    assert said in found
    assert len(found) < 400


QUICK_SCHEMA = {"type": "object", "properties": {"pattern_": {"enum": ["pattern", "$ref"]}}}


@pytest.mark.parametrize(
    ("schema", "answer", "quick"),
    [
        (DEFAULT_SCHEMA, "x" * 30_000, True),
        (QUICK_SCHEMA, "", True),
        (QUICK_SCHEMA, "x" * 70_000, False),
        (an_object(a={"enum": list(range(2_000))}), "x" * 2_000, False),
        (an_object(a={"pattern": "^x"}), "", False),
        (an_object(a={"items": [{"$ref": "#"}]}), "", False),
        (an_object(a={"unknown": {"dependencies": {"a": {"$recursiveRef": "#"}}}}), "", False),
    ],
)
def test_what_is_quick_has_neither_patterns_nor_references(
    schema: dict[str, Any], answer: str, quick: bool
):
    assert is_quick(schema, answer) is quick


def heavy(leaf: dict[str, Any], arms: int, depth: int, key: str = "anyOf") -> dict[str, Any]:
    schema = leaf
    for _ in range(depth):
        schema = {key: [schema, *[leaf] * arms]}
    return {"type": "object", "additionalProperties": schema}


LEAF = {"type": "string", "maxLength": 1}
HEAVIEST = [
    ({"type": "object", "additionalProperties": {"items": {"uniqueItems": True}}}, "[[{}],[{}]]"),
    ({"type": "object", "additionalProperties": {"uniqueItems": True}}, "{},"),
    (heavy(LEAF, 7, 25), "1,"),
    (heavy(LEAF, 7, 25, "oneOf"), '"xx",'),
    (heavy(LEAF, 7, 25, "allOf"), '"xx",'),
    (an_object(a={"items": {"enum": [{"x": n} for n in range(1_200)]}}), '{"x":9},'),
    (an_object(a={"contains": {"multipleOf": 1e-9}, "minContains": 9}), "1e300,"),
]


@pytest.mark.parametrize(("schema", "item"), HEAVIEST)
def test_the_heaviest_that_is_quick_holds_up_the_event_loop_for_a_moment_only(
    schema: dict[str, Any], item: str
):
    longest = next(
        items
        for count in (30_000, 10_000, 3_000, 1_000, 300, 100, 30, 10)
        if is_quick(schema, items := '{"a": [' + (item * count).strip(",") + "]}")
    )
    data = json.loads(longest.replace("][", "],["))
    began = time.process_time()
    assert schema_problem(schema) is None
    assert rule_problem(schema) is None
    violations(data, schema)
    assert time.process_time() - began < 0.2


def test_a_pattern_says_nothing_of_what_is_no_string():
    assert violations({"a": 1}, an_object(a={"pattern": "^x"})) == []


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "allOf": [{}] * 8000},
        {"type": "object", "anyOf": [True] * 5000},
        {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(1100)}},
        {"type": "object", "$defs": {f"d{n}": {"items": {"not": {}}} for n in range(200)}},
    ],
    ids=["allOf", "anyOf-true", "properties", "nested"],
)
def test_a_schema_of_too_many_parts_is_refused(schema: dict[str, Any]) -> None:
    assert "more than 256 schemas" in str(schema_problem(schema))


def test_a_large_honest_schema_is_taken() -> None:
    properties = {f"p{n}": {"type": "string"} for n in range(200)}
    assert schema_problem({"type": "object", "properties": properties}) is None
