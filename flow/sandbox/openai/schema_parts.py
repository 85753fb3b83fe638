"""Parts of finding a value for a JSON Schema: merging schemas, numbers, values unlike others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator

Schema = Any
"""A JSON Schema as parsed JSON: an object, or ``True`` or ``False``."""


class NoExample(ValueError):
    """The schema allows nothing, or nothing that can be found here."""


def as_object(value: Any) -> Mapping[str, Any]:
    """The schema when it is an object, nothing when it is ``True`` or ``False``."""
    return value if isinstance(value, dict) else {}


def guessed_type(schema: dict[str, Any]) -> str:
    """The type a schema without one is about."""
    hints = {
        "object": {"properties", "required", "additionalProperties", "minProperties"},
        "array": {"items", "prefixItems", "minItems", "contains", "uniqueItems"},
        "number": {"minimum", "maximum", "multipleOf", "exclusiveMinimum", "exclusiveMaximum"},
    }
    return next((kind for kind, keys in hints.items() if keys & schema.keys()), "string")


def extra_property(schema: dict[str, Any], key: str) -> Schema:
    """What a property that ``properties`` does not name must be."""
    for pattern, part in schema.get("patternProperties", {}).items():
        if re.search(pattern, key):
            return part
    return schema.get("additionalProperties", True)


def another(item: Any, schema: Schema, taken: list[Any]) -> Any:
    """A value unlike those taken: the next of the enum, the next number, a numbered string."""
    choices = as_object(schema).get("enum", [])
    if choices:
        return next((choice for choice in choices if choice not in taken), item)
    if item not in taken:
        return item
    if isinstance(item, str):
        number = str(len(taken) + 1)
        longest = as_object(schema).get("maxLength", len(item) + len(number) + 1)
        return f"{item[: longest - len(number) - 1]} {number}"
    if isinstance(item, int | float) and not isinstance(item, bool):
        return item + len(taken) * as_object(schema).get("multipleOf", 1)
    return not item if isinstance(item, bool) else item


def a_number(schema: dict[str, Any], *, whole: bool) -> int | float:
    """A number within the bounds; 1 where it may be."""
    step = schema.get("multipleOf", 1)
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    starts = [1, 0, low, high] if low is None or low <= 0 else [low, high]
    for start in (s for s in starts if s is not None):
        nearest = round(start / step) * step
        for value in (nearest, nearest + step, nearest - step, start, _between(low, high)):
            value = int(value) if whole or value == int(value) else value
            if Draft202012Validator({**_bounds(schema), "type": "number"}).is_valid(value):
                return value
    raise NoExample("no number is within the bounds")


def _between(low: float | None, high: float | None) -> float:
    return (low + high) / 2 if low is not None and high is not None else 0


def _bounds(schema: dict[str, Any]) -> dict[str, Any]:
    keys = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
    return {key: schema[key] for key in keys if key in schema}


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A schema that asks for both, for the keywords where that is plain."""
    whole = {**one, **other}
    for key in one.keys() & other.keys():
        a, b = one[key], other[key]
        if key == "properties":
            whole[key] = {k: _both(a.get(k), b.get(k)) for k in {**a, **b}}
        elif key == "required":
            whole[key] = [*a, *(name for name in b if name not in a)]
        elif key == "enum":
            whole[key] = [value for value in a if value in b]
        elif key == "type":
            whole[key] = _common_type(a, b)
        elif key in ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"):
            whole[key] = max(a, b)
        elif key in ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"):
            whole[key] = min(a, b)
    return whole


def _both(a: Schema | None, b: Schema | None) -> Schema:
    if a is None or b is None:
        return b if a is None else a
    return {"allOf": [a, b]}


def _common_type(a: Any, b: Any) -> list[str]:
    left, right = ([t] if isinstance(t, str) else t for t in (a, b))
    common = [t for t in left if t in right]
    if "integer" in (*left, *right) and "number" in (*left, *right):
        common.append("integer")
    return common
