"""Customers' JSON Schemas: which can be used, in what mode, and hostile ones."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from flow.domain.insights.insight_schema import MAX_DEPTH, schema_problem, strict_form, violations
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
        "$.a: 1 is not of type 'string'"
    ]
    assert violations({"a": "x"}, an_object(a={"type": "string"})) == []


def test_only_so_many_violations_are_told():
    schema = an_object(**{f"p{n}": {} for n in range(50)})
    assert len(violations({}, schema, most=3)) == 3


def bomb() -> dict[str, Any]:
    defs = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    return {"type": "object", "$defs": {**defs, "d40": {}}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "$ref": "#"},
        {"type": "object", "allOf": [{"$ref": "#/$defs/none"}]},
        # Only reached by who skips `schema_problem`: still nothing is fetched.
        {"type": "object", "$ref": "http://127.0.0.1:9/schema.json"},
        bomb(),
    ],
)
def test_a_schema_that_cannot_be_evaluated_ends_with_an_error(schema):
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
