"""A customer's JSON Schema: whether it can be used, and whether an answer keeps to it.

The schema and the answer come from outside. Looking at them must not fetch anything, must end
in bounded time, and must not run a customer's regular expression on an engine that backtracks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend
from pydantic_core import SchemaError, SchemaValidator, core_schema
from referencing import Registry
from referencing.exceptions import Unresolvable

from flow.errors import InvalidInput

MAX_DEPTH = 64
"""Of objects and arrays within each other; one level of a schema takes about two."""
MAX_SUBSCHEMAS = 256
"""Each takes about a millisecond to check against the rules of JSON Schema."""
MAX_STEPS = 20_000
"""Keyword checks of one validation; the largest honest case needs a few thousand."""

# Evaluating these runs regular expressions or follows references outside the counted steps.
_REFUSED = ("patternProperties", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef")

_MAPS = {"properties", "$defs", "definitions", "dependentSchemas", "patternProperties"}
_LISTS = {"allOf", "anyOf", "oneOf", "prefixItems"}
_SINGLE = {
    *("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else"),
    *("unevaluatedItems", "unevaluatedProperties", "additionalItems"),
}

# https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
_STRICT_KEYWORDS = {
    *("type", "properties", "required", "additionalProperties", "items", "enum", "const"),
    *("anyOf", "$ref", "$defs", "title", "description", "pattern", "format", "multipleOf"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"),
}
_STRICT_DEPTH = 10
_STRICT_PROPERTIES = 5000


def schema_problem(schema: dict[str, Any]) -> str | None:
    """Why a schema cannot be used for insights, in one sentence, or ``None`` if it can.

    That it follows the rules of JSON Schema is for `flow.domain.calls.join_request` to check,
    afterwards: this keeps that check short.
    """
    if _is_deeper(schema, MAX_DEPTH):
        return f"The schema is nested more than {MAX_DEPTH} levels deep."
    subschemas = 0
    for part, _ in _parts(schema):
        subschemas += sum(1 for _ in _inner(part))
        if subschemas > MAX_SUBSCHEMAS:
            return f"The schema has more than {MAX_SUBSCHEMAS} schemas within it."
        for keyword in _REFUSED:
            if keyword in part:
                return f"The schema uses {keyword}, which is not supported here."
        reference = part.get("$ref")
        if reference is not None and not str(reference).startswith("#"):
            return "The schema refers to another document; only references within it are followed."
    return None


def strict_form(schema: dict[str, Any]) -> dict[str, Any] | None:
    """The schema as OpenAI's strict mode takes it, or ``None`` when it does not qualify.

    Strict mode wants every object closed and every property required. Closing an object whose
    schema left that open only narrows what may be answered, so it is done here; making a
    property required would change what the customer gets, so it is not.
    """
    strict = deepcopy(schema)
    strict.pop("$schema", None)
    properties = 0
    for part, depth in _parts(strict):
        if depth > _STRICT_DEPTH or not part.keys() <= _STRICT_KEYWORDS:
            return None
        if not part.keys() & {"type", "anyOf", "$ref", "enum", "const"}:
            return None
        if "object" in _types(part) and not _close(part):
            return None
        properties += len(part.get("properties", ()))
    return strict if "anyOf" not in strict and properties <= _STRICT_PROPERTIES else None


def violations(data: Any, schema: dict[str, Any], most: int = 5) -> list[str]:
    """What is wrong with ``data``, ``most`` sentences at the most; empty when it is valid.

    ``pattern`` is checked by a linear-time engine; a pattern it does not know (look-around,
    back-references) is not checked. ``format`` is not checked.

    Raises:
        InvalidInput: the schema cannot be evaluated, or not within `MAX_STEPS`.
    """
    steps = iter(range(MAX_STEPS))

    def spend() -> None:
        if next(steps, None) is None:
            raise InvalidInput("The schema takes too long to check an answer against.")

    rules = {**Draft202012Validator.VALIDATORS, "pattern": _pattern}
    counted = {name: _counted(rule, spend) for name, rule in rules.items()}
    # A registry of our own: the default one fetches what it does not know.
    checker = extend(Draft202012Validator, counted)  # type: ignore[no-untyped-call]
    validator = checker(schema, registry=Registry())
    try:
        errors = list(islice(validator.iter_errors(data), most))
    except Unresolvable:
        raise InvalidInput("The schema refers to something it does not contain.") from None
    except RecursionError:
        raise InvalidInput("The schema refers to itself without end.") from None
    except ArithmeticError:
        return ["$: a number is too large to be checked"]
    return [f"{error.json_path}: {error.message[:300]}" for error in errors]


Rule = Callable[[Any, Any, Any, Any], Any]


def _counted(rule: Rule, spend: Callable[[], None]) -> Rule:
    def checked(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        spend()
        return rule(validator, value, instance, schema)

    return checked


def _pattern(
    validator: Any, pattern: str, instance: Any, _schema: Any
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "string"):
        return
    try:
        regex = SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError:
        return
    if not regex.isinstance_python(instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _parts(schema: Any) -> Iterator[tuple[dict[str, Any], int]]:
    """Every object within the schema that is a schema itself, with its depth."""
    waiting = [(schema, 0)]
    while waiting:
        part, depth = waiting.pop()
        if not isinstance(part, dict):
            continue
        yield part, depth
        waiting += [(inner, depth + 1) for inner in _inner(part)]


def _inner(part: dict[str, Any]) -> Iterator[Any]:
    for keyword, value in part.items():
        if keyword in _MAPS and isinstance(value, dict):
            yield from value.values()
        elif keyword in _LISTS and isinstance(value, list):
            yield from value
        elif keyword in _SINGLE:
            yield value


def _is_deeper(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        nests = [v for v in layer if isinstance(v, dict | list)]
        layer = [v for nest in nests for v in (nest.values() if isinstance(nest, dict) else nest)]
    return any(isinstance(v, dict | list) for v in layer)


def _types(part: dict[str, Any]) -> list[Any]:
    declared = part.get("type", [])
    return declared if isinstance(declared, list) else [declared]


def _close(part: dict[str, Any]) -> bool:
    properties = part.get("properties")
    if not properties or set(part.get("required", ())) != set(properties):
        return False
    return part.setdefault("additionalProperties", False) is False
