"""Which JSON Schemas OpenAI accepts in strict mode (its guide to Structured Outputs)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_NOT_PERMITTED = (
    *("allOf", "oneOf", "not", "if", "then", "else"),
    *("dependentRequired", "dependentSchemas", "patternProperties", "unevaluatedProperties"),
)


def refusal_of(schema: Any) -> str | None:
    """Why strict mode refuses the schema, in the API's words, or ``None`` when it does not."""
    if not isinstance(schema, dict) or schema.get("type") != "object":
        kind = schema.get("type") if isinstance(schema, dict) else None
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{kind}\"'."
    if "anyOf" in schema:
        return "schema must have type 'object' and not have 'anyOf' at the top level."
    return next(_problems(schema, ()), None)


def _problems(schema: Any, context: tuple[str, ...]) -> Iterator[str]:
    if not isinstance(schema, dict):
        return
    for keyword in _NOT_PERMITTED:
        if keyword in schema:
            yield f"In context={context}, '{keyword}' is not permitted."
    if schema.get("type") == "object" or "properties" in schema:
        yield from _object_problems(schema, context)
    for path, part in _parts(schema):
        yield from _problems(part, (*context, *path))


def _object_problems(schema: dict[str, Any], context: tuple[str, ...]) -> Iterator[str]:
    if schema.get("additionalProperties") is not False:
        yield (
            f"In context={context}, 'additionalProperties' is required to be supplied and to be"
            " false."
        )
    missing = schema.get("properties", {}).keys() - set(schema.get("required", []))
    if missing:
        yield (
            f"In context={context}, 'required' is required to be supplied and to be an array"
            f" including every key in properties. Missing '{min(missing)}'."
        )


def _parts(schema: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for keyword in ("properties", "$defs", "definitions"):
        for name, part in (schema.get(keyword) or {}).items():
            yield (keyword, name), part
    for keyword in ("anyOf", "prefixItems"):
        for number, part in enumerate(schema.get(keyword) or []):
            yield (keyword, str(number)), part
    yield ("items",), schema.get("items")
