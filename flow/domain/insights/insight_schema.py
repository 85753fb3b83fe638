"""A customer's JSON Schema: whether it can be used, and whether an answer keeps to it.

The schema and the answer come from outside. Looking at them fetches nothing, and runs regular
expressions on an engine that does not backtrack. The time it takes is bounded only for a schema
that `is_quick`; `flow.insights.schema_checker` bounds it for all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import islice
from typing import Any

from jsonschema_rs import (
    Draft202012Validator,
    FancyRegexOptions,
    RegexOptions,
    ValidationError,
    ValidationErrorKind,
)

from flow.errors import InvalidInput

MAX_DEPTH = 64
"""Of objects and arrays within each other; one level of a schema takes about two."""
MAX_SUBSCHEMAS = 256
MAX_PATTERN = 2_048
"""Characters of a pattern. With case folded, each may take 0.1 ms to read."""
MAX_PATTERN_BYTES = 8 * 1024 * 1024
r"""Of a compiled pattern. ``[\p{L} '-]{1,100}`` takes 4.4 MB, ``.{1,1000}`` 1.1 MB."""
QUICK_WORK = 2_000_000
"""Values in a schema times characters of an answer. The default schema has 60 values."""
QUICK_ANSWER = 64 * 1024

# Evaluating these runs regular expressions or follows references beyond what `is_quick` sees.
_REFUSED = ("patternProperties", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef")
# What may take longer than in proportion to its length.
_SLOW = {
    *("pattern", "patternProperties", "$ref", "$dynamicRef", "$recursiveRef", "$id", "$schema"),
    *("unevaluatedItems", "unevaluatedProperties"),
}

_MAPS = {"properties", "$defs", "definitions", "dependentSchemas", "patternProperties"}
_LISTS = {"allOf", "anyOf", "oneOf", "prefixItems"}
_SINGLE = {
    *("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else"),
    *("unevaluatedItems", "unevaluatedProperties", "additionalItems"),
}
_LINEAR = RegexOptions(size_limit=MAX_PATTERN_BYTES)
_BACKTRACKING = FancyRegexOptions(size_limit=MAX_PATTERN_BYTES)

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

    This looks at its form and takes a few milliseconds at the most. That it follows the rules of
    JSON Schema is for `rule_problem` to say.
    """
    if is_deeper(schema, MAX_DEPTH):
        return f"The schema is nested more than {MAX_DEPTH} levels deep."
    subschemas = 0
    for part, _ in _parts(schema):
        subschemas += sum(1 for _ in _inner(part))
        if subschemas > MAX_SUBSCHEMAS:
            return f"The schema has more than {MAX_SUBSCHEMAS} schemas within it."
        for keyword in _REFUSED:
            if keyword in part:
                return f"The schema uses {keyword}, which is not supported here."
        if len(str(part.get("pattern", ""))) > MAX_PATTERN:
            return f"The schema has a pattern of more than {MAX_PATTERN} characters."
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


def is_quick(schema: dict[str, Any], answer: str = "") -> bool:
    """Whether `rule_problem`, or `violations` of the JSON text ``answer``, is done at once.

    That is some 20 ms at the most. Without patterns and references, a validator looks no more
    than once at each value with each part of the schema.
    """
    if len(answer) > QUICK_ANSWER:
        return False
    values = 0
    waiting: list[Any] = [schema]
    while waiting:
        value = waiting.pop()
        values += 1
        if isinstance(value, dict):
            if not _SLOW.isdisjoint(value):
                return False
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return values * len(answer) <= QUICK_WORK


def rule_problem(schema: dict[str, Any]) -> str | None:
    """Where a schema breaks the rules of JSON Schema 2020-12, or ``None`` if it keeps to them.

    Its patterns must be regular expressions of ECMA-262 that are not too large when compiled, and
    its references must lead somewhere.
    """
    try:
        _validator(schema)
    except ValidationError as error:
        where = ".".join(map(str, error.instance_path)) or "the schema"
        match error.kind:
            case ValidationErrorKind.Format(format="regex"):
                return f"{where}: is no regular expression (of ECMA-262), or one that is too large"
            case _:
                return f"not a JSON Schema: {where}: {_short(error.message)}"
    except ValueError:
        return "must not contain half of a surrogate pair"
    return None


def violations(data: Any, schema: dict[str, Any], most: int = 5) -> list[str]:
    """What is wrong with ``data``, ``most`` sentences at the most; empty when it is valid.

    ``pattern`` is checked by a linear-time engine; a pattern it does not know (look-around,
    back-references) is not checked. ``format`` is not checked.

    Raises:
        InvalidInput: the schema cannot be evaluated.
    """
    try:
        validator = _validator(schema)
    except ValueError as error:
        raise InvalidInput(f"The schema cannot be evaluated: {_short(str(error))}") from None
    if validator.is_valid(data):
        return []
    errors = islice(validator.iter_errors(data), most)
    return [f"{_json_path(error.instance_path)}: {_short(error.message)}" for error in errors]


def _validator(schema: dict[str, Any]) -> Draft202012Validator:
    """Raises `ValidationError` when it is no schema, and `ValueError` when it is no text."""
    try:
        return _compiled(schema)
    except ValidationError:
        return _compiled(_without_unknown_patterns(schema))


def _compiled(schema: dict[str, Any]) -> Draft202012Validator:
    # Without ``offline`` it would fetch the documents that a schema refers to.
    return Draft202012Validator(
        schema, pattern_options=_LINEAR, validate_formats=False, offline=True
    )


def _without_unknown_patterns(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without what only an engine that backtracks could check."""
    known = deepcopy(schema)
    for part, _ in _parts(known):
        pattern = part.get("pattern")
        if isinstance(pattern, str) and _needs_backtracking(pattern):
            del part["pattern"]
    return known


def _needs_backtracking(pattern: str) -> bool:
    return not _compiles(pattern, _LINEAR) and _compiles(pattern, _BACKTRACKING)


def _compiles(pattern: str, options: RegexOptions | FancyRegexOptions) -> bool:
    try:
        Draft202012Validator({"pattern": pattern}, pattern_options=options, offline=True)
    except ValidationError:
        return False
    return True


def _json_path(path: Sequence[str | int]) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "$" + "".join(steps)


def _short(message: str, most: int = 300) -> str:
    """The message without its middle: a value that it quotes may be of any length."""
    if len(message) <= most:
        return message
    return f"{message[: most // 2]} … {message[-most // 2 :]}"


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


def is_deeper(value: Any, levels: int) -> bool:
    """Whether objects and arrays are within each other for more than so many levels."""
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
