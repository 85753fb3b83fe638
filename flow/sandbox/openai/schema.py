"""A value that is valid for a JSON Schema, always the same one for the same schema and text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from jsonschema import Draft202012Validator

from flow.sandbox.openai.pattern import matching
from flow.sandbox.openai.schema_parts import (
    NoExample,
    Schema,
    a_number,
    another,
    as_object,
    extra_property,
    guessed_type,
    merged,
)

_DEEPEST = 24
_EXCERPT = 240
_PROSE = re.compile(r"summar|overview|descri|abstract|note|transcript|text|content", re.IGNORECASE)

_KNOWN = {"language": "en", "locale": "en-US"}
_FORMATS = {
    "date-time": "2026-01-15T09:30:00Z",
    "date": "2026-01-15",
    "time": "09:30:00Z",
    "duration": "PT15M",
    "email": "caller@example.com",
    "idn-email": "caller@example.com",
    "hostname": "example.com",
    "idn-hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "7f2f8f1c-6a53-4c0e-9a55-1d6a7a5b3c11",
    "uri": "https://example.com/",
    "uri-reference": "/example",
    "iri": "https://example.com/",
    "iri-reference": "/example",
    "json-pointer": "/example",
    "regex": "example",
}


def example(schema: Schema, about: str = "") -> Any:
    """A value valid for the schema; prose fields hold an excerpt of ``about``.

    Optional properties are filled in until nesting gets deep, so that a recursive schema ends.

    Raises:
        NoExample: no valid value was found.
    """
    try:
        value = _Writer(schema, about).write(schema, "", 0)
    except RecursionError:
        raise NoExample("the schema refers to itself without an end") from None
    if not Draft202012Validator(schema).is_valid(value):
        raise NoExample("no valid value was found for the schema")
    return value


class _Writer:
    def __init__(self, root: Schema, about: str) -> None:
        self._root = root
        self._about = " ".join(about.split())

    def write(self, schema: Schema, name: str, depth: int) -> Any:
        """A value for a part of the schema; ``name`` is that of the property it is for."""
        if schema is True or schema == {}:
            return self._words(name)
        if schema is False or depth > _DEEPEST:
            raise NoExample("nothing is allowed here" if schema is False else "too deep")
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return self._one_of(schema, keyword, name, depth)
        if "enum" in schema:
            return self._first_valid(schema, schema["enum"])
        return self._of_type(schema, name, depth)

    def _resolved(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """The schema with its reference and its ``allOf`` merged in."""
        whole = {k: v for k, v in schema.items() if k not in ("$ref", "allOf")}
        parts = [self._target(schema["$ref"])] if "$ref" in schema else []
        for part in [*parts, *schema.get("allOf", [])]:
            if part is False:
                raise NoExample("nothing is allowed here")
            whole = merged(whole, self._resolved(part if isinstance(part, dict) else {}))
        return whole

    def _target(self, ref: str) -> Schema:
        if not ref.startswith("#"):
            raise NoExample(f"the reference {ref!r} leads out of the schema")
        found = self._root
        for step in ref.lstrip("#").split("/")[1:]:
            key = unquote(step).replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(key)] if isinstance(found, list) else found[key]
            except (KeyError, IndexError, ValueError, TypeError):
                raise NoExample(f"the reference {ref!r} leads nowhere") from None
        return found

    def _one_of(self, schema: dict[str, Any], keyword: str, name: str, depth: int) -> Any:
        """The first branch that leads somewhere. Near the bottom, the plainest are tried first."""
        rest = {k: v for k, v in schema.items() if k != keyword}
        branches = schema[keyword]
        if depth > 3:
            branches = sorted(branches, key=lambda b: len(str(self._peek(b))))
        for branch in branches:
            try:
                value = self.write({"allOf": [rest, branch]}, name, depth + 1)
            except NoExample:
                continue
            if self._is_valid(schema, value):
                return value
        raise NoExample(f"no branch of {keyword} can be filled in")

    def _peek(self, branch: Schema) -> Schema:
        return self._resolved(branch) if isinstance(branch, dict) else branch

    def _first_valid(self, schema: dict[str, Any], values: list[Any]) -> Any:
        for value in values:
            if self._is_valid(schema, value):
                return value
        raise NoExample("no member of the enum is valid")

    def _is_valid(self, schema: dict[str, Any], value: Any) -> bool:
        shared = {k: self._root[k] for k in ("$defs", "definitions") if k in as_object(self._root)}
        validator = Draft202012Validator({**shared, **schema})
        try:
            return bool(validator.is_valid(value))
        except Exception:  # a reference to the root or into a part: left to the final check
            return True

    def _of_type(self, schema: dict[str, Any], name: str, depth: int) -> Any:
        types = schema.get("type") or guessed_type(schema)
        writers: dict[str, Callable[[], Any]] = {
            "object": lambda: self._an_object(schema, depth),
            "array": lambda: self._an_array(schema, name, depth),
            "string": lambda: self._a_string(schema, name),
            "integer": lambda: a_number(schema, whole=True),
            "number": lambda: a_number(schema, whole=False),
            "boolean": lambda: True,
            "null": lambda: None,
        }
        problem: NoExample | None = None
        for kind in [types] if isinstance(types, str) else types:
            try:
                return writers[kind]()
            except (NoExample, KeyError) as error:
                problem = NoExample(str(error))
        raise problem or NoExample("no type is allowed")

    def _an_object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        required = set(schema.get("required", []))
        written: dict[str, Any] = {}
        for key, part in schema.get("properties", {}).items():
            if key not in required and depth > 4:
                continue
            try:
                written[key] = self.write(part, key, depth + 1)
            except NoExample:
                if key in required:
                    raise
        for key in sorted(required - written.keys()):
            written[key] = self.write(extra_property(schema, key), key, depth + 1)
        while len(written) < schema.get("minProperties", 0):
            key = f"extra_{len(written) + 1}"
            written[key] = self.write(extra_property(schema, key), key, depth + 1)
        return written

    def _an_array(self, schema: dict[str, Any], name: str, depth: int) -> list[Any]:
        first = schema.get("prefixItems", [])
        least = max(schema.get("minItems", 0), schema.get("minContains", int("contains" in schema)))
        most = schema.get("maxItems", max(least, 1 if depth < 5 else 0, len(first)))
        items: list[Any] = [self.write(part, name, depth + 1) for part in first[:most]]
        rest = schema.get("contains", schema.get("items", True))
        while len(items) < min(max(least, 1 if depth < 5 else 0), most):
            try:
                item = self.write(rest, name, depth + 1)
            except NoExample:
                if len(items) < least:
                    raise
                break
            items.append(another(item, rest, items) if schema.get("uniqueItems") else item)
        return items

    def _a_string(self, schema: dict[str, Any], name: str) -> str:
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        if pattern := schema.get("pattern"):
            text = matching(pattern, least)
            if text is None:
                raise NoExample(f"no string was found for the pattern {pattern!r}")
            return text
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        text = self._words(name)
        while len(text) < least:
            text += f" {self._words(name)}"
        return text[:most].ljust(least, ".")

    def _words(self, name: str) -> str:
        if self._about and (not name or _PROSE.search(name)):
            return self._about[:_EXCERPT]
        if name.lower() in _KNOWN:
            return _KNOWN[name.lower()]
        return " ".join(["example", *re.findall(r"[A-Za-z0-9]+", name)]).lower()
